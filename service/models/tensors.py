"""Tensors of the Open Inference Protocol: JSON, and bytes behind it, to arrays and back.

    inference-header-content-length: N
    body: N bytes of JSON | bytes of the first binary tensor | of the second | ...

KServe's Open Inference Protocol (V2), with Triton's extension for binary tensors.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contracts.faults import first_fault
from service.errors import BadRequest, Unprocessable
from service.schemas import Wire

HEADER = b"inference-header-content-length"
SIZE, BINARY, ALL_BINARY = "binary_data_size", "binary_data", "binary_data_output"
DATATYPES = {
    "BOOL": "bool",
    **{f"UINT{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
}
"""Name of the protocol -> of NumPy; `BYTES` is the protocol's for texts."""
TAKEN = {"f": "iuf", "b": "b", "i": "iu", "u": "iu"}
"""Kinds of numbers in JSON that a kind of tensor takes."""
NAMES = {numpy: name for name, numpy in DATATYPES.items()}

Array = npt.NDArray[Any]
Edge = Annotated[int, Field(strict=True, ge=1, le=2**31)]
Name = Annotated[str, Field(max_length=128)]


class Part(BaseModel):
    """Of a request; unknown fields are passed over, as the protocol has extensions."""

    model_config = ConfigDict(frozen=True)

    name: Name
    parameters: dict[str, Any] = {}


class InputTensor(Part):
    """One tensor of a request: its numbers as JSON, flat or nested, or `binary_data_size`."""

    shape: list[Edge] = Field(min_length=1, max_length=8)
    datatype: str = Field(max_length=16)
    data: Any = None


class InferRequest(BaseModel):
    """The JSON of a request."""

    id: str = Field("", max_length=128)
    parameters: dict[str, Any] = {}
    inputs: list[InputTensor] = Field(max_length=16)
    outputs: list[Part] = Field([], max_length=16)


class TensorInfo(Wire):
    """A tensor that a model takes or gives; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Wire):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    parameters: dict[str, str]


class OutputTensor(Wire):
    """One tensor of an answer."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None = None
    parameters: dict[str, int] | None = None


class InferAnswer(Wire):
    """The JSON of an answer."""

    model_name: str
    model_version: str
    id: str
    parameters: dict[str, str]
    outputs: list[OutputTensor]


def parse_request(body: bytes, header: bytes | None) -> tuple[InferRequest, dict[str, memoryview]]:
    """Split a body into its JSON and the bytes of its binary tensors.

    Raises:
        BadRequest: it is not JSON, or the lengths do not fit together.
        Unprocessable: the JSON is no request.
    """
    length = len(body)
    if header is not None:
        if not header.isdigit() or len(header) > 18 or int(header) > length:
            raise BadRequest(
                f"inference-header-content-length: {header[:32]!a} is not the length of the JSON "
                f"in a body of {length} bytes"
            )
        length = int(header)
    request = _parse_json(memoryview(body)[:length])
    if len({tensor.name for tensor in request.inputs}) < len(request.inputs):
        raise Unprocessable("inputs: two of them have one name")
    rest, pieces = memoryview(body)[length:], {}
    for tensor in request.inputs:
        size = tensor.parameters.get(SIZE)
        if size is None:
            continue
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(rest):
            raise BadRequest(f"{tensor.name}: {SIZE} says {size!a}, {len(rest)} bytes are left")
        pieces[tensor.name], rest = rest[:size], rest[size:]
    if rest:
        raise BadRequest(f"{len(rest)} bytes follow the tensors: set {SIZE} of each of them")
    return request, pieces


def _parse_json(text: memoryview) -> InferRequest:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise BadRequest("the body is not JSON: send inputs, with shape, datatype, data") from None
    try:
        return InferRequest.model_validate(document)
    except ValidationError as error:
        raise Unprocessable(first_fault(error, "the body")) from None


def read_tensor(tensor: InputTensor, piece: memoryview | None) -> Array:
    """Read a tensor of numbers, in its shape.

    Raises:
        Unprocessable: data and shape or datatype disagree.
    """
    name, dtype = tensor.name, DATATYPES.get(tensor.datatype)
    if dtype is None:
        known = ", ".join(DATATYPES)
        raise Unprocessable(f"{name}: datatype {tensor.datatype!a} is none of {known}")
    count = math.prod(tensor.shape)
    if piece is not None:
        if (size := count * np.dtype(dtype).itemsize) != len(piece):
            raise Unprocessable(
                f"{name}: {tensor.shape} of {tensor.datatype} has {size} bytes, {len(piece)} came"
            )
        return np.frombuffer(piece, np.dtype(dtype).newbyteorder("<")).reshape(tensor.shape)
    if not isinstance(tensor.data, list):
        raise Unprocessable(f"{name}: the data are missing: send a list, or {SIZE}")
    try:
        found = np.asarray(tensor.data)
    except ValueError:
        raise Unprocessable(f"{name}: the lists in data differ in length or depth") from None
    kind = np.dtype(dtype).kind
    if found.dtype.kind not in TAKEN[kind] or found.size != count:
        raise Unprocessable(
            f"{name}: data has {found.size} values ({found.dtype.name}), wanted {count} of "
            f"{tensor.datatype} for the shape {tensor.shape}"
        )
    if kind in "iu":
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        if found.min() < low or found.max() > high:
            raise Unprocessable(f"{name}: {tensor.datatype} goes from {low} to {high}")
    return found.astype(dtype).reshape(tensor.shape)


def encode(
    answer: dict[str, Any], arrays: Mapping[str, Array | list[str]], request: InferRequest
) -> tuple[bytes, int | None]:
    """Write an answer; returns it, with the length of its JSON where bytes follow."""
    default = request.parameters.get(ALL_BINARY) is True
    binary = {part.name: part.parameters.get(BINARY, default) is True for part in request.outputs}
    outputs: list[dict[str, Any]] = []
    pieces = []
    for name, array in arrays.items():
        if isinstance(array, list):
            kind, shape, data = "BYTES", [len(array)], array
        else:
            kind, shape, data = NAMES[array.dtype.name], [*array.shape], array.ravel().tolist()
        entry = {"name": name, "datatype": kind, "shape": shape}
        if binary.get(name, default):
            pieces.append(_bytes(array))
            outputs.append(entry | {"parameters": {SIZE: len(pieces[-1])}})
        else:
            outputs.append(entry | {"data": data})
    document = orjson.dumps(answer | {"outputs": outputs})
    return b"".join([document, *pieces]), len(document) if pieces else None


def _bytes(array: Array | list[str]) -> bytes:
    """Little-endian numbers; texts each with its length before it, 4 bytes."""
    if isinstance(array, list):
        texts = [text.encode() for text in array]
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    return array.astype(array.dtype.newbyteorder("<")).tobytes()
