"""Descriptions of small data sets."""

from typing import Any

from pipeline.data.dataset import Dataset, Kind

SIZE = 16


def dataset(labels: Kind = "folders", **more: Any) -> Dataset:
    """Chips of two classes and two bands; `more` replaces fields."""
    fields: dict[str, Any] = {
        **{"name": "made", "classes": ("a", "b"), "bands": ("B1", "B2"), "dtype": "uint16"},
        **{"size": SIZE, "scale": 100.0, "units": "reflectance", "valid_max": 1000, "nodata": 0},
        **{"origin": "made", "licence": "none", "labels": labels},
    }
    return Dataset.model_validate(fields | more)
