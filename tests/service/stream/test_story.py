"""Thousands of frames through killed workers, a broker that vanishes, a rebalance and a swap."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Message

from contracts.frames import texts
from service.inference.bundle import Bundle, read_bundle
from service.inference.model import Model
from service.swap.cache import BundleCache
from service.swap.desired import DesiredModel, FileStore
from tests.make import kafka
from tests.make.bundles import make_bundle, make_chip
from tests.make.images import npy
from tests.make.kafka import Link, Topics, headers, worker

FRAMES, SOURCES, BATCH = 4000, 8, 16
TAG = "landcover@v2.0.0"


@pytest.fixture
def link(tmp_path: Path) -> Iterator[tuple[Link, str]]:
    """A broker behind a link that can be cut; its address."""
    link = Link()
    with kafka.broker(tmp_path, link.port) as address:
        link.join(address)
        try:
            yield link, f"127.0.0.1:{link.port}"
        finally:
            link.close()


def desire(state: Path, bundle: Bundle) -> None:
    """Want another model, as a swap of the service writes it."""
    BundleCache(state / "bundles").keep(bundle)
    model = DesiredModel(
        tag=TAG,
        sha256=bundle.manifest.sha256,
        previous_tag=None,
        previous_sha256=None,
        version=1,
        changed=datetime.now(UTC),
    )
    asyncio.run(FileStore(state / "wanted.json").write(model))


def identities(messages: list[Message]) -> list[tuple[str, int]]:
    found = [texts(one.headers()) for one in messages]
    return [(one["source"], int(one["sequence"])) for one in found]


def test_no_frame_is_lost_and_repeats_are_a_batch_at_most(
    link: tuple[Link, str], small: Path, tmp_path: Path
) -> None:
    wire, address = link
    topics: Topics = kafka.topics(address)
    chips = [make_chip(number, size=16) for number in range(50)]
    contents = [npy(chip) for chip in chips]
    settings = topics.settings | kafka.own_state(small, tmp_path)
    sent = threading.Event()

    def feed() -> None:
        for start in range(0, FRAMES, 100):
            topics.send(
                (contents[n % 50], headers(f"file-{n % SOURCES}", n))
                for n in range(start, start + 100)
            )
            time.sleep(0.3)
        sent.set()

    workers = [worker(settings, tmp_path / f"{n}.log") for n in range(2)]
    try:
        feeding = threading.Thread(target=feed)
        feeding.start()
        topics.read("results", lambda found: len(found) >= 300)
        workers[0].kill()  # its partitions come back after the session's time-out
        workers.append(worker(settings, tmp_path / "2.log"))  # a rebalance
        topics.read("results", lambda found: len(found) >= 600)
        second = read_bundle(make_bundle(tmp_path / "second", seed=1, size=16))
        desire(tmp_path / "state", second)
        topics.read(
            "results", lambda found: any(texts(it.headers())["model"] == TAG for it in found)
        )
        wire.cut()
        time.sleep(2)
        wire.join()
        feeding.join()
        assert sent.is_set()
        answers = topics.read("results", lambda found: len(set(identities(found))) >= FRAMES)
    finally:
        for one in workers:
            one.kill()
            one.wait()
    assert len(set(identities(answers))) == FRAMES
    repeats = len(answers) - FRAMES
    assert repeats <= BATCH * (1 + 2)  # the killed worker, and two that the broker lost
    ids = Counter(texts(one.headers())["id"] for one in answers)
    assert len(ids) == FRAMES, "a repeated answer has the id of the first"
    models = {
        "local": Model("local", read_bundle(small), "cpu"),
        TAG: Model(TAG, second, "cpu"),
    }
    expected = {
        (tag, n): model.infer(chip).probabilities[0]
        for tag, model in models.items()
        for n, chip in enumerate(chips)
    }
    tags = Counter[str]()
    for (_, number), answer in zip(identities(answers), answers, strict=True):
        body = json.loads(answer.value() or b"")
        tag = body["model"]["tag"]
        tags[tag] += 1
        assert np.array_equal(
            np.array(list(body["probabilities"].values()), np.float32),
            expected[tag, number % 50],
        )
    assert tags.keys() == models.keys()


def test_with_transactions_no_answer_comes_twice(small: Path, tmp_path: Path) -> None:
    count = 800
    contents = [npy(make_chip(number, size=16)) for number in range(20)]
    with kafka.broker(tmp_path) as brokers:
        topics = kafka.topics(brokers)
        settings = topics.settings | kafka.own_state(small, tmp_path)
        settings["stream_transactions"] = "true"
        workers = [
            worker(settings | {"stream_id": f"{n}"}, tmp_path / f"{n}.log") for n in range(2)
        ]
        try:
            for start in range(0, count, 50):
                topics.send(
                    (contents[n % 20], headers(f"file-{n % SOURCES}", n))
                    for n in range(start, start + 50)
                )
                if start == count // 2:
                    topics.read("results", lambda found: len(found) >= 100)
                    workers[0].kill()  # and started again by its name: that ends what it began
                    workers.append(worker(settings | {"stream_id": "0"}, tmp_path / "2.log"))
            answers = topics.read("results", lambda found: len(set(identities(found))) >= count)
        finally:
            for one in workers:
                one.kill()
                one.wait()
    assert len(answers) == count


def test_a_worker_that_is_stopped_while_the_broker_is_away_ends_and_loses_nothing(
    link: tuple[Link, str], small: Path, tmp_path: Path
) -> None:
    wire, address = link
    topics, content, count = kafka.topics(address), npy(make_chip(1, size=16)), 1500
    settings = topics.settings | kafka.own_state(small, tmp_path)
    topics.send((content, headers("file", number)) for number in range(count))
    running = worker(settings, tmp_path / "first.log")
    try:
        topics.read("results", lambda found: len(found) >= 1)
        wire.cut()
        running.terminate()
        assert running.wait(kafka.WITHIN) == 0
        log = (tmp_path / "first.log").read_text(encoding="utf-8")
        assert log.splitlines()[-1].endswith('"event": "stopped"}')
    finally:
        running.kill()
        running.wait()
    wire.join()
    with kafka.working(topics, small, tmp_path):
        answers = topics.read("results", lambda found: len(set(identities(found))) >= count)
    assert len(answers) <= count + BATCH
