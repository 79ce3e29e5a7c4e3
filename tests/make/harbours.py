"""Images with boxes: a small data set in COCO's format, and a bundle that finds bright squares."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests.make.bundles import BANDS, STATISTICS, pack

CLASSES = ("ship", "tank")
CHIP, MULTIPLE, MOST = 32, 8, 6
THRESHOLD = 0.5

Array = npt.NDArray[Any]
CELLS: Array = np.full((4, 4), 255, np.uint8)
"""The mask of every object: all cells but the upper right quarter."""
CELLS[:2, 2:] = 0


def image(
    boxes: list[tuple[int, int, int, int]], size: int = 32, seed: int = 0, corner: bool = True
) -> Array:
    """Dark noise (size, size, 3) uint8 with bright boxes: left, top, right, bottom.

    Without `corner` the upper right quarter of each is dark.
    """
    pixels = np.random.default_rng(seed).integers(0, 60, (size, size, 3)).astype(np.uint8)
    for left, top, right, bottom in boxes:
        middle = (left + right) // 2, (top + bottom) // 2
        pixels[top:bottom, left : right if corner else middle[0]] = 220
        pixels[middle[1] : bottom, left:right] = 220
    return pixels


def angle(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    """A box without its upper right quarter, as COCO's polygon."""
    x, y = (left + right) // 2, (top + bottom) // 2
    return [[left, top, x, top, x, y, right, y, right, bottom, left, bottom]]


def make_coco(
    folder: Path,
    groups: int = 4,
    each: int = 6,
    size: int = 32,
    masks: bool = False,
    **changes: Any,
) -> dict[str, Any]:
    """Write `groups` places of `each` images with a bright box in most; returns the document.

    With `masks` the boxes lack a quarter, and the annotations have polygons.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for group in range(groups):
        for number in range(each):
            id = len(images) + 1
            boxes = []
            if number:  # the first image of a place is background
                left, top = (int(place) for place in rng.integers(1, size - 17, 2))
                boxes = [(left, top, left + 8 + 4 * (number % 3), top + 8)]
            name = f"port{'abcdefgh'[group]}_{number:03d}.png"
            Image.fromarray(image(boxes, size, id, corner=not masks)).save(folder / name)
            images.append({"id": id, "file_name": name, "width": size, "height": size})
            for left, top, right, bottom in boxes:
                box = [left, top, right - left, bottom - top]
                annotations.append(
                    {"id": 100 + len(annotations), "image_id": id, "category_id": 1, "bbox": box}
                    | ({"segmentation": angle(left, top, right, bottom)} if masks else {})
                )
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "ship"}],
    } | changes
    write_document(folder, document)
    return document


def write_document(folder: Path, document: dict[str, Any]) -> None:
    """Write annotations.json."""
    (folder / "annotations.json").write_text(json.dumps(document), "utf-8")


def water(*squares: tuple[int, int], high: int = CHIP, wide: int = CHIP) -> Array:
    """Dark pixels (4, high, wide) with bright squares of 4 x 4 at (column, row), multiples of 4."""
    pixels = np.full((len(BANDS), high, wide), 2000, np.uint16)
    for column, row in squares:
        pixels[:, row : row + 4, column : column + 4] = 60_000 - 100 * column
    return pixels


def make_bundle(folder: Path, masks: bool = False, **changes: Any) -> Path:
    """Write a bundle that finds squares of 4 x 4 pixels; `changes` replace fields of it.

    With `masks` each has one: its box without the upper right quarter.
    """
    graph = make_graph(masks)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    golden = []
    for squares in ([(8, 4), (16, 20)], [(24, 24)]):
        chip = water(*squares)
        boxes, scores, labels = session.run(["boxes", "scores", "labels"], {"chips": chip[None]})
        sure = scores[0] >= THRESHOLD
        golden.append(
            {
                "chip": pack(chip),
                "boxes": boxes[0][sure].tolist(),
                "scores": scores[0][sure].tolist(),
                "labels": labels[0][sure].tolist(),
            }
            | ({"masks": pack(np.stack([CELLS] * int(sure.sum())))} if masks else {})
        )
    manifest = {
        "schema": 2,
        "name": "harbour",
        "task": "instances" if masks else "detection",
        "classes": CLASSES,
        "threshold": THRESHOLD,
        "input": {
            **{"dtype": "uint16", "bands": BANDS, "height": CHIP, "width": CHIP},
            **{"scale": 10000.0, "units": "reflectance", "nodata": None, "valid_max": 65535},
            **{"resolution": 10.0, "multiple": MULTIPLE},
        },
        "sha256": hashlib.sha256(graph).hexdigest(),
        "training": {
            "finished": "2026-11-01T12:00:00+00:00",
            "seconds": 9.0,
            "hardware": "2 cores",
            "git_revision": "0" * 40,
            "data_version": "0123456789abcdef0123456789abcdef.dir",
            "params": {},
            "libraries": {},
        },
        "statistics": STATISTICS,
        "reference": {
            "samples": 2,
            "signals": {"confidence": {"edges": [0.1, 1.0], "counts": [2]}},
            "classes": dict.fromkeys(CLASSES, 1),
        },
        "golden": golden,
    } | changes
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(graph)
    (folder / "model.json").write_text(json.dumps(manifest), "utf-8")
    return folder


def make_graph(masks: bool = False) -> bytes:
    """Mean of the bands in squares of 4 x 4 -> the MOST brightest; the class is that of its line.

    Squares in even lines are ships, the others tanks.
    """
    constants: dict[str, Array] = {
        "full": np.array(65535, np.float32),
        "most": np.array([MOST], np.int64),
        "two": np.array(2, np.int64),
        "edge": np.array(4, np.int64),
        "flat": np.array([0, -1], np.int64),
        "last": np.array(3, np.int64),
        "end": np.array([2], np.int64),
        "repeat": np.array([1, 1, len(STATISTICS)], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["chips"], ["float"], to=TensorProto.FLOAT),
        node("Div", ["float", "full"], ["scaled"]),
        node("ReduceMean", ["scaled"], ["grey"], axes=[1], keepdims=1),
        node("AveragePool", ["grey"], ["squares"], kernel_shape=[4, 4], strides=[4, 4]),
        node("Reshape", ["squares", "flat"], ["cells"]),
        node("TopK", ["cells", "most"], ["scores", "place"]),
        node("Shape", ["squares"], ["shape"]),
        node("Gather", ["shape", "last"], ["wide"]),
        node("Mod", ["place", "wide"], ["column"]),
        node("Div", ["place", "wide"], ["row"]),
        node("Mod", ["row", "two"], ["labels"]),
        node("Mul", ["column", "edge"], ["left"]),
        node("Mul", ["row", "edge"], ["top"]),
        node("Add", ["left", "edge"], ["right"]),
        node("Add", ["top", "edge"], ["bottom"]),
        *(node("Unsqueeze", [name, "end"], [f"{name}1"]) for name in ("left", "top")),
        *(node("Unsqueeze", [name, "end"], [f"{name}1"]) for name in ("right", "bottom")),
        node("Concat", ["left1", "top1", "right1", "bottom1"], ["edges"], axis=2),
        node("Cast", ["edges"], ["boxes"], to=TensorProto.FLOAT),
        node("ReduceMean", ["scaled"], ["mean"], axes=[2, 3], keepdims=0),
        node("Unsqueeze", ["mean", "end"], ["each"]),
        node("Tile", ["each", "repeat"], ["statistics"]),
    ]
    value = helper.make_tensor_value_info
    more = []
    if masks:
        constants |= {"mask": CELLS[None, None], "one": np.array([1], np.int64)}
        nodes += [
            node("Shape", ["scores"], ["count"]),
            node("Concat", ["count", "one", "one"], ["each mask"], axis=0),
            node("Expand", ["mask", "each mask"], ["masks"]),
        ]
        more = [value("masks", TensorProto.UINT8, ["batch", MOST, *CELLS.shape])]
    graph = helper.make_graph(
        nodes,
        "harbour",
        [value("chips", TensorProto.UINT16, ["batch", len(BANDS), "height", "width"])],
        [
            value("boxes", TensorProto.FLOAT, ["batch", MOST, 4]),
            value("scores", TensorProto.FLOAT, ["batch", MOST]),
            value("labels", TensorProto.INT64, ["batch", MOST]),
            value("statistics", TensorProto.FLOAT, ["batch", len(BANDS), len(STATISTICS)]),
            *more,
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content
