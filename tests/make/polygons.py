"""Polygons with classes, as GeoJSON and as a GeoPackage."""

import json
import sqlite3
import struct
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

Ring = Sequence[tuple[float, float]]


def rectangle(west: float, south: float, east: float, north: float) -> Ring:
    """A closed ring."""
    return [(west, south), (east, south), (east, north), (west, north), (west, south)]


def write_geojson(path: Path, shapes: Sequence[tuple[Sequence[Ring], Mapping[str, Any]]]) -> Path:
    """Write polygons in degrees, each with its properties."""
    features = [
        {
            "type": "Feature",
            "properties": dict(properties),
            "geometry": {"type": "Polygon", "coordinates": rings},
        }
        for rings, properties in shapes
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def write_geopackage(
    path: Path,
    layers: Mapping[str, Sequence[tuple[Sequence[Ring], str]]],
    epsg: int = 32633,
    heights: bool = False,
    order: str = "<",
) -> Path:
    """Write layers of polygons, each with its value in the column `landuse`."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA application_id = 0x47504B47")
        database.execute(
            "CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT, srs_id INTEGER PRIMARY KEY, "
            "organization TEXT, organization_coordsys_id INTEGER, definition TEXT)"
        )
        database.execute(
            "CREATE TABLE gpkg_geometry_columns (table_name TEXT, column_name TEXT, "
            "geometry_type_name TEXT, srs_id INTEGER, z INTEGER, m INTEGER)"
        )
        database.execute(
            "INSERT INTO gpkg_spatial_ref_sys VALUES ('UTM', 7, 'EPSG', ?, 'undefined')", (epsg,)
        )
        for name, shapes in layers.items():
            database.execute(
                "INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', 'POLYGON', 7, 0, 0)", (name,)
            )
            database.execute(f'CREATE TABLE "{name}" (fid INTEGER, geom BLOB, landuse TEXT)')
            for index, (rings, value) in enumerate(shapes):
                row = (index, geometry(rings, heights, order), value)
                database.execute(f'INSERT INTO "{name}" VALUES (?, ?, ?)', row)
        database.commit()
    return path


def geometry(rings: Sequence[Ring], heights: bool = False, order: str = "<") -> bytes:
    """A multipolygon of one polygon, with a bounding box in the header."""
    box = [value for axis in (0, 1) for value in _range([p[axis] for p in rings[0]])]
    header = b"GP" + bytes([0, 0b11]) + struct.pack("<i4d", 7, *box)
    kind = 1000 if heights else 0
    first = bytes([order == "<"])
    polygon = first + struct.pack(f"{order}II", 3 + kind, len(rings))
    for ring in rings:
        polygon += struct.pack(f"{order}I", len(ring))
        for x, y in ring:
            polygon += struct.pack(f"{order}{3 if heights else 2}d", x, y, *([5.0] * heights))
    return header + first + struct.pack(f"{order}II", 6 + kind, 1) + polygon


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)
