"""Labels for predictions over HTTP, with the real service and its workers."""

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.make.bundles import CLASSES, make_bundle, make_chip
from tests.make.databases import Postgres
from tests.make.feedback import everything, give, metrics, predict, waiting
from tests.make.images import npy
from tests.make.processes import until
from tests.make.server import Server, serving
from tests.make.wire import next_is_right, refusal, upload


@pytest.fixture(scope="module")
def floored(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose manifest has the minimum accuracy of the gate."""
    training = json.loads((bundle / "model.json").read_bytes())["training"]
    training["params"] = {"gate": {"min_accuracy": 0.85}}
    return make_bundle(tmp_path_factory.mktemp("floored") / "model", training=training)


@pytest.fixture(scope="module")
def site(floored: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real service with images kept."""
    with serving(floored, tmp_path_factory.mktemp("feedback"), keep_images=8) as running:
        yield running


@pytest.fixture(scope="module")
def postgresql_site(
    floored: Path, tmp_path_factory: pytest.TempPathFactory, cluster: Postgres
) -> Iterator[Server]:
    """The same over PostgreSQL."""
    folder = tmp_path_factory.mktemp("postgresql")
    with serving(floored, folder, feedback=cluster.new(), keep_images=8) as running:
        yield running


@pytest.fixture(params=["site", "postgresql_site"])
def each_site(request: pytest.FixtureRequest) -> Server:
    """The service over each database, for what its workers do with it together."""
    found: Server = request.getfixturevalue(request.param)
    return found


def wrong(predicted: str) -> str:
    return next(name for name in CLASSES if name != predicted)


def test_a_prediction_can_be_labelled_at_once_at_any_worker(each_site: Server) -> None:
    for seed in range(20):  # each request on a connection of its own: now this worker, now that
        said = predict(each_site, seed)
        given = give(each_site, said["request_id"], said["class"])
        assert given.status_code == 200, given.text
        assert given.json() == {
            "request_id": said["request_id"],
            "label": said["class"],
            "predicted": said["class"],
            "correct": True,
            "answers": 1,
        }


def test_what_a_classifier_answers_is_what_it_was_before_objects_could_be_labels(
    site: Server,
) -> None:
    name = predict(site, 3)["request_id"]
    given = give(site, name, "Forest")
    predicted = given.json()["predicted"]
    correct = json.dumps(predicted == "Forest")
    assert given.text == (
        f'{{"request_id":"{name}","label":"Forest","predicted":"{predicted}",'
        f'"correct":{correct},"answers":1}}'
    )
    (row,) = [row for row in everything(site) if row["request_id"] == name]
    assert list(row) == [
        *("request_id", "label", "predicted", "probability", "tag", "sha256"),
        *("predicted_at", "answered_at", "image", "rule", "propensity"),
    ]
    for objects in ([], [{"class": "Forest", "box": [0, 0, 9, 9]}]):
        body = {"request_id": name, "objects": objects}
        answer = httpx.post(site.url + "/feedback", json=body)
        assert "names one class: send the right one as `label`" in refusal(answer, 422)
    assert give(site, name, "Forest").json()["answers"] == 1


def test_a_repeated_label_counts_once_and_another_label_corrects_it(each_site: Server) -> None:
    site = each_site
    said = predict(site)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: give(site, said["request_id"], "Forest"), range(24)))
    assert {item.status_code for item in answers} == {200}
    assert {item.json()["answers"] for item in answers} == {1}
    corrected = give(site, said["request_id"], "River").json()
    assert (corrected["label"], corrected["answers"]) == ("River", 2)
    (row,) = [row for row in everything(site) if row["request_id"] == said["request_id"]]
    assert (row["label"], row["predicted"], row["image"]) == ("River", said["class"], True)
    assert row["probability"] == pytest.approx(said["probability"], abs=1e-6)
    assert (row["tag"], row["sha256"]) == (said["model"]["tag"], said["model"]["sha256"])
    assert row["answered_at"] > row["predicted_at"]


def test_predictions_have_their_own_ids_when_a_caller_sends_one_id_for_all(site: Server) -> None:
    said = [predict(site, seed, **{"x-request-id": "field-7.a"}) for seed in (1, 5)]
    first, second = (item["request_id"] for item in said)
    assert len({first, second, "field-7.a"}) == 3
    assert give(site, first, said[0]["class"]).json()["correct"]
    assert not give(site, second, wrong(said[1]["class"])).json()["correct"]
    refusal(give(site, "field-7.a", "Forest"), 404)
    for name, seed in ((first, 1), (second, 5)):
        content = httpx.get(f"{site.url}/feedback/{name}.npy").content
        assert np.array_equal(np.load(io.BytesIO(content)), make_chip(seed))


def test_an_image_is_downloaded_as_it_was_sent(site: Server) -> None:
    said = predict(site, 8)
    give(site, said["request_id"], said["class"])
    found = httpx.get(f"{site.url}/feedback/{said['request_id']}.npy")
    assert found.headers["content-type"] == "application/octet-stream"
    assert np.array_equal(np.load(io.BytesIO(found.content)), make_chip(8))
    refusal(httpx.get(f"{site.url}/feedback/unknown.npy"), 404)
    refusal(httpx.get(f"{site.url}/feedback/{'x' * 65}.npy"), 422)


UNKNOWN_IDS: list[tuple[Any, int]] = [
    ("0123456789abcdef", 404), ("..", 404), ("", 422), ("x" * 65, 422), ("a b", 422),
    ("../../etc/passwd", 422), ("a\0b", 422), ("a\n", 422), ("é", 422), ("'; DROP TABLE", 422),
    ("%00", 422), (None, 422), (7, 422), (["a"], 422), ({"a": 1}, 422),
]  # fmt: skip


def test_a_label_for_an_unknown_request_id_is_refused(site: Server, floored: Path) -> None:
    given = [(request_id, give(site, request_id, "Forest")) for request_id, _ in UNKNOWN_IDS]
    assert [(request_id, answer.status_code) for request_id, answer in given] == UNKNOWN_IDS
    for _, answer in given:
        refusal(answer)
    next_is_right(site, floored)


def test_a_label_that_is_no_class_of_the_model_is_refused_and_nothing_changes(
    site: Server,
) -> None:
    said = predict(site)
    given = give(site, said["request_id"], "River").json()
    for label in ("Wood", "", "forest", "Forest ", "<b>", "x" * 1024, "\0"):
        detail = refusal(give(site, said["request_id"], label), 422)
        assert detail.startswith("label: ") and "AnnualCrop, Forest" in detail, label
        assert len(detail) < 500, label
    assert give(site, said["request_id"], "River").json() == given


MALFORMED = [
    (b"", 422), (b"no JSON", 400), (b"[]", 422), (b"{}", 422), (b'{"request_id": "a"}', 422),
    (b'{"request_id": "a", "label": "Forest", "more": 1}', 422), (b"\xff", 400),
    (b'{"request_id": "a", "label": "' + b"x" * 1025 + b'"}', 422), (b"x" * 70_000, 413),
    (b'{"request_id": "a", "label": "\\ud800"}', 422),
]  # fmt: skip


def test_a_malformed_body_is_refused(site: Server) -> None:
    headers = {"content-type": "application/json"}
    found = [
        (body, httpx.post(site.url + "/feedback", content=body, headers=headers))
        for body, _ in MALFORMED
    ]
    assert [(body, answer.status_code) for body, answer in found] == MALFORMED
    for _, answer in found:
        assert '"label": "Forest"' in refusal(answer) or answer.status_code != 400


def test_a_query_with_a_malformed_value_is_refused(site: Server) -> None:
    malformed = (
        *("limit=0", "limit=1001", "limit=x", "after=x", "after=-1", "labelled=perhaps"),
        *("after=ffffffffffffffff", "after=' OR 1=1"),
    )
    answers = {query: httpx.get(f"{site.url}/feedback?{query}") for query in malformed}
    assert {query: answer.status_code for query, answer in answers.items()} == dict.fromkeys(
        malformed, 422
    )
    for answer in answers.values():
        refusal(answer)
    last = httpx.get(site.url + "/feedback", params={"after": "7" + "f" * 15}).json()
    assert last == {"answers": [], "next": None}


def test_the_metrics_report_the_accuracy_on_labelled_predictions(
    floored: Path, tmp_path: Path
) -> None:
    with serving(floored, tmp_path) as server:
        assert 'model_accuracy_floor{tag="local"} 0.85' in metrics(server)
        assert "model_live_accuracy{" not in metrics(server)
        for seed in range(10):
            said = predict(server, seed)
            label = said["class"] if seed < 8 else wrong(said["class"])
            assert give(server, said["request_id"], label).status_code == 200
        wanted = (
            'model_feedback_answers{tag="local"} 10.0',
            'model_live_accuracy{tag="local"} 0.8\n',
            'model_live_accuracy_low{tag="local"} 0.49',
            "model_feedback_delay_seconds_count 10.0",
        )

        def is_reported() -> bool:
            text = metrics(server)
            return all(line in text for line in wanted)

        for _ in range(3):  # every worker says so in the end
            until(is_reported)
        found = metrics(server)
        assert 'feedback_unrecorded_total{reason="disk_full"} 0.0' in found
        until(lambda: "feedback_spool_bytes 0.0" in metrics(server))
        assert 'feedback_images{kind="certain"} 0.0' in found  # none is kept by default
        assert not any(row["image"] for row in everything(server))


def test_images_stay_below_the_cap_and_corrected_ones_stay_longest(
    floored: Path, tmp_path: Path
) -> None:
    with serving(floored, tmp_path, keep_images=1, keep_below=0.0) as server:
        first = predict(server, 0)
        give(server, first["request_id"], wrong(first["class"]))

        def full() -> bool:
            for seed in range(10):
                predict(server, seed)
            rows = everything(server, limit=1000)
            return len(rows) > 100 and sum(row["image"] for row in rows) < len(rows) - 40

        until(full)
        until(lambda: not waiting(server) and len(images(server)) * 25_000 < 1 << 20)
        (labelled,) = everything(server, labelled="true")
        assert labelled["request_id"] == first["request_id"] and labelled["image"]
        for name in images(server)[-3:]:  # the newest, which are deleted last
            content = httpx.get(f"{server.url}/feedback/{name}.npy").content
            assert len(content) == 4 * 64 * 64 * 2 + 128


def images(server: Server) -> list[str]:
    """Request ids of the predictions whose image is kept."""
    return [row["request_id"] for row in everything(server, limit=1000) if row["image"]]


def test_feedback_that_is_off_is_refused_and_stores_nothing(floored: Path, tmp_path: Path) -> None:
    with serving(floored, tmp_path, feedback="off") as server:
        said = predict(server)
        assert "feedback is off" in refusal(give(server, said["request_id"], "Forest"), 404)
        refusal(httpx.get(server.url + "/feedback"), 404)
        refusal(httpx.get(server.url + "/feedback/a.npy"), 404)
        assert not (tmp_path / "state" / "spool").exists()
        assert not (tmp_path / "state" / "feedback.db").exists()


def test_a_prediction_can_be_labelled_at_another_replica_after_its_own_has_ended(
    floored: Path, tmp_path: Path, cluster: Postgres
) -> None:
    url = cluster.new()
    with serving(floored, tmp_path / "one", feedback=url) as server:
        said = predict(server)
        assert server.stop() == 0
    # Another replica, with another state folder: the first one has imported it while it ended.
    with serving(floored, tmp_path / "two", feedback=url) as server:
        assert give(server, said["request_id"], "Forest").status_code == 200
        assert upload(server, npy(make_chip(1))).status_code == 200
