"""A worker on a real broker: answers, dead letters with reasons, replay, and bad days."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.frames import headers_of, texts
from service.stream.frames import prediction_id
from tests.make import kafka
from tests.make.bundles import make_chip
from tests.make.disks import fill, small_disk
from tests.make.images import npy
from tests.make.kafka import Topics, headers, sequences, worker, working
from tests.make.processes import until

FRAMES = [npy(make_chip(number, size=16)) for number in range(40)]
POISON: list[tuple[bytes | None, Any, str, str]] = [
    (FRAMES[0], None, "BadRequest", "the header `source` is missing"),
    (None, headers(), "BadRequest", "the upload is empty"),
    (b"garbage", headers(), "UnsupportedMedia", "not a supported image"),
    (
        bytes(range(256)) * 10,
        [("source", b"\xff"), ("sequence", b"1"), ("captured_at", b"now")],
        *("BadRequest", "source is"),
    ),
    (FRAMES[0][:300], headers(), "Unprocessable", "NPY"),
    (npy(make_chip(1, bands=3, size=16)), headers(), "Unprocessable", "3 band"),
    (bytes(20_000_000), headers(), "TooLarge", "the frame has 20000000 bytes"),
    (FRAMES[0], headers(content_type="video/h264"), "UnsupportedMedia", "content-type is"),
    (FRAMES[0], headers(model="landcover@v9.9.9"), "NotFound", "landcover@v9.9.9"),
    (None, headers(reference="/etc/passwd"), "Forbidden", "SERVICE_STREAM_REFERENCES"),
    (
        FRAMES[0],
        headers_of("camera", 1, datetime.now(UTC) + timedelta(days=1)),
        *("Unprocessable", "in the future"),
    ),
]


@pytest.fixture
def running(topics: Topics, small: Path, tmp_path: Path) -> Iterator[Path]:
    """A worker; gives its log."""
    with working(topics, small, tmp_path, stream_references=json.dumps([str(tmp_path)])) as found:
        yield found[1]


def test_poison_frames_become_dead_letters_between_good_ones_and_are_replayed_once(
    topics: Topics, small: Path, tmp_path: Path, running: Path
) -> None:
    sent: list[tuple[bytes | None, Any]] = []
    for number, (content, own, _, _) in enumerate(POISON):
        sent += [(content, own), (FRAMES[number], headers("good", number))]
    topics.send(sent)
    good = topics.read("results", lambda found: len(found) >= len(POISON))
    assert sorted(sequences(good)) == list(range(len(POISON)))
    dead = topics.read("dead", lambda found: len(found) >= len(POISON))
    letters = [texts(one.headers()) for one in dead]
    for content, own, kind, says in POISON:
        [letter] = [
            one for one in letters if one["dead-kind"] == kind and says in one["dead-reason"]
        ]
        assert letter["dead-topic"].endswith(".frames") and letter["dead-times"] == "1"
        assert {name: letter[name] for name in texts(own)} == texts(own)
        left_out = content is not None and len(content) > 1_000_000
        assert ("dead-left-out" in letter) == left_out
    replay = [sys.executable, "-m", "service", "stream", "replay"]
    settings = topics.settings | kafka.own_state(small, tmp_path)
    own_settings = {f"SERVICE_{key.upper()}": str(value) for key, value in settings.items()}
    said: list[list[str]] = []
    for words in (["--list"], [], []):
        if said[1:]:
            topics.read("dead", lambda found: len(found) >= 2 * len(POISON) - 1)
        done = subprocess.run(
            [*replay, *words], env=own_settings, capture_output=True, text=True, check=True
        )
        said.append(done.stdout.splitlines())
    assert len(said[0]) == len(POISON) + 1 and said[0][-1] == said[1][-1].replace(
        "were sent", "could be sent"
    )
    assert said[1][-1].startswith(f"{len(POISON) - 1} frames were sent again; 1")
    # The third sends those that have died again meanwhile, and none twice.
    assert said[2][-1] == f"{len(POISON) - 1} frames were sent again; 0 were too large to be kept"
    found = topics.read("dead", lambda found: len(found) >= 3 * len(POISON) - 2)
    died = Counter(texts(one.headers())["dead-times"] for one in found)
    assert died == {"1": len(POISON), "2": len(POISON) - 1, "3": len(POISON) - 1}
    assert "exception" not in running.read_text(encoding="utf-8")


def test_an_answer_leads_back_to_its_frame(topics: Topics, running: Path, tmp_path: Path) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    stored = tmp_path / "frame.npy"
    stored.write_bytes(FRAMES[1])
    own = headers("field/7", 11, traceparent=trace, model="landcover")
    topics.send([(FRAMES[1], own), (None, headers("field/7", 12, reference=str(stored)))])
    answers = topics.read("results", lambda found: len(found) >= 2)
    asked = topics.read("frames", lambda found: len(found) >= 2)
    assert [prediction_id(one) for one in asked] == [texts(one.headers())["id"] for one in answers]
    first, second = (json.loads(one.value() or b"") for one in answers)
    found = texts(answers[0].headers())
    assert (found["source"], found["sequence"], found["traceparent"]) == ("field/7", "11", trace)
    assert found["captured_at"] == texts(own)["captured_at"] and answers[0].key() == b"field/7"
    assert found["model"] == first["model"]["tag"] == "local"
    assert found["id"] == first["request_id"] != second["request_id"]
    assert first["probabilities"] == second["probabilities"]


def test_of_a_live_source_the_newest_frame_that_waits_is_answered(
    topics: Topics, small: Path, tmp_path: Path
) -> None:
    topics.send(
        [(FRAMES[number], headers("live", number, live="1")) for number in range(40)]
        + [(FRAMES[number], headers("file", number)) for number in range(10)]
    )
    with working(topics, small, tmp_path) as (_, log):
        found = topics.read(
            "results",
            lambda found: 39 in sequences(found) and sequences(found).count(9) >= 1,
        )
        by_source = [texts(one.headers())["source"] for one in found]
        assert by_source.count("file") == 10 and by_source.count("live") < 20
        port = kafka.wait_for_line(log, "streaming")["port"]
        text = until(lambda: _metrics(port, 'stream_frames_total{result="dropped"}'))
    dropped = float(re.findall(r'stream_frames_total\{result="dropped"\} (\S+)', text)[0])
    assert dropped == 40 - by_source.count("live")


def _metrics(port: int, *names: str) -> str:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    return text if all(name in text for name in names) else ""


def test_lag_age_and_predictions_are_metrics(topics: Topics, running: Path) -> None:
    port = kafka.wait_for_line(running, "streaming")["port"]
    topics.send([(FRAMES[number], headers("file", number)) for number in range(20)])
    topics.read("results", lambda found: len(found) >= 20)
    text = until(lambda: _metrics(port, "stream_connected 1.0", 'stream_lag{partition="'))
    assert 'stream_frames_total{result="answered"} 20.0' in text
    assert "stream_age_seconds_count 20.0" in text and "stream_batch_frames_count" in text
    predictions = re.findall(r"model_predictions_total\{.*\} (\S+)", text)
    assert sum(map(float, predictions)) == 20
    assert httpx.get(f"http://127.0.0.1:{port}/readyz").json() == {"model": "local"}


def test_a_second_worker_with_the_same_id_does_not_start(
    topics: Topics, small: Path, tmp_path: Path
) -> None:
    with working(topics, small, tmp_path, stream_id="worker-1"):
        settings = topics.settings | kafka.own_state(small, tmp_path) | {"stream_id": "worker-1"}
        second = worker(settings, tmp_path / "second.log")
        assert second.wait(kafka.WITHIN) == 1
        said = (tmp_path / "second.log").read_text(encoding="utf-8").splitlines()[-1]
        assert said.startswith(
            "error: SERVICE_STREAM_ID: another worker on this machine is 'worker-1'"
        )
        topics.send([(FRAMES[number], headers("file", number)) for number in range(20)])
        found = topics.read("results", lambda found: len(found) >= 20)
        assert sorted(sequences(found)) == list(range(20))


def test_a_full_disk_stops_no_answer(topics: Topics, small: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        own = {"state": disk / "state", "feedback": ""}
        with working(topics, small, tmp_path, **own):
            fill(disk)
            topics.send([(FRAMES[number], headers("file", number)) for number in range(30)])
            found = topics.read("results", lambda found: len(found) >= 30)
    assert sorted(sequences(found)) == list(range(30))


def test_what_a_killed_worker_leaves_on_the_disk_goes_with_the_next_one(
    topics: Topics, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    killed = worker(topics.settings | kafka.own_state(small, tmp_path), tmp_path / "killed.log")
    kafka.wait_for_line(tmp_path / "killed.log", "streaming", killed)
    killed.kill()
    killed.wait()
    assert len(list(folder.iterdir())) == 1
    topics.send([(FRAMES[number], headers("file", number)) for number in range(3)])
    with working(topics, small, tmp_path):
        topics.read("results", lambda found: len(found) >= 3)
        assert len(list(folder.iterdir())) == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"stream_brokers": ""}, "error: SERVICE_STREAM_BROKERS is empty: name the brokers"),
        ({"stream_brokers": "http://kafka:9092"}, "'http://kafka:9092' names no brokers: write"),
        ({"stream_brokers": "kafka:99999"}, "'kafka:99999' names no brokers"),
        ({"stream_brokers": "kafka"}, "error: SERVICE_STREAM_BROKERS: 'kafka' names no brokers"),
        ({"stream_brokers": "a:1, b:2"}, "error: SERVICE_STREAM_BROKERS: 'a:1, b:2' names no"),
        ({"stream_transactions": "true"}, "needs SERVICE_STREAM_ID"),
        ({"stream_client": '{"sasl.password": 1}'}, "SERVICE_STREAM_CLIENT"),
        ({"stream_references": '["s3://bucket/a"]'}, "SERVICE_STREAM_REFERENCES: 's3://bucket/a'"),
        ({"stream_client": '{"no.such": "secret-1"}'}, "SERVICE_STREAM_CLIENT: the client refuses"),
    ],
)
def test_a_worker_that_cannot_work_says_so_in_a_sentence(
    settings: dict[str, str], says: str, small: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    own = {"stream_brokers": "127.0.0.1:1", "stream_port": "0"} | settings
    started = worker(kafka.own_state(small, tmp_path) | own, log)
    assert started.wait(kafka.WITHIN) == 1
    said = log.read_text(encoding="utf-8").splitlines()[-1]
    assert says in said and "secret-1" not in said
