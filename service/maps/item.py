"""The STAC item of a map: where it lies, what its values mean, what it was made from and with."""

import importlib.metadata
import os
from pathlib import Path
from typing import Any, NamedTuple

import rasterio
from rasterio.warp import transform_geom

from contracts.bundle import NODATA, Segmentation
from service.maps.likeness import degrees
from service.maps.scene import Scene
from service.maps.work import Counts

EXTENSIONS = [
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
]
COG = "image/tiff; application=geotiff; profile=cloud-optimized"
SQUARE = 1e6  # square metres of a square kilometre
DIGITS = 7  # of degrees: a centimetre


class Origin(NamedTuple):
    """What a map was made from, as its item names it."""

    scene_sha256: str
    model: Path
    """Folder of the bundle."""
    tag: str
    """Of the model; empty if it has none."""
    scene_href: str
    """Address of the scene; empty: its path, as seen from the item."""
    model_href: str
    """Address of the model; empty: its path, as seen from the item."""


def item_of(
    target: Path,
    sha256: str,
    scene: Scene,
    manifest: Segmentation,
    counts: Counts,
    origin: Origin,
    created: str,
    findings: dict[str, Any],
) -> dict[str, Any]:
    """Describe a map; `findings` are `warnings`, `drift` and `outside`."""
    box = degrees(scene)
    classes = classes_of(manifest)
    properties = {
        **_dates(scene, created),
        "created": created,
        **_projection(scene),
        "processing:software": _software(),
        "map:model": {
            "name": manifest.name,
            "sha256": manifest.sha256,
            "git_revision": manifest.training.git_revision,
            "data_version": manifest.training.data_version,
            **({"tag": origin.tag} if origin.tag else {}),
        },
        "map:offset": scene.offset.value,
        "map:exact": manifest.exact,
        **_areas(scene, manifest, counts),
        **{f"map:{name}": value for name, value in findings.items()},
    }
    map_asset = {
        "href": f"./{target.name}",
        "type": COG,
        "roles": ["data"],
        "file:checksum": f"1220{sha256}",
        "file:size": target.stat().st_size,
        "bands": [
            {
                **{"name": "class", "data_type": "uint8", "nodata": NODATA},
                "classification:classes": classes,
            },
            {
                **{"name": "confidence", "data_type": "uint8", "nodata": NODATA, "unit": "%"},
                "description": "Probability of the class",
            },
        ],
        "classification:classes": classes,
    }
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": EXTENSIONS,
        "id": target.stem,
        "geometry": _geometry(scene),
        "bbox": [round(edge, DIGITS) for edge in box],
        "properties": properties,
        "links": _links(target, scene, manifest, origin),
        "assets": {"map": map_asset},
    }


def classes_of(manifest: Segmentation) -> list[dict[str, Any]]:
    """`classification:classes` of a map."""
    found: list[dict[str, Any]] = [
        {"value": value, "name": name, "color_hint": colour[1:].upper()}
        for value, (name, colour) in enumerate(zip(manifest.classes, manifest.colours, strict=True))
    ]
    return [*found, {"value": NODATA, "name": "nodata", "nodata": True}]


def unsure_share(counts: Counts) -> float:
    """Share of the pixels with data whose confidence is low."""
    return counts.low / max(1, sum(counts.labels))


def _areas(scene: Scene, manifest: Segmentation, counts: Counts) -> dict[str, Any]:
    transform = scene.dataset.transform
    metres = scene.dataset.crs.linear_units_factor[1]
    pixel = abs(transform.a * transform.e) * metres**2 / SQUARE
    known = sum(counts.labels)
    return {
        "map:square_kilometres": {
            name: round(pixels * pixel, 4)
            for name, pixels in zip(manifest.classes, counts.labels, strict=True)
        },
        "map:nodata": round(1 - known / (scene.dataset.width * scene.dataset.height), 4),
        "map:confidence": round(counts.confidence / known / 100, 4),
        "map:low_confidence": round(unsure_share(counts), 4),
    }


def _dates(scene: Scene, created: str) -> dict[str, Any]:
    """When the scene was taken, if its item says; otherwise when the map was made."""
    found = (scene.item or {}).get("properties", {})
    names = ("datetime", "start_datetime", "end_datetime", "platform", "constellation", "gsd")
    kept = {name: found[name] for name in names if name in found}
    return kept if "datetime" in kept else {**kept, "datetime": created}


def _projection(scene: Scene) -> dict[str, Any]:
    crs = scene.dataset.crs
    epsg = crs.to_epsg()
    code = {"proj:code": f"EPSG:{epsg}"} if epsg else {"proj:code": None, "proj:wkt2": crs.to_wkt()}
    return {
        **code,
        "proj:transform": list(scene.dataset.transform)[:6],
        "proj:shape": list(scene.dataset.shape),
    }


def _geometry(scene: Scene) -> dict[str, Any]:
    west, south, east, north = scene.dataset.bounds
    ring = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    polygon = {"type": "Polygon", "coordinates": [ring]}
    found: dict[str, Any] = dict(
        transform_geom(
            scene.dataset.crs,
            "EPSG:4326",
            polygon,
            precision=DIGITS,
        )
    )
    return found


def _software() -> dict[str, str]:
    found = {"onnxruntime": importlib.metadata.version("onnxruntime")}
    try:
        found["conveyor"] = importlib.metadata.version("conveyor")
    except importlib.metadata.PackageNotFoundError:  # runs from a folder, as in the image
        pass
    return found | {"rasterio": rasterio.__version__, "gdal": rasterio.__gdal_version__}


def _links(
    target: Path, scene: Scene, manifest: Segmentation, origin: Origin
) -> list[dict[str, str]]:
    folder = target.resolve().parent

    def seen(path: Path) -> str:
        return Path(os.path.relpath(path.resolve(), folder)).as_posix()

    title = f"{manifest.name} {origin.tag}".strip()
    links = [
        {
            "rel": "derived_from",
            "href": origin.scene_href or seen(scene.path),
            "title": f"scene, sha256 {origin.scene_sha256}",
        },
        {
            "rel": "derived_from",
            "href": origin.model_href or seen(origin.model / "model.json"),
            "title": f"model {title}, sha256 {manifest.sha256}",
        },
    ]
    if scene.item_path is not None:
        item = {
            "rel": "derived_from",
            "href": seen(scene.item_path),
            "type": "application/geo+json",
        }
        links.append({**item, "title": f"item {(scene.item or {}).get('id', '')} of the scene"})
    return links
