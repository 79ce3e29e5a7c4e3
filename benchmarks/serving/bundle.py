"""Bundles to serve and the bodies to send, made without training.

A network of `pipeline.training.models` with random weights goes through the project's own export.
Speed does not depend on what the weights say; that answers agree between servers can be checked
all the same.
"""

import contextlib
import io
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import numpy.typing as npt
import rasterio
import torch
from PIL import Image
from rasterio.transform import from_origin
from torch import nn

from pipeline import paths
from pipeline.bundle.export import export
from pipeline.bundle.quantize import Choice, quantize
from pipeline.data.chip_table import Row, write_chip_table
from pipeline.data.dataset import Dataset
from pipeline.data.prepared import Prepared
from pipeline.params import Model, Params
from pipeline.sources.eurosat import DATASETS
from pipeline.tasks.task import Task
from pipeline.training.models import Predictor, build

FOLDER = Path("artifacts/bench/serving")
CHIPS = 64  # what golden chips and the reference are taken from
BOUNDARY = "conveyor-benchmark-boundary"

KINDS = {"tiff": ".tif", "jpeg": ".jpg"}  # kind of upload -> data set of EuroSAT
MEDIA = {"tiff": "image/tiff", "jpeg": "image/jpeg"}

# The largest whole number of channels below 70 million multiply-accumulates a chip is 32.
NETWORKS: dict[str, dict[str, Any]] = {"reference": {"network": "resnet", "width": 32}, "small": {}}


class Body(NamedTuple):
    """What a client sends."""

    path: Path
    content_type: str
    single: bool = False
    """Whether each request comes on a connection of its own."""


class Served(NamedTuple):
    """A bundle with an upload for it."""

    kind: str
    folder: Path
    """The bundle, two files."""
    chip: Path
    """The decoded upload, `.npy`, (bands, height, width)."""
    bare: Body
    multipart: Body
    macs: int
    """Multiply-accumulates of convolutions and linear layers, one chip."""
    classes: tuple[str, ...]
    sha256: str

    @property
    def line(self) -> str:
        """What was served and sent, in a sentence."""
        size = self.bare.path.stat().st_size
        shape = " x ".join(str(length) for length in np.load(self.chip, mmap_mode="r").shape)
        return (
            f"{self.kind}: {shape} (bands x height x width), upload of {size:,} bytes, network of "
            f"{self.macs / 1e6:.1f} million multiply-accumulates, {len(self.classes)} classes"
        )


def make(kind: str, network: str, params: Params, *, seed: int = 0, int8: bool = False) -> Served:
    """Write bundle, chip and bodies to `artifacts/bench/serving/<network>-<kind>-<seed>/`.

    `int8`: quantize the graph, whatever that does to the answers of random weights.
    """
    folder = (FOLDER / f"{network}-{kind}-{seed}{'-int8' * int8}").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    dataset = DATASETS[KINDS[kind]]
    params = params.model_copy(update={"model": params.model.model_copy(update=NETWORKS[network])})
    pixels = scenes(dataset, seed)
    predictor = random_predictor(params.model, dataset, pixels, seed)
    write_chips(folder, dataset, pixels)
    if int8:
        params = params.model_copy(
            update={"train": params.train.model_copy(update={"quantize": "auto"})}
        )
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(io.StringIO()),
        mock.patch("pipeline.bundle.export.choose", always_int8),
    ):
        prepared = Prepared(paths.CHIPS, dataset, [], [], "")
        manifest = export(
            predictor,
            params,
            prepared,
            revision="none",
            seconds=0.0,
            hardware="none: random weights",
        )
    content, chip = encode(kind, pixels[0])
    np.save(folder / "chip.npy", chip)
    return Served(
        kind=kind,
        folder=folder / paths.MODEL,
        chip=folder / "chip.npy",
        bare=write_bare(folder, kind, content),
        multipart=write_multipart(folder, kind, content),
        macs=count_macs(predictor, chip),
        classes=dataset.classes,
        sha256=manifest.sha256,
    )


def always_int8(graph: bytes, prepared: Prepared, _task: Task) -> Choice:
    """Quantize in any case: on random weights the comparison of the two says nothing."""
    return Choice(quantize(graph, prepared.split("validation").chips), True, "")


def scenes(dataset: Dataset, seed: int) -> npt.NDArray[Any]:
    """Smooth random fields with noise, (CHIPS, bands, size, size)."""
    rng = np.random.default_rng(seed)
    bands, size, top = len(dataset.bands), dataset.size, min(dataset.valid_max, 10_000)
    coarse = torch.from_numpy(rng.normal(0, 0.08, (CHIPS, bands, 8, 8)))
    field = nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").numpy()
    level = rng.uniform(0.1, 0.7, (CHIPS, bands, 1, 1))
    noise = rng.normal(0, 0.04, (CHIPS, bands, size, size))  # a JPEG has 3 KB, as EuroSAT's
    values = np.clip(level + field + noise, 0, 1) * top
    chips: npt.NDArray[Any] = values.astype(dataset.dtype)
    return chips


def random_predictor(
    params: Model, dataset: Dataset, pixels: npt.NDArray[Any], seed: int
) -> Predictor:
    """Random weights, and batch norms that fit them, so that the answers differ between chips."""
    torch.manual_seed(seed)
    network = build(params, len(dataset.bands), len(dataset.classes))
    numbers = torch.from_numpy(pixels.astype(np.float32))  # (N, bands, H, W)
    mean, std = numbers.mean(dim=(0, 2, 3)).tolist(), numbers.std(dim=(0, 2, 3)).tolist()
    predictor = Predictor(network, mean, std)
    for module in predictor.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average over what follows
            nn.init.uniform_(module.weight, 0.5, 1.0)  # a block starts as its shortcut otherwise
    with torch.no_grad():
        predictor.train()(numbers)
    return predictor.eval()


def write_chips(folder: Path, dataset: Dataset, pixels: npt.NDArray[Any]) -> None:
    """Write what preprocess would, the validation split alone."""
    target = folder / paths.CHIPS
    target.mkdir(parents=True, exist_ok=True)
    np.save(target / "validation.npy", pixels)
    rows = [
        Row(i, f"{i}", dataset.classes[i % len(dataset.classes)], f"{i}", split="validation")
        for i in range(len(pixels))
    ]
    write_chip_table(target / "manifest.csv", rows)


def count_macs(predictor: Predictor, chip: npt.NDArray[Any]) -> int:
    """Count multiply-accumulates of convolutions and linear layers."""
    total = 0

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            window = module.kernel_size[0] * module.kernel_size[1]
            total += output.numel() * module.in_channels * window
        elif isinstance(module, nn.Linear):
            total += module.in_features * module.out_features

    hooks = [module.register_forward_hook(count) for module in predictor.modules()]
    with torch.no_grad():
        predictor(torch.from_numpy(chip[None].astype(np.float32)))
    for hook in hooks:
        hook.remove()
    return total


def encode(kind: str, pixels: npt.NDArray[Any]) -> tuple[bytes, npt.NDArray[Any]]:
    """Give the file's content, and the pixels that it holds (JPEG loses some)."""
    if kind == "tiff":
        return _geotiff(pixels), pixels
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(
        buffer, "JPEG", quality=93
    )
    with Image.open(io.BytesIO(buffer.getvalue())) as image:
        decoded = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
    return buffer.getvalue(), decoded


def _geotiff(pixels: npt.NDArray[Any]) -> bytes:
    """Like EuroSAT's files: uncompressed, bands of a pixel side by side, with a place on Earth."""
    bands, height, width = pixels.shape
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            count=bands,
            height=height,
            width=width,
            dtype=pixels.dtype,
            crs="EPSG:32633",
            transform=from_origin(500_000, 5_400_000, 10, 10),
            interleave="pixel",
        ) as raster:
            raster.write(pixels)
        return bytes(memory.read())


def write_bare(folder: Path, kind: str, content: bytes) -> Body:
    """Write the upload as a body of its own."""
    path = folder / f"body.{kind}"
    path.write_bytes(content)
    return Body(path, MEDIA[kind])


def write_multipart(folder: Path, kind: str, content: bytes) -> Body:
    """Write the upload as the field `file` of a form (RFC 7578)."""
    head = (
        f"--{BOUNDARY}\r\n"
        f'Content-Disposition: form-data; name="file"; filename="chip{KINDS[kind]}"\r\n'
        f"Content-Type: {MEDIA[kind]}\r\n\r\n"
    )
    path = folder / "body.multipart"
    path.write_bytes(head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode())
    return Body(path, f"multipart/form-data; boundary={BOUNDARY}")
