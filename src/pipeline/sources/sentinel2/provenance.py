"""The STAC item that lies beside an image in `data/`: the catalogue's, and what was done to it.

No token and no signed address gets in: of an address, what stands before the question mark is kept.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.sources.sentinel2.assets import CLOUDS, Asset
from pipeline.sources.sentinel2.catalogues import Catalogue
from pipeline.sources.sentinel2.footprints import box_of
from pipeline.sources.sentinel2.radiometry import SCALE, Offset
from pipeline.sources.sentinel2.search import Scene
from pipeline.sources.sentinel2.stack import Grid

EXTENSIONS = [
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in ("file/v2.1.0", "projection/v2.0.0", "raster/v2.0.0")
]
VERSION = 1  # of how images are made; another one makes them anew
# Of the catalogue's item; this one is derived from it.
KEPT_LINKS = {"self": "derived_from", "collection": "collection", "license": "license"}
NOT_KEPT = ("alternate", "auth:refs", "storage:refs", "storage:schemes")  # how to open it elsewhere


def fingerprint(
    scene: Scene, assets: Mapping[str, Asset], offsets: Mapping[str, Offset], chosen: Sequence[Any]
) -> str:
    """Of everything that decides on the bytes of an image, so that it is made once."""
    sources = {
        band: [_bare(asset.url), asset.document.get("file:checksum"), asset.size]
        for band, asset in assets.items()
    }
    document = [VERSION, scene.item["id"], scene.baseline, sources, dict(offsets), chosen]
    text = json.dumps(document, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def item_of(
    scene: Scene,
    catalogue: Catalogue,
    assets: Mapping[str, Asset],
    offsets: Mapping[str, Offset],
    image: Path,
    grid: Grid,
    made: Mapping[str, Any],
) -> bytes:
    """Describe an image: the same bytes for the same image."""
    source = scene.item
    links = [
        {"rel": KEPT_LINKS[link["rel"]], "href": _bare(link.get("href", ""))}
        for link in source.get("links", [])
        if link.get("rel") in KEPT_LINKS
    ]
    document = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": sorted({*source.get("stac_extensions", []), *EXTENSIONS}),
        "id": source["id"],
        "collection": source.get("collection", catalogue.collection),
        "geometry": source["geometry"],
        "bbox": source.get("bbox") or box_of(source["geometry"]),
        "properties": source["properties"] | {f"conveyor:{name}": made[name] for name in made},
        "links": links,
        "assets": {band: _source(asset) for band, asset in assets.items()}
        | {"image": _image(scene, offsets, image, grid)},
    }
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def _image(scene: Scene, offsets: Mapping[str, Offset], image: Path, grid: Grid) -> dict[str, Any]:
    with image.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    bands = [
        {"name": band, "description": f"offset {offsets[band].value} ({offsets[band].because})"}
        for band in offsets
    ]
    return {
        "href": f"../images/{scene.name}.tif",
        "type": "image/tiff; application=geotiff",
        "roles": ["data", "reflectance"],
        "data_type": "uint16",
        "nodata": 0,
        "raster:scale": 1 / SCALE,
        "raster:offset": 0,
        "bands": bands,
        "proj:code": grid.crs.to_string(),
        "proj:shape": [grid.height, grid.width],
        "proj:transform": list(grid.transform)[:6],
        "file:checksum": f"1220{digest}",
        "file:size": image.stat().st_size,
    }


def _source(asset: Asset) -> dict[str, Any]:
    kept = {name: value for name, value in asset.document.items() if name not in NOT_KEPT}
    roles = ["metadata" if asset.band == CLOUDS else "source"]
    return kept | {"href": _bare(asset.url), "roles": roles}


def _bare(url: str) -> str:
    """An address without password, query and fragment."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.scheme else ""
