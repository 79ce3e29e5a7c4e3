"""Which digital numbers a scene holds, and what makes them those that the model was trained on.

Since baseline 04.00 the numbers of Sentinel-2 are 1000 higher than before: offset -1000. Some
files have it taken out, some do not, and some say the wrong thing. A wrong offset changes half of
the classes of a map without an error, so the darkest ground of the scene must agree with what the
model has seen.

    reflectance = (number + offset) / scale
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from contracts.bundle import Histogram, Input, Segmentation
from service.errors import Unprocessable

ADDED = 1000  # digital numbers, by the baselines since 04.00
REFLECTANCE = 10_000  # digital numbers per unit of reflectance of Sentinel-2
DARK = 0.05  # quantile of the ground that is compared
TOO_DARK = 0.05  # share of pixels that may lie below zero, after the offset
SAME = 1e-6  # relative, of two scales

Array = npt.NDArray[Any]


class Offset(NamedTuple):
    """What is added to a number of the scene before the scale divides it."""

    value: int
    because: str
    """Where it was found; empty if it is assumed."""


class Conversion(NamedTuple):
    """From the numbers of a scene to those of the model."""

    shift: int
    """Added to each number that is data."""
    nodata: int | None
    """Of the scene."""
    becomes: int | None
    """Nodata of the model."""

    def __call__(self, numbers: Array) -> Array:
        """Convert (bands, H, W); as it is where nothing is to be done."""
        empty = None
        if self.nodata is not None and self.becomes is not None:
            if self.shift or self.nodata != self.becomes:
                empty = numbers == self.nodata
        if self.shift:
            limits = np.iinfo(numbers.dtype)
            # Data does not become nodata.
            low = limits.min + (self.becomes == limits.min)
            high = limits.max - (self.becomes == limits.max)
            shifted = numbers.astype(np.int32) + self.shift
            numbers = shifted.clip(low, high).astype(numbers.dtype)
        if empty is not None:
            numbers[empty] = self.becomes
        return numbers


def find_offset(
    given: int | None,
    item: Mapping[str, Any] | None,
    scales: Sequence[float],
    offsets: Sequence[float],
    wanted: Input,
) -> Offset:
    """Find the offset: as the caller says, else the item, else the tags of the file.

    Raises:
        Unprocessable: the scale is another than the model's, bands have several offsets, or what
            the caller says has the wrong sign.
    """
    if given is not None:
        if given > 0 and wanted.scale == REFLECTANCE:
            raise Unprocessable(
                f"--offset {given} would be added to each number: if they are {given} too high, "
                f"say --offset -{given}; Sentinel-2 has 0 or -{ADDED}"
            )
        return Offset(given, "--offset")
    for scale, offset, origin in (
        (*_of_item(item), "the item"),
        (*_of_tags(scales, offsets), "the tags"),
    ):
        if scale is None or offset is None:
            continue
        if not math.isclose(scale * wanted.scale, 1, rel_tol=SAME):
            raise Unprocessable(
                f"{origin} of the scene: scale {scale:g}, the model wants {1 / wanted.scale:g}: "
                "write it with the scale of the training data"
            )
        return Offset(round(offset * wanted.scale), origin)
    if wanted.dtype != "uint16" or wanted.scale != REFLECTANCE:
        return Offset(wanted.offset, "the model, whose numbers are not those of Sentinel-2")
    return Offset(wanted.offset, "")


def _of_item(item: Mapping[str, Any] | None) -> tuple[float | None, float | None]:
    """Scale and offset of the asset `image` of a STAC item, or of its only asset."""
    assets = (item or {}).get("assets", {})
    asset = assets.get("image") or (next(iter(assets.values())) if len(assets) == 1 else {})
    for part in (asset, *asset.get("bands", []), *asset.get("raster:bands", [])):
        scale = part.get("raster:scale", part.get("scale"))
        offset = part.get("raster:offset", part.get("offset"))
        if isinstance(scale, int | float) and isinstance(offset, int | float):
            return float(scale), float(offset)
    return None, None


def _of_tags(
    scales: Sequence[float], offsets: Sequence[float]
) -> tuple[float | None, float | None]:
    """Scale and offset of the bands; without tags GDAL says 1 and 0."""
    if len(set(zip(scales, offsets, strict=True))) > 1:
        raise Unprocessable(
            f"the bands of the scene have scales {sorted(set(scales))} and offsets "
            f"{sorted(set(offsets))}: write one for all, or say --offset"
        )
    if (scales[0], offsets[0]) == (1.0, 0.0):
        return None, None
    return scales[0], offsets[0]


def check_darkest(
    ground: Array, below_zero: float, offset: Offset, given: bool, manifest: Segmentation
) -> None:
    """Refuse an offset that the pixels contradict.

    Args:
        ground: (n, bands) means of pieces of the scene, in numbers of the model.
        below_zero: share of the pixels that the offset takes below zero.
        offset: what is said, or assumed.
        given: the caller says it; then it is believed.
        manifest: knows how dark the ground was that the model was trained on.

    Raises:
        Unprocessable: an offset of 1000 is in the pixels and should not be, or the reverse.
    """
    if given or len(ground) == 0:
        return
    said = f"offset {offset.value} ({offset.because})" if offset.because else "offset unknown"
    if below_zero > TOO_DARK:
        raise Unprocessable(
            f"{said}, yet {below_zero:.0%} of the pixels would be below zero: it was taken out "
            "before; if the scene holds reflectance x 10000, say --offset 0"
        )
    known = _darkest_known(manifest)
    if known is None:
        if not offset.because:
            raise Unprocessable(
                "offset unknown: neither item nor tags of the scene have one: say --offset 0 if "
                f"its numbers are reflectance x 10000, --offset -{ADDED} if {ADDED} more"
            )
        return
    off = np.quantile(ground, DARK, axis=0) - known  # (bands,) numbers
    if off.min() > ADDED / 2:
        raise Unprocessable(
            f"{said}, yet the darkest ground is at least {off.min():.0f} brighter in every band "
            f"than where the model was trained: if {ADDED} is still in its numbers, say --offset "
            f"-{ADDED}; if it is snow, cloud or desert, say --offset {offset.value}"
        )
    if off.max() < -ADDED / 2:
        raise Unprocessable(
            f"{said}, yet the darkest ground is at least {-off.max():.0f} darker in every band "
            "than where the model was trained: say --offset 0 if its numbers are "
            "reflectance x 10000"
        )


def _darkest_known(manifest: Segmentation) -> Array | None:
    """The dark quantile of the chips' means in the reference, (bands,) numbers; or None."""
    found = []
    for band in manifest.input.bands:
        histogram = manifest.reference.signals.get(f"mean/{band}")
        if histogram is None or not sum(histogram.counts):
            return None
        found.append(_quantile(histogram, DARK))
    return np.array(found) * manifest.input.scale - manifest.input.offset


def _quantile(histogram: Histogram, share: float) -> float:
    cumulated = np.concatenate(([0], np.cumsum(histogram.counts))) / sum(histogram.counts)
    return float(np.interp(share, cumulated, histogram.edges))
