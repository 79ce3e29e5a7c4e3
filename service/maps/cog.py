"""Writes a map: a cloud-optimized GeoTIFF with palette, class names, overviews and confidence."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import rasterio
import rasterio.shutil
import tifffile
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.windows import Window

from contracts.bundle import NODATA, Segmentation
from service.errors import StorageFull, Unavailable
from service.maps.grid import Span
from service.maps.work import PLANES, UNFINISHED, Work

BLOCK = 512
ROOM = 64 << 10  # bytes; on a disk with less there is no room for a file
EXTRA_SAMPLES = 338  # the tag
BANDS = ("class", "confidence, percent")
# Level 1 is four times as fast as 6 and a few percent larger; ZSTD, which is faster yet, browsers
# do not read.
COMPRESSION = {"compress": "DEFLATE", "level": 1}


def write_map(target: Path, work: Work, scene: DatasetReader, manifest: Segmentation) -> None:
    """Write the map of a scene in one step: `target` is whole, or as it was.

    The same pixels give the same bytes: neither time nor options are in it.

    Raises:
        StorageFull: the disk is full.
        Unavailable: GDAL cannot write it.
    """
    plain, cog = (work.path.with_suffix(suffix) for suffix in UNFINISHED)
    try:
        with _explained(target):
            _write_plain(plain, work, scene, manifest)
            rasterio.shutil.copy(
                plain,
                cog,
                driver="COG",
                blocksize=BLOCK,
                bigtiff="IF_SAFER",
                **COMPRESSION,
            )
            _finish(cog)
            cog.replace(target)
    finally:
        plain.unlink(missing_ok=True)
        cog.unlink(missing_ok=True)


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # GDAL's errors share no base but this
        # GDAL seldom says why it cannot write.
        if shutil.disk_usage(target.parent).free < ROOM or "space" in str(error).lower():
            raise StorageFull(
                f"the disk of {target.name} is full: free some space, then start again: what is "
                "finished is kept"
            ) from None
        raise Unavailable(
            f"{target.name} cannot be written ({type(error).__name__}): look at its disk, then "
            "start again: what is finished is kept"
        ) from None


def _write_plain(path: Path, work: Work, scene: DatasetReader, manifest: Segmentation) -> None:
    """Write a GeoTIFF that the COG driver reads: it needs to see a map more than once."""
    profile = {
        **{"driver": "GTiff", "count": PLANES, "dtype": "uint8", "nodata": NODATA},
        **{"height": scene.height, "width": scene.width},
        **{"crs": scene.crs, "transform": scene.transform},
        **{"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "bigtiff": "IF_SAFER"},
        **{"interleave": "band", "photometric": "palette"},
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write_colormap(1, _palette(manifest.colours))
        file.descriptions = BANDS
        file.update_tags(1, **{f"class_{i}": name for i, name in enumerate(manifest.classes)})
        file.update_tags(MODEL=manifest.name, MODEL_SHA256=manifest.sha256)
        for top in range(0, scene.height, BLOCK):
            rows = Span(top, min(top + BLOCK, scene.height))
            window = Window(0, top, scene.width, rows.stop - rows.start)
            for plane in range(PLANES):
                file.write(work.lines(plane, rows), plane + 1, window=window)
    # The COG driver would make them in two thirds more time, since it compresses them twice.
    if factors := overview_factors(*scene.shape):
        with rasterio.open(path, "r+") as file:
            file.build_overviews(factors, Resampling.mode)


def overview_factors(height: int, width: int) -> list[int]:
    """By what each overview is smaller, down to one that fits into a block."""
    factors = [2]
    while max(height, width) / factors[-1] > BLOCK:
        factors.append(factors[-1] * 2)
    return factors if max(height, width) > BLOCK else []


def _palette(colours: Sequence[str]) -> dict[int, tuple[int, int, int, int]]:
    found = {value: (*bytes.fromhex(colour[1:]), 255) for value, colour in enumerate(colours)}
    return {**found, NODATA: (0, 0, 0, 0)}


def _finish(path: Path) -> None:
    """Check that all pixels are there, and that viewers do not take confidence for transparency.

    The COG driver declares the second band beside a palette so. The tag is overwritten where it
    lies: nothing moves.
    """
    with tifffile.TiffFile(path, mode="r+") as file:
        size = file.filehandle.size
        for page in file.pages:
            assert isinstance(page, tifffile.TiffPage)
            page.tags[EXTRA_SAMPLES].overwrite((0,))
            # GDAL may report what it could not write to the log alone.
            pieces = zip(page.dataoffsets, page.databytecounts, strict=True)
            ends = [start + count for start, count in pieces]
            if max(ends) > size:
                raise OSError(f"the map was cut off at {size} bytes")
