"""The area and the dates of a search, as a person writes them.

Across the date line longitudes go on past 180, so that west is always less than east; a search is
then two boxes.
"""

import calendar
import json
import math
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import SourceError

Box = tuple[float, float, float, float]
"""West, south, east, north, degrees."""
Polygon = list[list[tuple[float, float]]]
"""Rings of (longitude, latitude), degrees: the outer one, then holes."""

WIDEST = 180  # degrees; a wider polygon runs around the other side of the Earth
DAY = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?")
NUMBER = r"\s*[-+]?\d+(?:\.\d*)?\s*"
BOX = re.compile(f"(?:{NUMBER},){{3}}{NUMBER}")


class Area(NamedTuple):
    """Where scenes are wanted."""

    polygons: tuple[Polygon, ...]

    @property
    def box(self) -> Box:
        """The box around everything; its east may be past 180."""
        points = [point for polygon in self.polygons for point in polygon[0]]
        xs, ys = [x for x, _ in points], [y for _, y in points]
        return min(xs), min(ys), max(xs), max(ys)

    def boxes(self) -> list[Box]:
        """The box within -180 to 180: two of them where it crosses the date line."""
        west, south, east, north = self.box
        if east <= 180:
            return [(west, south, east, north)]
        return [(west, south, 180, north), (-180, south, east - 360, north)]

    def geometries(self) -> list[dict[str, Any]]:
        """The polygons as GeoJSON."""
        return [{"type": "Polygon", "coordinates": polygon} for polygon in self.polygons]


def read_area(text: str) -> Area:
    """Read `west,south,east,north` in degrees, or a file of GeoJSON.

    Raises:
        SourceError: it is neither, or its coordinates are no area in degrees.
    """
    if BOX.fullmatch(text):
        west, south, east, north = (float(number) for number in text.split(","))
        if west > east:  # across the date line
            east += 360
        corners = [(west, south), (east, south), (east, north), (west, north), (west, south)]
        if south >= north or west >= east:
            raise SourceError(f"--area {text} is empty: write west,south,east,north in degrees")
        return _checked([[corners]], f"--area {text}")
    polygons = [
        [[(float(x), float(y)) for x, y, *_ in ring] for ring in geometry["coordinates"]]
        for geometry in read_polygons(Path(text), "--area")
    ]
    return _checked(polygons, f"--area {text}")


def read_polygons(path: Path, option: str) -> Iterator[dict[str, Any]]:
    """Yield the polygons of a GeoJSON file, one ring list each; see `features`."""
    for geometry, _ in features(path, option):
        if geometry["type"] == "Polygon":
            yield geometry
        else:
            for rings in geometry["coordinates"]:
                yield {"type": "Polygon", "coordinates": rings}


def features(path: Path, option: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield (geometry, properties) of the polygons in a GeoJSON file.

    Raises:
        SourceError: the file is no GeoJSON in degrees, or holds something else than polygons.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise SourceError(f"{option} {path}: no such file") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{option} {path} cannot be read as GeoJSON: {error}") from None
    if not isinstance(document, dict):
        raise SourceError(f"{option} {path} is JSON, but no GeoJSON: export it as GeoJSON")
    crs = json.dumps(document.get("crs") or "CRS84")
    if not re.search(r"CRS84|4326", crs):
        raise SourceError(
            f"{option} {path} is in another CRS ({crs}): export it in degrees of WGS 84, as RFC "
            "7946 has it"
        )
    found = False
    for geometry, properties in _geometries(document, {}):
        kind = geometry.get("type")
        if kind not in ("Polygon", "MultiPolygon"):
            raise SourceError(f"{option} {path} holds a {kind}, wanted polygons: remove it")
        _check_positions(geometry.get("coordinates"), f"{option} {path}")
        found = True
        yield geometry, properties
    if not found:
        raise SourceError(f"{option} {path} holds no polygon: draw the area and export it again")


def _geometries(
    node: dict[str, Any], properties: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    match node.get("type"):
        case "FeatureCollection":
            for feature in node.get("features") or []:
                yield from _geometries(feature, {})
        case "Feature":
            if node.get("geometry"):
                yield from _geometries(node["geometry"], node.get("properties") or {})
        case "GeometryCollection":
            for part in node.get("geometries") or []:
                yield from _geometries(part, properties)
        case _:
            yield node, properties


def _check_positions(rings: Any, where: str) -> None:
    """Refuse coordinates that are no rings of degrees."""
    try:
        polygons = [rings] if isinstance(rings[0][0][0], int | float) else rings
        for ring in chain.from_iterable(polygons):
            if len(ring) < 4:
                raise SourceError(f"{where}: a ring has {len(ring)} corners, wanted four or more")
            for x, y, *_ in ring:
                if not (abs(x) <= 360 and abs(y) <= 90):
                    raise SourceError(
                        f"{where}: {x:g}, {y:g} is no longitude and latitude in degrees: export it "
                        "in WGS 84"
                    )
    except (TypeError, ValueError, IndexError, KeyError):
        raise SourceError(f"{where}: its coordinates are no polygon: export it again") from None


def _checked(polygons: Sequence[Polygon], where: str) -> Area:
    """Bring the polygons side by side, also across the date line."""
    for polygon in polygons:
        xs = [x for x, _ in polygon[0]]
        if max(xs) - min(xs) > WIDEST:
            raise SourceError(
                f"{where} spans {max(xs) - min(xs):g} degrees of longitude: if it crosses the date "
                "line, cut it there (RFC 7946) or write --area=179,-18,-179,-16"
            )
    area = Area(tuple(polygons))
    if area.box[2] - area.box[0] > WIDEST:  # parts on both sides of the date line
        area = Area(
            tuple(
                [[(x + 360 if x < 0 else x, y) for x, y in ring] for ring in polygon]
                for polygon in polygons
            )
        )
    west, south, east, north = area.box
    if not all(map(math.isfinite, area.box)) or max(abs(south), abs(north)) > 90 or east > 540:
        raise SourceError(f"{where} is no area in degrees: write west,south,east,north")
    if east - west > WIDEST:
        raise SourceError(f"{where} spans {east - west:g} degrees: draw a smaller area")
    shift = -360 if west >= 180 else 360 if west < -180 else 0
    return Area(
        tuple([[(x + shift, y) for x, y in ring] for ring in polygon] for polygon in area.polygons)
    )


def read_dates(text: str) -> tuple[datetime, datetime]:
    """Read `2025-05/2025-09`, `2025-06-17` or `2025`: from the first moment to the last, UTC.

    Raises:
        SourceError: it is no such thing, or it ends before it starts.
    """
    first, _, last = text.partition("/")
    start, end = _moment(first, text, False), _moment(last or first, text, True)
    if end < start:
        raise SourceError(f"--dates {text} end before they start: swap the two")
    return start, end


def _moment(text: str, whole: str, is_last: bool) -> datetime:
    match = DAY.fullmatch(text.strip())
    try:
        if not match:
            raise ValueError
        year, month, day = (int(part) if part else 0 for part in match.groups())
        month = month or (12 if is_last else 1)
        day = day or (calendar.monthrange(year, month)[1] if is_last else 1)
        clock = (23, 59, 59) if is_last else (0, 0, 0)
        return datetime(year, month, day, *clock, tzinfo=UTC)
    except (ValueError, calendar.IllegalMonthError):
        raise SourceError(
            f"--dates {whole} are no dates: write 2025-05/2025-09, or 2025-06-17"
        ) from None
