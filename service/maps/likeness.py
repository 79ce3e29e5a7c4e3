"""How a scene compares with what the model was trained on: its place, its ground, its answers.

Chips of the size of the training, spread over the scene, go through the graph before the map is
made: their statistics compare with the reference as those of images that are sent one by one do.
Tiles would not: a tile varies more within itself, and less from its neighbours, than a chip.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from contracts.bundle import Area, Segmentation
from service.maps.pool import Pool
from service.maps.scene import Scene
from service.maps.work import LOW
from service.telemetry import drift

SPOTS = 4  # places along an edge of the scene
CHIPS = 4  # chips along an edge of a place
FEW = 30  # chips; fewer say nothing
FLOOR = 1.0
"""Population stability index that is reported. Chips of one scene are alike: within the area of the
training a scene differs from all scenes together by more than the 0.2 of independent images."""
METRES = 111_320  # of a degree of latitude
MANY = 0.2  # share of the pixels

Array = npt.NDArray[Any]


class Sample(NamedTuple):
    """Chips of a scene, in numbers of the model."""

    chips: Array
    """(n, bands, H, W), each with data everywhere."""
    ground: Array
    """(n, bands) means of pieces with data."""
    below_zero: float
    """Share of the pixels that the offset takes below zero."""


def take_sample(scene: Scene, manifest: Segmentation) -> Sample:
    """Read chips at places spread over the scene.

    Raises:
        Unprocessable: the file is cut off or damaged there.
    """
    wanted = manifest.input
    whole, ground, clipped, valid = [], [], 0, 0
    for piece in _pieces(scene, wanted.height, wanted.width):
        known = np.ones(piece.shape[1:], bool)
        if wanted.nodata is not None:
            known = (piece != wanted.nodata).any(axis=0)
        if not known.any():
            continue
        values = piece[:, known]  # (bands, pixels)
        ground.append(values.mean(axis=1))
        valid += values.shape[1]
        if scene.conversion.shift < 0:
            clipped += int((values <= 1).any(axis=0).sum())
        if known.all() and piece.shape == wanted.shape:
            whole.append(piece)
    chips = np.stack(whole) if whole else np.zeros((0, *wanted.shape), wanted.dtype)
    means = np.array(ground).reshape(-1, len(wanted.bands))
    return Sample(chips, means, clipped / max(1, valid))


def _pieces(scene: Scene, rows: int, columns: int) -> Iterator[Array]:
    """Pieces of (bands, rows, columns), smaller only where the scene is."""
    height, width = scene.dataset.shape
    tops, lefts = _places(height, rows), _places(width, columns)
    for top, bottom in tops:
        for left, right in lefts:
            spot = scene.read(Window(left, top, right - left, bottom - top))
            for row in range(0, spot.shape[1], rows):
                for column in range(0, spot.shape[2], columns):
                    yield spot[:, row : row + rows, column : column + columns]


def _places(length: int, edge: int) -> list[tuple[int, int]]:
    """Start and stop of each place along an edge; none overlaps another."""
    count = max(1, min(SPOTS, length // edge))
    size = min(length, edge * max(1, min(CHIPS, length // (count * edge))))
    starts = [round(at) for at in np.linspace(0, length - size, count)]
    return [(start, start + size) for start in starts]


def find_drift(sample: Sample, manifest: Segmentation, pool: Pool) -> dict[str, float]:
    """Population stability index of each signal that is far from the reference, largest first."""
    if len(sample.chips) < FEW:
        return {}
    found = _answers(sample.chips, pool)
    classes = np.array(found["classes"])
    statistics = np.array(found["statistics"])  # (n, bands, statistics)
    columns = statistics.transpose(2, 1, 0).reshape(-1, len(classes))
    values = [*columns, np.array(found["confidence"]), classes]
    scores = {}
    for signal, of_signal in zip(drift.signals(manifest), values, strict=True):
        bins = signal.bin_of(of_signal)
        counts = np.bincount(bins[bins >= 0], minlength=len(signal.counts))
        # Chips without data were left out, so their share says nothing.
        score = drift.judge(signal, counts, int((bins < 0).sum()), FEW, FLOOR, constant=False)
        if isinstance(score, drift.Score) and score.drifted and "nodata/" not in signal.name:
            scores[signal.name] = round(score.psi, 3)
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


def _answers(chips: Array, pool: Pool) -> dict[str, list[Any]]:
    slot = pool.memory.inputs[0].reshape(-1)
    at_once = len(slot) // chips[0].size
    found: dict[str, list[Any]] = {"statistics": [], "classes": [], "confidence": []}
    for start in range(0, len(chips) if at_once else 0, max(1, at_once)):
        batch = chips[start : start + at_once]
        slot[: batch.size] = batch.reshape(-1)
        for name, values in pool.submit({"slot": 0, "sample": batch.shape}).result().items():
            found[name] += values
    return found


def degrees(scene: Scene) -> tuple[float, float, float, float]:
    """West, south, east, north of a scene, WGS 84; west > east across the date line."""
    west, south, east, north = transform_bounds(
        scene.dataset.crs, "EPSG:4326", *scene.dataset.bounds, densify_pts=21
    )
    return west, south, east, north


def outside(scene: Scene, manifest: Segmentation) -> float:
    """Share of a scene that lies outside the area of the training; 0 where that is not known."""
    area = manifest.area
    if area is None:
        return 0.0
    west, south, east, north = degrees(scene)
    resolution = manifest.input.resolution or 10.0
    # The area holds the centres of the chips.
    beside = manifest.input.height * resolution / 2 / METRES
    high = _shared((south, north), (area.south - beside, area.north + beside))
    beside /= max(0.01, float(np.cos(np.radians((south + north) / 2))))
    start, stop = _longitudes(area, beside)
    east += 360 * (east < west)
    wide = max(_shared((west + turn, east + turn), (start, stop)) for turn in (-360, 0, 360))
    return 1 - high * wide


def _longitudes(area: Area, beside: float) -> tuple[float, float]:
    return area.west - beside, area.east + beside + 360 * (area.east < area.west)


def _shared(scene: tuple[float, float], area: tuple[float, float]) -> float:
    """Share of a span that lies in another."""
    both = min(scene[1], area[1]) - max(scene[0], area[0])
    return min(1.0, max(0.0, both) / max(scene[1] - scene[0], 1e-12))


def warnings(
    away: float, unsure: float, far: dict[str, float], scene: Scene, manifest: Segmentation
) -> list[str]:
    """Sentences about what a reader of the map should know."""
    found = []
    if not manifest.exact:
        found.append(
            "the network looks at the whole image: tiles are blended, and a map depends on the "
            f"windows of {manifest.input.height} pixels"
        )
    if not scene.offset.because:
        found.append(
            f"offset unknown: {scene.offset.value} is assumed, and the darkest ground agrees: say "
            "--offset to be sure"
        )
    if away > 0.01:
        found.append(f"{away:.0%} of the scene lies outside the area that the model was trained on")
    if unsure > MANY:
        found.append(f"{unsure:.0%} of the pixels have a confidence below {LOW} %")
    if far:
        names = ", ".join(list(far)[:3])
        found.append(
            f"the scene is unlike what the model was tested on: {len(far)} signals are far from "
            f"the reference ({names})"
        )
    return found
