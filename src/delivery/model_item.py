"""Command: the STAC item of a version, by the extension for models (MLM 1.5).

    python -m delivery.model_item landcover@v1.2.0

Writes artifacts/model.stac.json from the bundle in model/ and the version's tag. Catalogues of
models can take it as it is; delivery.tracking uploads it beside the bundle. Normalisation is inside
the graph, so `value_scaling` is null; digital numbers, nodata and resolution stand in `bands`.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from contracts import commands
from contracts.bundle import (
    GRAPH,
    MANIFEST,
    Area,
    Detection,
    Input,
    Instances,
    Manifest,
    Segmentation,
    parse_manifest,
)
from contracts.commit import BUNDLE, folder_digest
from contracts.faults import first_fault
from contracts.tags import Version
from delivery.errors import DeliveryError, command
from delivery.registry.registry import Registry, open_registry
from delivery.registry.state import model_digest
from delivery.tags import parse_version

ITEM = Path("artifacts/model.stac.json")
MLM = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
EXTENSIONS = (
    MLM,
    *(
        f"https://stac-extensions.github.io/{name}/schema.json"
        for name in ("classification/v1.1.0", "file/v2.1.0", "version/v1.2.0", "processing/v1.2.0")
    ),
)
WORLD = Area(west=-180, south=-90, east=180, north=90)
MULTIHASH = "1220"  # SHA-256 of 32 bytes follows
COMMON_NAMES = {
    "B01": "coastal",
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B05": "rededge071",
    "B06": "rededge075",
    "B07": "rededge078",
    "B08": "nir",
    "B8A": "nir08",
    "B09": "nir09",
    "B10": "cirrus",
    "B11": "swir16",
    "B12": "swir22",
}
"""Of the bands of Sentinel-2."""
TASKS = {
    "classification": "scene-classification",
    "segmentation": "semantic-segmentation",
    "detection": "object-detection",
    "instances": "instance-segmentation",
}


@command
def main() -> None:
    """Write the item of a version."""
    parser = commands.parser("delivery.model_item", __doc__)
    parser.add_argument("version")
    registry = open_registry()
    registry.sync()
    version = registry.find(parse_version(parser.parse_args().version, registry.name).tag)
    print(f"{write(registry, version)}: {version.tag}")


def write(registry: Registry, version: Version) -> Path:
    """Describe the bundle in model/ as a version; returns the file.

    Raises:
        DeliveryError: model/ is missing, of another version, or of another schema.
    """
    bundle = Path(BUNDLE)
    commit = registry.state().versions[version].commit
    if not bundle.is_dir() or folder_digest(bundle) != model_digest(registry.repository, commit):
        raise DeliveryError(f"{BUNDLE}/ is not the bundle of {version.tag}: dvc pull {BUNDLE}")
    try:
        manifest = parse_manifest((bundle / MANIFEST).read_bytes())
    except ValidationError as error:
        fault = first_fault(error, "the file")
        raise DeliveryError(f"{BUNDLE}/{MANIFEST}: {fault}; train it again") from None
    item = describe(manifest, version, commit, (bundle / GRAPH).stat().st_size)
    ITEM.parent.mkdir(exist_ok=True)
    ITEM.write_text(json.dumps(item, indent=1) + "\n", encoding="utf-8")
    return ITEM


def describe(manifest: Manifest, version: Version, commit: str, size: int) -> dict[str, Any]:
    """The item of a model, a GeoJSON feature.

    Args:
        commit: of the version's tag.
        size: of the graph, bytes.
    """
    number = version.text.removeprefix("v")
    area = manifest.area if isinstance(manifest, Segmentation) and manifest.area else WORLD
    bands = [_band(name, manifest.input) for name in manifest.input.bands]
    graph = {
        "href": f"./{GRAPH}",
        "type": "application/octet-stream; framework=onnx; profile=onnx",
        "title": "ONNX graph",
        "roles": ["mlm:model", "mlm:weights", "data"],
        "mlm:artifact_type": "onnx",
        "file:checksum": MULTIHASH + manifest.sha256,
        "file:size": size,
        "bands": bands,
    }
    document = {
        "href": f"./{MANIFEST}",
        "type": "application/json",
        "title": "Manifest of the bundle: reference for drift, golden answers",
        "roles": ["metadata"],
    }
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": list(EXTENSIONS),
        "id": f"{version.name}-{version.text}",
        "geometry": _polygon(area),
        "bbox": [area.west, area.south, area.east, area.north],
        "properties": {
            **_dates(manifest, area),
            "title": f"{version.name} {version.text}",
            "version": number,
            **_model(manifest, size),
            "bands": bands,
            "processing:software": manifest.training.libraries,
            "processing:lineage": (
                f"version {version.tag} at commit {commit}; trained at "
                f"{manifest.training.git_revision} on data {manifest.training.data_version}"
            ),
        },
        "links": [],
        "assets": {"model": graph, "manifest": document},
    }


def _model(manifest: Manifest, size: int) -> dict[str, Any]:
    training, task = manifest.training, TASKS[manifest.task]
    params = training.params if isinstance(training.params, dict) else {}
    network = params.get("model", {}).get("network", manifest.task)
    return {
        "mlm:name": manifest.name,
        "mlm:architecture": network,
        "mlm:tasks": [task],
        "mlm:framework": "ONNX",
        "mlm:framework_version": training.libraries.get("onnx", "unknown"),
        "mlm:pretrained": False,
        "mlm:pretrained_source": None,
        "mlm:accelerator": "amd64",
        "mlm:accelerator_constrained": False,
        "mlm:accelerator_summary": f"ONNX Runtime; trained on {training.hardware}",
        "mlm:batch_size_suggestion": 1,
        "mlm:memory_size": size,
        "mlm:input": [_input(manifest)],
        "mlm:output": [_output(manifest, task)],
        "mlm:hyperparameters": {
            f"{section}.{name}": value
            for section in ("model", "train")
            for name, value in params.get(section, {}).items()
        },
    }


def _input(manifest: Manifest) -> dict[str, Any]:
    wanted = manifest.input
    size, note = [wanted.height, wanted.width], ""
    if isinstance(manifest, Segmentation):
        size, note = [-1, -1], f"; edges are multiples of {manifest.stride}"
    elif wanted.multiple:
        size, note = [-1, -1], f"; edges are multiples of {wanted.multiple}"
    return {
        "name": "chips",
        "description": f"Digital numbers as delivered: normalisation is inside the graph{note}",
        "bands": list(wanted.bands),
        "input": {
            "shape": [-1, len(wanted.bands), *size],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": wanted.dtype,
        },
        "value_scaling": None,
        "resize_type": None,
        "pre_processing_function": None,
    }


def _output(manifest: Manifest, task: str) -> dict[str, Any]:
    result: dict[str, Any] = {
        "shape": [-1, len(manifest.classes)],
        "dim_order": ["batch", "class"],
        "data_type": "float32",
    }
    if isinstance(manifest, Segmentation):
        dimensions = ["batch", "height", "width"]
        result = {"shape": [-1, -1, -1], "dim_order": dimensions, "data_type": "uint8"}
    name = "labels" if isinstance(manifest, Segmentation) else "probabilities"
    if isinstance(manifest, Detection):
        name, dimensions = "boxes", ["batch", "box", "edge"]
        result = {"shape": [-1, -1, 4], "dim_order": dimensions, "data_type": "float32"}
    if isinstance(manifest, Instances):
        name, dimensions = "masks", ["batch", "box", "height", "width"]
        result = {"shape": [-1, -1, -1, -1], "dim_order": dimensions, "data_type": "uint8"}
    return {
        "name": name,
        "tasks": [task],
        "result": result,
        "classification:classes": [
            {"value": value, "name": name} for value, name in enumerate(manifest.classes)
        ],
        "post_processing_function": None,
    }


def _band(name: str, wanted: Input) -> dict[str, Any]:
    scale = 1 / wanted.scale
    band: dict[str, Any] = {
        "name": name,
        "data_type": wanted.dtype,
        "unit": wanted.units,
        "raster:scale": scale,
        "raster:offset": wanted.offset * scale,
    }
    if wanted.nodata is not None:
        band["nodata"] = wanted.nodata
    if wanted.resolution is not None:
        band["raster:spatial_resolution"] = wanted.resolution
    if name in COMMON_NAMES:
        band["eo:common_name"] = COMMON_NAMES[name]
    return band


def _dates(manifest: Manifest, area: Area) -> dict[str, Any]:
    """When the images of its training were taken; if that is unknown, when it was trained."""
    finished = manifest.training.finished
    taken: dict[str, Any] = {"datetime": finished}
    if area.first and area.last:
        taken = {"datetime": None, "start_datetime": area.first, "end_datetime": area.last}
    return {**taken, "created": finished}


def _polygon(area: Area) -> dict[str, Any]:
    """The box of the area; of one across the date line, two boxes."""

    def ring(west: float, east: float) -> list[list[list[float]]]:
        south, north = area.south, area.north
        return [[[west, south], [east, south], [east, north], [west, north], [west, south]]]

    if area.west <= area.east:
        return {"type": "Polygon", "coordinates": ring(area.west, area.east)}
    return {
        "type": "MultiPolygon",
        "coordinates": [ring(area.west, 180), ring(-180, area.east)],
    }


if __name__ == "__main__":
    main()
