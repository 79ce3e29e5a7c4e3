"""What a model found against what people say is there: counted, stored, and counted together."""

import asyncio
import io
import json
import math
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from pipeline.tasks.matching import match
from service.errors import Unprocessable
from service.feedback.database import Database
from service.feedback.journal import Routed
from service.feedback.objects import Box, FoundObject, FoundObjects, Object, Verdict, compare
from service.feedback.retention import Retention
from service.feedback.service import FeedbackService
from service.feedback.store import ObjectCount, PredictionRow, RightOrWrong, Store
from service.feedback.tables import Kind
from service.http.feedback import add_feedback
from tests.make.predictions import NOW, SEA, SHIP, TANK, everything, found, names, seen

TRUE = [("ship", SHIP), ("tank", TANK)]
OTHER: Box = (0.0, 30.0, 8.0, 38.0)


@pytest.fixture
def store(url: str, tmp_path: Path) -> Iterator[Store]:
    database = Database(url, tmp_path)
    yield Store(database, keep_below=0.6)
    database.close()


# Matching


def moved(box: Box, by: float) -> Box:
    left, top, right, bottom = box
    return left + by, top, right + by, bottom


@pytest.mark.parametrize(
    ("true", "verdict"),
    [
        ([(0, SHIP), (1, TANK)], (2, 0, 0)),
        ([], (0, 0, 2)),
        ([(1, SHIP), (1, TANK)], (1, 1, 1)),  # of another class
        ([(0, moved(SHIP, 3)), (1, TANK)], (2, 0, 0)),  # 7 of 13 columns
        ([(0, moved(SHIP, 4)), (1, TANK)], (1, 1, 1)),  # 6 of 14
        ([(0, SHIP), (0, moved(SHIP, 1)), (1, TANK)], (2, 1, 0)),  # a box is right once
    ],
)
def test_a_box_is_right_by_its_class_and_half_of_its_area(
    true: list[tuple[int, Box]], verdict: tuple[int, int, int]
) -> None:
    seen = found("a").found
    assert seen is not None
    assert compare(seen, [Object(*item) for item in true]) == Verdict(*verdict)


def test_the_surest_box_takes_an_object_first() -> None:
    seen = FoundObjects(40, 50, (FoundObject(0, moved(SHIP, 2), 0.9), FoundObject(0, SHIP, 0.8)))
    assert compare(seen, [Object(0, SHIP)]) == (1, 0, 1)
    assert compare(seen._replace(objects=()), []) == (0, 0, 0)


def test_matching_is_that_of_the_test_images() -> None:
    rng = np.random.default_rng(7)
    for _ in range(200):
        corners = np.sort(rng.integers(0, 24, (2, 12, 2, 2)), axis=2)  # left, top; right, bottom
        boxes, true = (side.reshape(12, 4).astype(np.float32) for side in corners)
        classes = rng.integers(0, 2, (2, 12))
        seen = [FoundObject(c, tuple(b), 0.5) for c, b in zip(classes[0], boxes.tolist())]
        there = [Object(c, tuple(b)) for c, b in zip(classes[1], true.tolist())]
        right = sum(
            int((match(boxes[classes[0] == c], true[classes[1] == c]) >= 0).sum()) for c in (0, 1)
        )
        verdict = compare(FoundObjects(24, 24, tuple(seen)), there)
        assert verdict == (right, 12 - right, 12 - right)


# In the database


def test_objects_are_a_label_that_counts_once_and_can_be_corrected(store: Store) -> None:
    store.save_predictions([found("a")])
    soon = NOW + timedelta(seconds=30)
    given = store.add_label("a", TRUE, soon)
    assert given is not None
    assert (given.correct, given.answers, given.delay) == (True, 1, 30.0)
    again = store.add_label("a", TRUE[::-1], NOW + timedelta(days=1))  # in another order
    assert again == given._replace(delay=None)
    (row,) = everything(store)
    assert (row.label, row.answered_at, row.verdict) == (None, soon, (2, 0, 0))
    corrected = store.add_label("a", [("ship", SHIP), ("ship", OTHER)], soon)
    assert corrected is not None
    assert (corrected.correct, corrected.answers, corrected.verdict) == (False, 2, (1, 1, 1))
    (row,) = everything(store)
    assert (row.height, row.width, row.verdict) == (40, 50, (1, 1, 1))
    assert row.predicted_objects == [
        {"class": "ship", "box": SHIP, "score": 0.9},
        {"class": "tank", "box": TANK, "score": 0.75},
    ]
    assert row.objects == [{"class": "ship", "box": OTHER}, {"class": "ship", "box": SHIP}]
    assert store.add_label("unknown", TRUE, NOW) is None


def test_that_nothing_is_there_is_a_label(store: Store) -> None:
    nothing = found("b")._replace(found=FoundObjects(40, 50, ()))
    store.save_predictions([found("a"), nothing, found("c")])
    for name, verdict in (("a", (0, 0, 2)), ("b", (0, 0, 0))):
        given = store.add_label(name, [], NOW)
        assert given is not None and given.verdict == verdict
    assert names(everything(store, labelled=True)) == ["a", "b"]
    assert names(everything(store, labelled=False)) == ["c"]


BAD = {
    "objects: 0: 'wood' is not a class of the model that predicted; choose one of ship, tank": (
        [("wood", SHIP)]
    ),
    r"objects: 1: the box \[20.0, 10.0, 10.0, 20.0\] has no area; give left, top, right, bottom": (
        [("ship", SHIP), ("ship", (20.0, 10.0, 10.0, 20.0))]
    ),
    "objects: 0: the box .* has no area": [("ship", (5.0, 5.0, 9.0, 5.0))],
    "objects: 0: the box .*nan.* has no area": [("ship", (math.nan, 5.0, 9.0, 7.0))],
    r"objects: 0: .* is outside of the image, 50 x 40 pixels": [("ship", (40.0, 5.0, 50.1, 7.0))],
    r"objects: 0: .*-0.1.* is outside of the image": [("ship", (4.0, -0.1, 5.0, 7.0))],
    "objects: 2: it is the same as object 0; list each one once": [*TRUE, ("ship", SHIP)],
}


@pytest.mark.parametrize("reason", BAD)
def test_objects_that_cannot_be_there_are_refused_and_nothing_changes(
    store: Store, reason: str
) -> None:
    store.save_predictions([found("a")])
    store.add_label("a", [], NOW)
    before = everything(store)
    with pytest.raises(Unprocessable, match=reason):
        store.add_label("a", BAD[reason], NOW)
    assert everything(store) == before
    assert store.add_label("a", TRUE, NOW) is not None


def test_a_label_of_the_other_kind_is_refused(store: Store) -> None:
    store.save_predictions([found("objects"), seen("class")])
    with pytest.raises(Unprocessable, match="label: the model that predicted finds objects, which"):
        store.add_label("objects", "ship", NOW)
    with pytest.raises(Unprocessable, match="objects: the model that predicted names one class"):
        store.add_label("class", [], NOW)
    assert everything(store, labelled=True) == []


def test_an_image_of_any_size_is_given_as_it_was_seen_and_kept_if_it_was_corrected(
    store: Store,
) -> None:
    store.save_predictions([found("a", image=True)])
    content = store.read_image("a")
    assert content is not None and np.load(io.BytesIO(content)).shape == (4, 40, 50)
    kinds = []
    for label in (TRUE, []):
        store.add_label("a", label, NOW)
        kinds += [kind for kind, count in Retention(store.database).kept().counts.items() if count]
    assert kinds == [Kind.CONFIRMED, Kind.CORRECTED]


def test_a_page_ends_after_many_objects_and_the_next_one_goes_on(store: Store) -> None:
    many = FoundObjects(40, 50, (FoundObject(0, SHIP, 0.9),) * 100)
    store.save_predictions([found(f"{number}")._replace(found=many) for number in range(120)])
    assert len(store.list_predictions(0, 1000, None)) == 50
    wanted = [f"{number}" for number in range(120)]
    assert names(everything(store)) == wanted

    class Service:
        async def list_predictions(self, *query: Any) -> list[PredictionRow]:
            return store.list_predictions(*query)

    app = FastAPI()
    add_feedback(app, cast(FeedbackService, Service()))

    async def listed() -> list[str]:
        transport = httpx.ASGITransport(app)
        found, query = [], {"limit": "1000"}
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            while query.get("after") != "":
                page = (await client.get("/feedback", params=query)).json()
                found += [row["request_id"] for row in page["answers"]]
                query["after"] = page["next"] or ""
        return found

    assert asyncio.run(listed()) == wanted


def test_verdicts_are_summed_by_tag_and_no_class_counts_among_them(store: Store) -> None:
    store.save_predictions([*(found(name) for name in "abcd"), seen("class")])
    store.add_label("a", TRUE, NOW)
    store.add_label("b", [("ship", SHIP), ("ship", OTHER)], NOW)
    store.add_label("c", [], NOW - timedelta(days=9))
    store.add_label("class", "Forest", NOW)
    since = NOW - timedelta(days=7)
    assert store.count_objects(since) == [ObjectCount("harbour@v1.0.0", 2, 3, 1, 1)]
    assert store.count_confusion(since)[0] == [("landcover@v1.0.0", "Forest", "Forest", 1)]


def test_a_prediction_of_objects_is_a_reward_by_its_f1(store: Store) -> None:
    other = SEA._replace(tag="harbour@v2.0.0", sha256="2" * 64)
    rows = [found(name) for name in "abcd"] + [found("e", other), found("f", other)]
    store.save_predictions([row._replace(routed=Routed("trial", 0.5)) for row in rows])
    for name in "ab":
        store.add_label(name, TRUE, NOW)  # 1
    store.add_label("c", [("ship", SHIP)], NOW)  # 2 of 3
    store.add_label("d", [("ship", SHIP), ("ship", OTHER)], NOW)  # 2 of 4
    store.add_label("e", [], NOW)  # 0
    assert sorted(store.count_rewards("trial")) == [
        RightOrWrong("harbour@v1.0.0", 3, 1),  # 3.17 of 4
        RightOrWrong("harbour@v2.0.0", 0, 1),
    ]


def test_a_hundred_objects_are_kept_in_a_bounded_text() -> None:
    answered = [
        {"class": "tank", "score": 0.9123456478118896, "box": [1000.25, 1000.5, 1100.75, 1200.0]}
    ] * 130
    kept = FoundObjects.of_answer(answered, SEA.classes, (4096, 4096))
    text = kept.to_json()
    assert len(kept.objects) == 100 and len(text) < 7000
    assert FoundObjects.from_json(text) == kept
    for broken in ("", "[]", "[1, 2]", "[1, 2, [[0, [1, 2, 3], 0.5]]]", "7"):
        with pytest.raises((ValueError, TypeError)):
            FoundObjects.from_json(broken)
    assert json.loads(text)[:2] == [4096, 4096]
