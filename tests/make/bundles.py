"""Small real bundles: a graph of a few kilobytes that answers as a trained one does."""

import base64
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

BANDS = ("B02", "B03", "B04", "B08")
CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)
STATISTICS = ("mean", "std", "nodata", "saturated", "roughness")
SIZE = 64


def make_bundle(
    folder: Path,
    seed: int = 0,
    bands: tuple[str, ...] = BANDS,
    dtype: str = "uint16",
    size: int = SIZE,
    samples: int = 0,
    blind_when_bright: bool = False,
    fit: str = "",
    **changes: Any,
) -> Path:
    """Write a bundle; another seed is another model. `changes` replace fields of the manifest.

    With `samples` it has a whole reference, measured on so many chips of their own. One that is
    `blind_when_bright` answers NaN to chips whose mean is above 95 % of the largest value.
    """
    graph = make_graph(seed, len(bands), dtype, size, blind_when_bright)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    chips = np.stack([make_chip(number, len(bands), dtype, size) for number in range(2)])
    probabilities = session.run(["probabilities"], {"chips": chips})[0]
    manifest = {
        "schema": 1,
        "name": "landcover",
        "task": "classification",
        "classes": CLASSES,
        "input": {
            "dtype": dtype,
            "bands": bands,
            "height": size,
            "width": size,
            "scale": 10000.0,
            "units": "reflectance",
            "nodata": 0,
            "valid_max": int(np.iinfo(dtype).max),
            "resolution": 10.0,
            "fit": fit,
        },
        "sha256": hashlib.sha256(graph).hexdigest(),
        "training": {
            "finished": "2026-11-01T12:00:00+00:00",
            "seconds": 9.0,
            "hardware": "2 cores",
            "git_revision": f"{seed:040x}",
            "data_version": "0123456789abcdef0123456789abcdef.dir",
            "params": {},
            "libraries": {},
        },
        "statistics": STATISTICS,
        "reference": (
            make_reference(session, samples, bands, dtype, size)
            if samples
            else {
                "samples": 2,
                "signals": {"confidence": {"edges": [0.1, 1.0], "counts": [2]}},
                "classes": dict.fromkeys(CLASSES, 1),
            }
        ),
        "golden": [
            {"chip": pack(chip), "probabilities": answer.tolist()}
            for chip, answer in zip(chips, probabilities, strict=True)
        ],
    } | changes
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(graph)
    (folder / "model.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def make_graph(
    seed: int, bands: int, dtype: str, size: int, blind_when_bright: bool = False
) -> bytes:
    """Band means -> a random linear layer -> softmax; the mean stands for every statistic."""
    weights = np.random.default_rng(seed).normal(0, 8, (bands, len(CLASSES))).astype(np.float32)
    constants: dict[str, npt.NDArray[Any]] = {
        "scale": np.array(np.iinfo(dtype).max, np.float32),
        "weights": weights,
        "repeat": np.array([1, 1, len(STATISTICS)], np.int64),
        "last": np.array([2], np.int64),
    }
    means = "mean"
    extra = []
    if blind_when_bright:  # the root of a negative number, times zero
        constants |= {"limit": np.array(0.95, np.float32), "zero": np.array(0, np.float32)}
        means = "spoiled"
        extra = [
            helper.make_node("Sub", ["limit", "mean"], ["left"]),
            helper.make_node("Sqrt", ["left"], ["root"]),
            helper.make_node("Mul", ["root", "zero"], ["nothing"]),
            helper.make_node("Add", ["mean", "nothing"], ["spoiled"]),
        ]
    nodes = [
        helper.make_node("Cast", ["chips"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled"], ["mean"], axes=[2, 3], keepdims=0),
        *extra,
        helper.make_node("MatMul", [means, "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
        helper.make_node("Tile", ["column", "repeat"], ["statistics"]),
    ]
    kind = {"uint8": TensorProto.UINT8, "uint16": TensorProto.UINT16}[dtype]
    graph = helper.make_graph(
        nodes,
        "landcover",
        [helper.make_tensor_value_info("chips", kind, ["batch", bands, size, size])],
        [
            helper.make_tensor_value_info(
                "probabilities", TensorProto.FLOAT, ["batch", len(CLASSES)]
            ),
            helper.make_tensor_value_info(
                "statistics", TensorProto.FLOAT, ["batch", bands, len(STATISTICS)]
            ),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def make_reference(
    session: onnxruntime.InferenceSession,
    samples: int,
    bands: tuple[str, ...],
    dtype: str,
    size: int,
) -> dict[str, Any]:
    """What a model says about chips that no test sends, as the pipeline would write it."""
    chips = np.stack([make_chip(100_000 + i, len(bands), dtype, size) for i in range(samples)])
    outputs = ["probabilities", "statistics"]
    probabilities, statistics = session.run(outputs, {"chips": chips})
    values = {
        f"{statistic}/{band}": statistics[:, b, s]
        for s, statistic in enumerate(STATISTICS)
        for b, band in enumerate(bands)
    } | {"confidence": probabilities.max(axis=1)}
    signals = {}
    for name, found in values.items():
        edges = np.unique(np.quantile(found.astype(np.float64), np.linspace(0, 1, 11)))
        counts = np.histogram(found, edges)[0]
        signals[name] = {"edges": edges.tolist(), "counts": counts.tolist()}
    answers = np.bincount(probabilities.argmax(axis=1), minlength=len(CLASSES)).tolist()
    classes = dict(zip(CLASSES, answers, strict=True))
    return {"samples": samples, "signals": signals, "classes": classes}


def make_chip(
    seed: int, bands: int = len(BANDS), dtype: str = "uint16", size: int = SIZE
) -> npt.NDArray[Any]:
    """A chip whose bands differ, so that a wrong order shows."""
    generator = np.random.default_rng(1000 + seed)
    level = generator.uniform(0.05, 0.9, (bands, 1, 1)) * np.iinfo(dtype).max
    noise = generator.uniform(0.9, 1.1, (bands, size, size))
    return (level * noise).clip(0, np.iinfo(dtype).max).astype(dtype)


def expected(bundle: Path, chip: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """What the model of a bundle says about a chip, from the runtime itself."""
    session = onnxruntime.InferenceSession(
        (bundle / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"]
    )
    probabilities: npt.NDArray[np.float32] = session.run(["probabilities"], {"chips": chip[None]})[
        0
    ][0]
    return probabilities


def pack(chip: npt.NDArray[Any]) -> str:
    """Text of a golden chip."""
    return base64.b64encode(
        zlib.compress(chip.astype(chip.dtype.newbyteorder("<")).tobytes())
    ).decode()
