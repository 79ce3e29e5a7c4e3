"""The simulated harbour: the same bytes for the same seed, and boxes that fit what is drawn."""

import json
from argparse import ArgumentParser

import numpy as np
import pytest

from pipeline.data.images import decode
from pipeline.errors import SourceError
from pipeline.sources.synthetic_harbour import SyntheticHarbour


def test_one_seed_is_one_coast() -> None:
    files = list(SyntheticHarbour(3, 2).files())
    assert files == list(SyntheticHarbour(3, 2).files())
    assert len(files) == len(SyntheticHarbour(3, 2)) == 12
    assert files[0] != next(SyntheticHarbour(3, 2, seed=1).files())
    assert [file.path for file in files[:2]] == [
        "images/harbour-00_00.tif",
        "boxes/harbour-00_00.json",
    ]


def test_more_harbours_change_no_other() -> None:
    few, many = list(SyntheticHarbour(3, 1).files()), list(SyntheticHarbour(4, 1).files())
    assert many[: len(few)] == few


def test_a_tank_is_brighter_than_what_is_around_it() -> None:
    files = iter(SyntheticHarbour(4, 4).files())
    contrasts = []
    for image, boxes in zip(files, files, strict=True):
        pixels = decode(image.path, image.content).pixels.mean(axis=0)
        document = json.loads(boxes.content)
        assert document["group"] == image.path.split("/")[1].split("_")[0]
        for item in document["objects"]:
            left, top, right, bottom = (round(edge) for edge in item["box"])
            assert 0 <= left < right <= 64 and 0 <= top < bottom <= 64
            if item["class"] == "tank":
                middle = pixels[top:bottom, left:right].max()
                around = pixels[max(0, top - 3) : bottom + 3, max(0, left - 3) : right + 3]
                contrasts.append(middle / np.median(around))
    assert len(contrasts) > 5 and min(contrasts) > 1.2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--harbours", "2"], "--harbours is 2; choose 3 to 99"),
        (["--chips", "0"], "--chips is 0; choose 1 to 99"),
        (["--seed", "-1"], "--seed is -1; choose 0 or more"),
    ],
)
def test_options_out_of_range_are_refused(options: list[str], reason: str) -> None:
    parser = ArgumentParser()
    SyntheticHarbour.add_arguments(parser)
    with pytest.raises(SourceError, match=reason):
        SyntheticHarbour.from_arguments(parser.parse_args(options))
