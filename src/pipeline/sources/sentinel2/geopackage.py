"""Polygons of a GeoPackage: a table of SQLite whose geometries are WKB behind a short header.

OGC 12-128r19, clause 2.1.3. rasterio reads no vector files, and a second GDAL would be 25 MB.
"""

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import SourceError

ENVELOPES = {0: 0, 1: 32, 2: 48, 3: 48, 4: 64}  # code in the flags -> bytes of the bounding box
POLYGON, MULTIPOLYGON, COLLECTION = 3, 6, 7
DAMAGED = (struct.error, KeyError, IndexError, TypeError, ValueError, RecursionError)
Geometry = dict[str, Any]


def features(path: Path, layer: str) -> Iterator[tuple[Geometry, dict[str, Any]]]:
    """Yield (geometry, properties) of the polygons of a layer; of the only one if none is named.

    Raises:
        SourceError: the file is no GeoPackage, or the layer is not there.
    """
    with _opened(path) as database:
        table, column, _ = _layer(database, path, layer)
        for row in database.execute(f"SELECT * FROM {_quoted(table)}"):
            properties = dict(row)
            if content := properties.pop(column):
                try:
                    yield from ((item, properties) for item in _decode(content))
                except DAMAGED as error:
                    raise SourceError(
                        f"--labels {path}: a geometry of {table} cannot be read ({error})"
                    ) from None


def crs(path: Path, layer: str) -> str:
    """The CRS of a layer, for example EPSG:32633."""
    with _opened(path) as database:
        table, _, number = _layer(database, path, layer)
        row = database.execute(
            "SELECT organization, organization_coordsys_id FROM gpkg_spatial_ref_sys "
            "WHERE srs_id = ?",
            (number,),
        ).fetchone()
    if not row or str(row[0]).upper() == "NONE":
        raise SourceError(f"--labels {path}: layer {table} has no CRS: export it with one")
    return f"{row[0]}:{row[1]}"


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    address = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(address, uri=True)) as database:
            database.row_factory = sqlite3.Row
            yield database
    except sqlite3.Error as error:
        raise SourceError(f"--labels {path} is no GeoPackage ({error}): export it as one") from None


def _layer(database: sqlite3.Connection, path: Path, wanted: str) -> tuple[str, str, int]:
    """Table, column of geometries and number of the CRS."""
    rows = database.execute(
        "SELECT table_name, column_name, srs_id FROM gpkg_geometry_columns ORDER BY table_name"
    ).fetchall()
    names = [row[0] for row in rows]
    if not wanted and len(rows) == 1:
        return tuple(rows[0])
    if wanted not in names:
        raise SourceError(
            f"--layer {wanted or 'is missing'}: {path} has {', '.join(names) or 'no layer'}"
        )
    return tuple(rows[names.index(wanted)])


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _decode(content: bytes) -> Iterator[Geometry]:
    """The polygons of one geometry; others are passed over."""
    if content[:2] != b"GP":
        raise ValueError("no GeoPackage geometry")
    flags = content[3]
    if not flags >> 4 & 1:  # not empty
        _, parts = _wkb(content, 8 + ENVELOPES[flags >> 1 & 7])
        yield from ({"type": "Polygon", "coordinates": rings} for rings in parts)


def _wkb(content: bytes, at: int) -> tuple[int, list[list[list[tuple[float, float]]]]]:
    """Position behind a geometry, and its polygons: rings of (x, y), without height and measure."""
    order = "<" if content[at] else ">"
    kind, count = struct.unpack_from(f"{order}II", content, at + 1)
    base, extra = kind % 1000, (0, 1, 1, 2)[kind // 1000]
    at += 9
    polygons = []
    if base in (MULTIPOLYGON, COLLECTION):
        for _ in range(count):
            at, parts = _wkb(content, at)
            polygons += parts
    elif base == POLYGON:
        rings = []
        for _ in range(count):
            (points,) = struct.unpack_from(f"{order}I", content, at)
            numbers = struct.unpack_from(f"{order}{points * (2 + extra)}d", content, at + 4)
            at += 4 + 8 * len(numbers)
            rings.append(list(zip(numbers[:: 2 + extra], numbers[1 :: 2 + extra], strict=True)))
        polygons.append(rings)
    else:
        raise ValueError(f"geometry of type {kind}, wanted polygons")
    return at, polygons
