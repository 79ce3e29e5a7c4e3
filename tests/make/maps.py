"""Inputs of maps: a bundle that maps, whose graph is small and has strides, and scenes."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import rasterio
from onnx import TensorProto, helper, numpy_helper
from rasterio.transform import from_origin

from tests.make.bundles import BANDS, STATISTICS, pack

CLASSES = ("Water", "Forest", "Soil")
COLOURS = ("#0072b2", "#009e73", "#e69f00")
CHIP = 32
STRIDE, MARGIN = 4, 16
"""Of the graph below: 1 + 2 + 4 + 1 pixels of four convolutions, and up to 6 of pooling."""
SPECTRA = np.array([(300, 250, 150, 90), (250, 450, 260, 3200), (900, 1200, 1600, 2400)])
"""Digital numbers of the classes, offset 0."""
ORIGIN = (500_000.0, 5_100_000.0)  # metres, EPSG:32633
AREA = {"west": 14.9, "south": 45.9, "east": 15.3, "north": 46.2}

Array = npt.NDArray[Any]


def make_bundle(folder: Path, seed: int = 0, whole_image: bool = False, **changes: Any) -> Path:
    """Write a bundle that maps; one that looks at the `whole_image` is not exact in tiles."""
    graph = make_graph(seed, whole_image)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    chips = np.stack([ground(CHIP, CHIP, 100 + number) for number in range(40)])
    labels, confidence, statistics = session.run(
        ["labels", "confidence", "statistics"], {"chips": chips}
    )
    values = {
        f"{statistic}/{band}": statistics[:, b, s]
        for s, statistic in enumerate(STATISTICS)
        for b, band in enumerate(BANDS)
    } | {"confidence": confidence.mean(axis=(1, 2)) / 100}
    signals = {}
    for name, found in values.items():
        edges = np.unique(np.quantile(found.astype(np.float64), np.linspace(0, 1, 11)))
        edges = edges if len(edges) > 1 else np.repeat(edges, 2)
        counts = np.histogram(found, edges)[0] if edges[0] < edges[-1] else [len(found)]
        signals[name] = {"edges": edges.tolist(), "counts": [int(n) for n in counts]}
    largest = [int(np.bincount(chip.ravel()).argmax()) for chip in labels]
    manifest = {
        "schema": 2,
        "name": "landcover",
        "task": "segmentation",
        "classes": CLASSES,
        "colours": COLOURS,
        **{"stride": STRIDE, "margin": MARGIN, "exact": not whole_image, "area": AREA},
        "input": {
            **{"dtype": "uint16", "bands": BANDS, "height": CHIP, "width": CHIP},
            **{"scale": 10000.0, "units": "reflectance", "nodata": 0, "valid_max": 65535},
            "resolution": 10.0,
        },
        "sha256": hashlib.sha256(graph).hexdigest(),
        "training": {
            **{"finished": "2026-11-01T12:00:00+00:00", "seconds": 9.0, "hardware": "2 cores"},
            "git_revision": f"{seed:040x}",
            "data_version": "0123456789abcdef0123456789abcdef.dir",
            **{"params": {}, "libraries": {}},
        },
        "statistics": STATISTICS,
        "reference": {
            "samples": len(chips),
            "signals": signals,
            "classes": {name: largest.count(i) for i, name in enumerate(CLASSES)},
        },
        "golden": [{"chip": pack(chips[0]), "labels": pack(labels[0])}],
    } | changes
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(graph)
    (folder / "model.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def make_graph(seed: int, whole_image: bool = False) -> bytes:
    """A U-Net of two levels with random weights: (B, 4, H, W) -> labels, confidence, statistics."""
    random = np.random.default_rng(seed)
    constants: dict[str, Array] = {
        "scale": np.array(3000, np.float32),
        "hundred": np.array(100, np.float32),
        "nodata": np.array(255, np.uint8),
        "zero": np.array(0, np.float32),
        "twice": np.array([1, 1, 2, 2], np.float32),
        "repeat": np.array([1, 1, len(STATISTICS)], np.int64),
        "last": np.array([2], np.int64),
        "tenthousand": np.array(10000, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["chips"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["scaled"]),
    ]

    def convolve(source: str, target: str, inputs: int, outputs: int, kernel: int = 3) -> None:
        constants[f"w_{target}"] = random.normal(
            0, 1.5 / kernel / inputs**0.5, (outputs, inputs, kernel, kernel)
        ).astype(np.float32)
        pads = [kernel // 2] * 4
        name = target if kernel == 1 else f"raw_{target}"
        nodes.append(helper.make_node("Conv", [source, f"w_{target}"], [name], pads=pads))
        if kernel > 1:
            nodes.append(helper.make_node("Relu", [name], [target]))

    def halve(source: str, target: str) -> None:
        nodes.append(
            helper.make_node("MaxPool", [source], [target], kernel_shape=[2, 2], strides=[2, 2])
        )

    def double(source: str, target: str) -> None:
        nodes.append(helper.make_node("Resize", [source, "", "twice"], [target], mode="nearest"))

    convolve("scaled", "one", 4, 8)
    halve("one", "one_half")
    convolve("one_half", "two", 8, 8)
    halve("two", "two_half")
    convolve("two_half", "three", 8, 8)
    double("three", "three_up")
    nodes.append(helper.make_node("Concat", ["three_up", "two"], ["beside"], axis=1))
    double("beside", "beside_up")
    nodes.append(helper.make_node("Concat", ["beside_up", "one"], ["all"], axis=1))
    convolve("all", "last_one", 24, 8)
    if whole_image:
        nodes.append(helper.make_node("GlobalAveragePool", ["last_one"], ["everywhere"]))
        nodes.append(helper.make_node("Sub", ["last_one", "everywhere"], ["centred"]))
    convolve("centred" if whole_image else "last_one", "logits", 8, len(CLASSES), 1)
    nodes += _answers() + _statistics()
    graph = helper.make_graph(
        nodes,
        "landcover",
        [helper.make_tensor_value_info("chips", TensorProto.UINT16, ["batch", 4, "h", "w"])],
        [
            helper.make_tensor_value_info("labels", TensorProto.UINT8, ["batch", "h", "w"]),
            helper.make_tensor_value_info("confidence", TensorProto.UINT8, ["batch", "h", "w"]),
            helper.make_tensor_value_info(
                "statistics", TensorProto.FLOAT, ["batch", 4, len(STATISTICS)]
            ),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _answers() -> list[Any]:
    """Logits -> labels and confidence, as the task's `answer` does."""
    uint8 = TensorProto.UINT8
    return [
        helper.make_node("Softmax", ["logits"], ["shares"], axis=1),
        helper.make_node("ReduceMax", ["shares"], ["surest"], axes=[1], keepdims=0),
        helper.make_node("Mul", ["surest", "hundred"], ["percent"]),
        helper.make_node("Round", ["percent"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["sure"], to=uint8),
        helper.make_node("ArgMax", ["logits"], ["index"], axis=1, keepdims=0),
        helper.make_node("Cast", ["index"], ["best"], to=uint8),
        helper.make_node("ReduceMax", ["float"], ["brightest"], axes=[1], keepdims=0),
        helper.make_node("Equal", ["brightest", "zero"], ["empty"]),
        helper.make_node("Where", ["empty", "nodata", "best"], ["labels"]),
        helper.make_node("Where", ["empty", "nodata", "sure"], ["confidence"]),
    ]


def _statistics() -> list[Any]:
    """The mean, which stands for every statistic."""
    return [
        helper.make_node("Div", ["float", "tenthousand"], ["reflectance"]),
        helper.make_node("ReduceMean", ["reflectance"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
        helper.make_node("Tile", ["column", "repeat"], ["statistics"]),
    ]


def ground(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint16]:
    """Patches of water, forest and soil (4, height, width), digital numbers with offset 0."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, len(SPECTRA), (height // 7 + 1, width // 7 + 1))
    classes = coarse.repeat(7, 0).repeat(7, 1)[:height, :width]
    noise = random.normal(1, 0.15, (len(BANDS), height, width))
    return (SPECTRA[classes].transpose(2, 0, 1) * noise).clip(1, 60000).astype(np.uint16)


def write_scene(
    path: Path,
    pixels: Array,
    names: Sequence[str] = BANDS,
    scale: float | None = 1e-4,
    offset: float = 0.0,
    **profile: Any,
) -> Path:
    """Write a GeoTIFF with named bands; `profile` replaces what rasterio is told."""
    count, height, width = pixels.shape
    settings = {
        **{"driver": "GTiff", "count": count, "dtype": pixels.dtype, "crs": "EPSG:32633"},
        **{"height": height, "width": width, "transform": from_origin(*ORIGIN, 10, 10)},
        **{"nodata": 0, "compress": "deflate", "tiled": True, "blockxsize": 64, "blockysize": 64},
    }
    with rasterio.open(path, "w", **(settings | profile)) as file:
        file.write(pixels)
        if names:
            file.descriptions = names
        if scale is not None:
            file.scales, file.offsets = (scale,) * count, (offset,) * count
    return path


def read(path: Path) -> Array:
    """All bands of a GeoTIFF (bands, height, width)."""
    with rasterio.open(path) as file:
        pixels: Array = file.read()
        return pixels


def write_empty(path: Path, side: int) -> None:
    """Write a scene without data, in blocks that take no place in the file."""
    profile = {
        **{"driver": "GTiff", "count": 4, "dtype": "uint16", "crs": "EPSG:32633", "nodata": 0},
        **{"height": side, "width": side, "transform": from_origin(*ORIGIN, 10, 10)},
        **{"tiled": True, "blockxsize": 512, "blockysize": 512, "sparse_ok": True},
    }
    with rasterio.open(path, "w", **profile) as file:
        file.descriptions = BANDS
