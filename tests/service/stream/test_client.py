"""The client on librdkafka's own mock of a cluster, and with transactions on a real broker."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from service import kafka as clients
from service.errors import UnsafeSettings
from service.settings import Settings, read_settings
from service.stream.client import Broken, Client
from service.stream.records import Record
from tests.make import kafka
from tests.make.kafka import Topics

WITHIN = 60.0  # seconds


@pytest.fixture(scope="module")
def mock() -> Iterator[str]:
    """A cluster inside librdkafka, for as long as its producer lives: host:port."""
    holder = Producer({"bootstrap.servers": "unused", "test.mock.num.brokers": 1, "log_level": 0})
    [one] = holder.list_topics(timeout=10).brokers.values()
    yield f"{one.host}:{one.port}"


def settings(topics: Topics, **more: Any) -> Settings:
    return read_settings(**{**topics.settings, "stream_port": 0} | more)


def take(client: Client, count: int) -> list[Message]:
    """Take until there are so many."""
    found: list[Message] = []
    deadline = time.monotonic() + WITHIN
    while len(found) < count:
        assert time.monotonic() < deadline
        found += client.take()
    return found


def send(topics: Topics, count: int) -> None:
    topics.send((b"%d" % number, kafka.headers("file", number)) for number in range(count))


def answers(topics: Topics, messages: list[Message]) -> list[Record]:
    return [Record(f"{topics.name}.results", one.key(), one.value(), []) for one in messages]


def committed(topics: Topics) -> int:
    """Frames that the group has finished."""
    name = f"{topics.name}.frames"
    own = {"bootstrap.servers": topics.brokers, "group.id": topics.name, "log_level": 0}
    consumer = Consumer(own)
    try:
        partitions = consumer.list_topics(name, 10).topics[name].partitions
        places = [TopicPartition(name, number) for number in partitions]
        return sum(max(0, place.offset) for place in consumer.committed(places, 10))
    finally:
        consumer.close()


def test_what_waits_is_taken_and_committed_after_it_was_delivered(mock: str) -> None:
    topics = Topics(mock, "taken")
    send(topics, 40)
    statistics: list[str] = []
    client = Client(settings(topics), statistics.append)
    try:
        messages = take(client, 40)
        assert committed(topics) == 0
        client.settle(answers(topics, messages), messages).result(WITHIN)
        assert committed(topics) == 40
    finally:
        client.close()
    found = topics.read("results", lambda found: len(found) >= 40)
    assert sorted(int(one.value() or b"") for one in found) == list(range(40))
    assert "brokers" in json.loads(statistics[-1])


def test_no_more_frames_are_taken_at_once_than_the_batch(mock: str) -> None:
    topics = Topics(mock, "batch")
    send(topics, 60)
    client = Client(settings(topics, stream_batch=7), lambda _: None)
    try:
        taken: list[int] = []
        while sum(taken) < 60:
            taken.append(len(client.take()))
        assert max(taken) == 7
    finally:
        client.close()


def test_what_was_taken_and_not_settled_is_taken_again_by_the_next_worker(mock: str) -> None:
    topics = Topics(mock, "again")
    send(topics, 20)
    for _ in range(2):
        client = Client(settings(topics), lambda _: None)
        try:
            assert len(take(client, 20)) == 20
        finally:
            client.close()


class Fencing:
    """Stands for a consumer whose broker has given its name to another one, as Kafka does."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.closed = False

    def subscribe(self, *_: Any, **__: Any) -> None:
        return

    def poll(self, _: float) -> Message:
        return Message(error=KafkaError(KafkaError.FENCED_INSTANCE_ID))

    def consume(self, *_: Any) -> list[Message]:
        return []

    def close(self) -> None:
        self.closed = True


def test_a_worker_whose_name_another_one_has_taken_says_so(
    mock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "consumer", Fencing)
    client = Client(settings(Topics(mock, "fenced"), stream_id="a"), lambda _: None)
    with pytest.raises(Broken, match="another worker has SERVICE_STREAM_ID 'a'"):
        client.take()
    client.close()


def test_a_setting_that_the_client_refuses_is_named_without_its_value(mock: str) -> None:
    own = settings(Topics(mock, "refused"), stream_client='{"no.such.setting": "secret-1"}')
    with pytest.raises(UnsafeSettings, match="SERVICE_STREAM_CLIENT") as caught:
        Client(own, lambda _: None)
    assert "secret-1" not in str(caught.value)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with kafka.broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


def test_in_a_transaction_answers_and_place_are_one(real: str, tmp_path: Path) -> None:
    topics = kafka.topics(real)
    send(topics, 10)
    own = settings(topics, stream_transactions=True, stream_id="worker-1")
    client = Client(own, lambda _: None)
    try:
        messages = take(client, 10)
        client.settle(answers(topics, messages), messages).result(WITHIN)
    finally:
        client.close()
    found = topics.read("results", lambda found: len(found) >= 10)
    assert len(found) == 10 and committed(topics) == 10
