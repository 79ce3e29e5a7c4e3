"""Which file of an item is which band: by name only, never by order."""

import math
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from pipeline.errors import DataError, SourceError
from pipeline.sources.sentinel2.search import Scene

COMMON_NAMES = {
    "B01": "coastal",
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B05": "rededge1",
    "B06": "rededge2",
    "B07": "rededge3",
    "B08": "nir",
    "B8A": "nir08",
    "B09": "nir09",
    "B10": "cirrus",
    "B11": "swir16",
    "B12": "swir22",
    "SCL": "scl",
}
"""Band -> its name in Earth Search and in `eo:common_name`. Nothing else is a band."""
CLOUDS = "SCL"  # the scene classification of level 2A
# Multihash: what stands before the digest, and hashlib's name.
HASHES = {"1220": "sha256", "1340": "sha512", "1114": "sha1", "d50110": "md5"}


class SceneFault(DataError):
    """A scene cannot be used; the others can."""


class Asset(NamedTuple):
    """A file with one band."""

    band: str
    key: str
    """Its name in the item."""
    url: str
    document: dict[str, Any]
    """The asset as the item describes it."""

    @property
    def size(self) -> int | None:
        """Bytes, where the catalogue names them."""
        size = self.document.get("file:size")
        return int(size) if isinstance(size, int) and size > 0 else None

    @property
    def checksum(self) -> tuple[str, str] | None:
        """Name in hashlib and digest, where the catalogue has one that hashlib knows."""
        text = str(self.document.get("file:checksum", "")).lower()
        for prefix, name in HASHES.items():
            if text.startswith(prefix):
                return name, text.removeprefix(prefix)
        return None

    def number(self, name: str) -> float | None:
        """`scale`, `offset` or `nodata`: STAC 1.0 and 1.1 have them in three places.

        Raises:
            SceneFault: it is no number.
        """
        described = [self.document.get(key) or [{}] for key in ("bands", "raster:bands")]
        for place in (self.document, *(bands[0] for bands in described)):
            for key in (f"raster:{name}", name):
                if (value := place.get(key)) is None:
                    continue
                if isinstance(value, int | float) and math.isfinite(value):
                    return value
                raise SceneFault(f"asset {self.key} has {key} {value!r}, wanted a number")
        return None


def find_assets(scene: Scene, bands: tuple[str, ...], resolution: float) -> list[Asset]:
    """Find the file of each band.

    Raises:
        SceneFault: a band is missing, or its address is none to fetch from.
    """
    found = [find_asset(scene, band, resolution) for band in bands]
    missing = [band for band, asset in zip(bands, found, strict=True) if asset is None]
    if missing:
        raise SceneFault(
            f"no asset for {', '.join(missing)}; it has "
            f"{', '.join(sorted(scene.item['assets'])[:30])}: change --bands or --collection"
        )
    return [asset for asset in found if asset]


def find_asset(scene: Scene, band: str, resolution: float) -> Asset | None:
    """Find the file of one band; of several resolutions the wanted one."""
    assets: dict[str, Any] = scene.item["assets"]
    common = COMMON_NAMES[band]
    at_resolution = [f"{band}_{int(metres)}m" for metres in (resolution, 10, 20, 60)]
    described = [key for key, asset in assets.items() if _is_described_as(asset, band, common)]
    for key in (band, common, *at_resolution, *described):
        if key in assets:
            return Asset(band, key, _url(scene, assets[key], key), assets[key])
    return None


def _is_described_as(asset: dict[str, Any], band: str, common: str) -> bool:
    bands = asset.get("bands") or asset.get("eo:bands") or []
    names = (
        {bands[0].get(key) for key in ("name", "eo:common_name", "common_name")} if bands else set()
    )
    return len(bands) == 1 and bool({band, common} & names) and "jp2" not in str(asset.get("type"))


def _url(scene: Scene, asset: dict[str, Any], key: str) -> str:
    """The address over HTTP; a relative one is relative to the item's own."""
    own = next(
        (link.get("href", "") for link in scene.item.get("links", []) if link.get("rel") == "self"),
        "",
    )
    others = [other.get("href", "") for other in (asset.get("alternate") or {}).values()]
    for href in (asset.get("href", ""), *others):
        url = urljoin(own, str(href))
        if urlsplit(url).scheme in ("http", "https"):
            return url
    raise SceneFault(
        f"asset {key} has no address over HTTP "
        f"({str(asset.get('href'))[:100]}): choose another --catalogue"
    )


def check_bands(text: str) -> tuple[str, ...]:
    """Read `B02,B03,B04,B08`.

    Raises:
        SourceError: a name is no band of Sentinel-2, or stands twice.
    """
    bands = tuple(name.strip().upper() for name in text.split(",") if name.strip())
    known = [name for name in COMMON_NAMES if name != CLOUDS]
    if wrong := [name for name in bands if name not in known]:
        raise SourceError(
            f"--bands: {wrong[0]} is no band of Sentinel-2: choose of {', '.join(known)}"
        )
    if not bands or len(set(bands)) != len(bands):
        raise SourceError(f"--bands {text}: name each band once, as in B02,B03,B04,B08")
    return bands
