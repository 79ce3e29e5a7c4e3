"""How footprints and the area lie to each other, on a coarse grid; and a map in letters."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.features import rasterize
from rasterio.transform import from_bounds

from pipeline.sources.sentinel2.area import Area, Box

CELLS = 64  # along each side
MAP = (48, 14)  # columns and lines of the map
AROUND = 0.25  # of the area's size, shown around it

Geometry = dict[str, Any]
Mask = npt.NDArray[np.bool_]


def covered(area: Area, footprint: Geometry) -> float:
    """Share of the area that a footprint covers, 0 to 1."""
    inside = _mask(area.geometries(), area.box)
    return float((inside & _mask([footprint], area.box)).sum() / inside.sum())


def overlap(one: Geometry, other: Geometry) -> float:
    """Area that two footprints share, of the area of both (intersection over union)."""
    a, b = box_of(one), box_of(other)
    box = min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
    first, second = _mask([one], box), _mask([other], box)
    return float((first & second).sum() / max(1, (first | second).sum()))


def drawn(area: Area, footprints: Sequence[Geometry]) -> str:
    """A map: within the area how many scenes cover a place, around it a dot for any."""
    west, south, east, north = area.box
    dx, dy = (east - west) * AROUND, (north - south) * AROUND
    box = west - dx, south - dy, east + dx, north + dy
    inside = _mask(area.geometries(), box, MAP)
    counts = sum((_mask([item], box, MAP).astype(int) for item in footprints), np.zeros(MAP[::-1]))
    lines = [
        "".join(
            (f"{min(int(n), 9)}" if within else "." if n else " ")
            for n, within in zip(*row, strict=True)
        )
        for row in zip(counts, inside, strict=True)
    ]
    return "\n".join(f"  {line}".rstrip() for line in lines)


def _mask(geometries: Sequence[Geometry], box: Box, size: tuple[int, int] = (CELLS, CELLS)) -> Mask:
    """Cells of a box (height, width) that geometries touch, at any turn around the Earth."""
    shapes = [_shifted(item, turn) for item in geometries for turn in (-360, 0, 360)]
    with warnings.catch_warnings(action="ignore"):  # of shapes that are not in the box
        mask: npt.NDArray[Any] = rasterize(
            shapes,
            out_shape=size[::-1],
            transform=from_bounds(*box, *size),
            all_touched=True,
            dtype="uint8",
        )
    return mask > 0


def _shifted(geometry: Geometry, turn: int) -> Geometry:
    def move(node: Any) -> Any:
        if isinstance(node[0], int | float):
            return (node[0] + turn, *node[1:2])
        return [move(part) for part in node]

    return {"type": geometry["type"], "coordinates": move(geometry["coordinates"])}


def box_of(geometry: Geometry) -> Box:
    """The box around a geometry."""

    def points(node: Any) -> list[Any]:
        return [node] if isinstance(node[0], int | float) else [p for n in node for p in points(n)]

    positions = points(geometry["coordinates"])
    xs, ys = [p[0] for p in positions], [p[1] for p in positions]
    return min(xs), min(ys), max(xs), max(ys)
