"""From digital numbers to reflectance: which offset is in the pixels, and whether they agree.

Since ESA's processing baseline 04.00 the digital numbers of Sentinel-2 hold 1000 more, so that dark
pixels may be below zero. Catalogues differ in whether they have taken it out, and what they name
may be wrong. The table `RULES` has what is believed, and the darkest pixels must agree with it.
Everything in `data/` has offset 0: value / 10000 is the reflectance.

https://sentinels.copernicus.eu/-/copernicus-sentinel-2-major-products-upgrade-upcoming
"""

import math
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.sources.sentinel2.assets import Asset, SceneFault
from pipeline.sources.sentinel2.search import Scene

SCALE = 10_000  # digital numbers per unit of reflectance
ADDED = 1000  # by the baselines since 04.00
SINCE = (4, 0)
DARKEST = 0.01  # share of the pixels
BELOW_ZERO = 100  # digital numbers that the atmospheric correction may take from dark water

Rule = Literal["item", "baseline", "flag"]
RULES: dict[tuple[str, str], Rule] = {
    # The pixels are corrected, yet raster:offset is -0.1: Element84/earth-search#66.
    ("earth-search", "sentinel-2-l2a"): "flag",
    ("earth-search", "sentinel-2-c1-l2a"): "item",
    ("earth-search", "sentinel-2-l1c"): "baseline",
    # Not corrected, and the items name no offset: microsoft/PlanetaryComputer#134.
    ("planetary-computer", "sentinel-2-l2a"): "baseline",
    ("copernicus", "sentinel-2-l2a"): "item",
    ("copernicus", "sentinel-2-l1c"): "item",
}
"""What is believed of a collection: the item's raster:offset, its processing baseline, or the flag
`earthsearch:boa_offset_applied`. Of any other collection: the item's raster:offset."""


class Offset(NamedTuple):
    """What is added to the digital numbers of a file."""

    value: int
    because: str


def offset(
    catalogue: str, collection: str, scene: Scene, asset: Asset, given: int | None
) -> Offset:
    """Find the offset of a file.

    Raises:
        SceneFault: it is unknown, or the scale is another than that of Sentinel-2.
    """
    scale = asset.number("scale")
    if scale is not None and not math.isclose(scale, 1 / SCALE, rel_tol=1e-6):
        raise SceneFault(f"asset {asset.key} has raster:scale {scale}, wanted {1 / SCALE}")
    if given is not None:
        return Offset(given, "--offset")
    rule = RULES.get((catalogue, collection), "item")
    named = asset.number("offset")
    flag = scene.item["properties"].get("earthsearch:boa_offset_applied")
    if rule == "item" and named is not None:
        return Offset(round(named * SCALE), f"raster:offset of {asset.key}")
    if rule == "flag" and flag is True:
        return Offset(0, "earthsearch:boa_offset_applied")
    if scene.baseline and scene.baseline < SINCE:
        return Offset(0, "a processing baseline before 04.00")
    if scene.baseline and (rule == "baseline" or flag is False):
        return Offset(-ADDED, "a processing baseline since 04.00")
    raise SceneFault(
        "its offset is unknown: the item names no raster:offset, and its processing baseline does "
        f"not tell: if its pixels hold 1000 more (--offset -{ADDED}) or not (--offset 0), say so"
    )


class Darkest:
    """Counts digital numbers, and holds the darkest of them against the offset."""

    def __init__(self, bands: int) -> None:
        self._counts = np.zeros((bands, 2**16), np.int64)

    def count(self, band: int, values: npt.NDArray[np.uint16]) -> None:
        """Count values of clear pixels, as they are in the file."""
        self._counts[band] += np.bincount(values, minlength=2**16)

    @property
    def floor(self) -> int:
        """The darkest digital number but for a hundredth of the pixels, of the darkest band."""
        sums = self._counts.cumsum(axis=1)
        floors = [np.searchsorted(line, DARKEST * line[-1]) for line in sums if line[-1]]
        return int(min(floors, default=0))

    def check(self, offset: Offset, given: bool) -> None:
        """Refuse an offset that the pixels contradict.

        Raises:
            SceneFault: it is not in the pixels, or still in them.
        """
        if offset.value < 0 and self.floor < -offset.value - BELOW_ZERO:
            raise SceneFault(
                f"offset {offset.value} ({offset.because}), yet the darkest pixels are "
                f"{self.floor}: 1000 would be subtracted twice; if it is so, take --offset 0"
            )
        if offset.value == 0 and self.floor >= ADDED and not given:
            raise SceneFault(
                f"offset 0 ({offset.because}), yet the darkest pixels are {self.floor}: 1000 "
                f"may still be in them (--offset -{ADDED}), or all is snow or cloud (--offset 0)"
            )


def corrected(values: npt.NDArray[np.uint16], offset: int) -> npt.NDArray[np.uint16]:
    """Digital numbers with offset 0. None becomes 0, which stands for no data."""
    return np.clip(values.astype(np.int32) + offset, 1, 2**16 - 1).astype(np.uint16)
