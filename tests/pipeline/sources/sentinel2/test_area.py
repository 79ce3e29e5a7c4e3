"""Areas and dates as people write them."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import SourceError
from pipeline.sources.sentinel2.area import read_area, read_dates
from pipeline.sources.sentinel2.footprints import covered, drawn, overlap

SQUARE = [[14.0, 46.0], [15.0, 46.0], [15.0, 47.0], [14.0, 47.0], [14.0, 46.0]]


def polygon(*rings: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def square(west: float, south: float = -18, size: float = 2) -> list[list[float]]:
    east, north = west + size, south + size
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


def written(folder: Path, document: Any) -> str:
    path = folder / "aoi.geojson"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return str(path)


@pytest.mark.parametrize(
    "document",
    [
        polygon(SQUARE),
        {"type": "Feature", "properties": None, "geometry": polygon(SQUARE)},
        {
            "type": "FeatureCollection",
            "features": [{"type": "Feature", "geometry": polygon(SQUARE)}],
        },
        {"type": "MultiPolygon", "coordinates": [[SQUARE]]},
        {"type": "GeometryCollection", "geometries": [polygon(SQUARE)]},
        polygon([[*point, 300.0] for point in SQUARE]),
    ],
    ids=["polygon", "feature", "collection", "multipolygon", "geometries", "with-heights"],
)
def test_every_kind_of_geojson_is_an_area(document: Any, tmp_path: Path) -> None:
    assert read_area(written(tmp_path, document)).boxes() == [(14, 46, 15, 47)]


def test_four_numbers_are_an_area() -> None:
    assert read_area("14, 46, 15, 47").boxes() == [(14, 46, 15, 47)]


@pytest.mark.parametrize(
    "document",
    [
        {"type": "MultiPolygon", "coordinates": [[square(178)], [square(-180, size=1)]]},
        polygon(square(178, size=3)),
        polygon(square(-182, size=3)),
        "178,-18,-179,-16",
    ],
    ids=["cut", "past-180", "before-minus-180", "box"],
)
def test_across_the_date_line_there_are_two_boxes(document: Any, tmp_path: Path) -> None:
    is_box = isinstance(document, str)
    area = read_area(document if is_box else written(tmp_path, document))
    assert [box[0::2] for box in area.boxes()] == [(178, 180), (-180, -179)]
    east_of_it = polygon(square(-180, size=1))
    assert 0.1 < covered(area, east_of_it) < 0.6
    assert overlap(east_of_it, east_of_it) == 1


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            polygon([[x * 1e5, y * 1e5] for x, y in SQUARE]),
            "is no longitude and latitude in degrees",
        ),
        (polygon(SQUARE[:2]), "a ring has 2 corners"),
        (polygon([[-179.0, 0], [179.0, 0], [179.0, 1], [-179.0, 1], [-179.0, 0]]), "cut it there"),
        ({"type": "Point", "coordinates": [1, 2]}, "holds a Point, wanted polygons"),
        ({"type": "Polygon", "coordinates": None}, "its coordinates are no polygon"),
        ({"type": "Polygon", "coordinates": [[[1, "x"]] * 4]}, "its coordinates are no polygon"),
        ({"type": "FeatureCollection", "features": []}, "holds no polygon"),
        ({**polygon(SQUARE), "crs": {"properties": {"name": "EPSG:32633"}}}, "is in another CRS"),
        ([1, 2], "no GeoJSON"),
        ("{", "cannot be read as GeoJSON"),
    ],
)
def test_what_is_no_area_is_refused_with_a_cure(
    document: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=f"^--area .*{message}"):
        read_area(written(tmp_path, document))


@pytest.mark.parametrize(
    "text", ["14,47,15,46", "14,46,14,47", "14,46,15,97", "1.2.3,4,5,6", "nowhere.geojson"]
)
def test_boxes_without_content_and_files_that_are_not_there_are_refused(text: str) -> None:
    with pytest.raises(SourceError, match="^--area "):
        read_area(text)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2025-05/2025-09", "2025-05-01 00:00:00", "2025-09-30 23:59:59"),
        ("2024-02", "2024-02-01 00:00:00", "2024-02-29 23:59:59"),
        ("2025-06-17", "2025-06-17 00:00:00", "2025-06-17 23:59:59"),
        ("2025", "2025-01-01 00:00:00", "2025-12-31 23:59:59"),
    ],
)
def test_dates_last_until_the_end_of_what_they_name(text: str, first: str, last: str) -> None:
    assert [f"{moment:%Y-%m-%d %H:%M:%S}" for moment in read_dates(text)] == [first, last]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2025-09/2025-05", "end before they start: swap"),
        ("2025-13", "are no dates: write 2025-05/2025-09"),
        ("2025-02-30", "are no dates"),
        ("summer", "are no dates"),
        ("", "are no dates"),
        ("0000", "are no dates"),
    ],
)
def test_what_are_no_dates_is_refused_with_a_cure(text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read_dates(text)


def test_the_map_counts_scenes_within_the_area() -> None:
    area = read_area("0,0,2,2")
    west, all_of_it = polygon(square(0, 0, 1)), polygon(square(0, 0, 2))
    assert covered(area, all_of_it) == 1
    assert 0.2 < covered(area, west) < 0.3
    text = drawn(area, [west, all_of_it])
    assert {"1", "2"} <= set(text) <= set("012. \n")
    assert text.splitlines()[-4].count("2") > 5, "south is at the top"
