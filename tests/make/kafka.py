"""A real Kafka broker on loopback, what breaks the way to it, and frames to send.

CONVEYOR_BROKER=host:port takes another broker, all of whose topics are the test's own.
"""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from contracts.frames import headers_of, texts
from service.stream.broker import start_broker
from tests.make.ports import free_port

WITHIN = 90.0  # seconds; generous, the machine may be busy
QUIET = 15.0  # seconds without a message, after which a reader begins again


@contextmanager
def broker(folder: Path, advertised: int = 0) -> Iterator[str]:
    """Run a broker; gives host:port. Clients are sent to the port `advertised`, if given."""
    if given := os.environ.get("CONVEYOR_BROKER"):
        if advertised:
            pytest.skip("needs a broker of its own")
        yield given
        return
    with (folder / "broker.log").open("w", encoding="utf-8") as log:
        port = free_port()
        process = start_broker(port, advertised or port, log)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


class Link:
    """A TCP connection to the broker that can be cut, as if the broker had vanished."""

    def __init__(self) -> None:
        self.port = free_port()
        self._target = 0
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def join(self, target: str = "") -> None:
        """Let connections through, to a target from now on."""
        self._target = int(target.rpartition(":")[2] or self._target)
        self._call(self._listen())

    def cut(self) -> None:
        """End all connections, and refuse new ones."""
        self._call(self._close())

    def close(self) -> None:
        """Cut it for good."""
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(WITHIN)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)

    async def _close(self) -> None:
        assert self._server is not None
        for listening in self._server.sockets:
            self._loop.remove_reader(listening.fileno())
        # what was accepted just now begins, and is cut, too: a server that is closed before
        # would keep such a connection open and answer nothing
        await asyncio.sleep(0.05)
        self._server.close()
        for task in (tasks := list(self._open)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.05)  # transports close a turn later

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            try:
                await asyncio.gather(_pump(reader, back), _pump(there, writer))
            finally:
                back.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(task)
            writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry one direction; the end of one is the end of both."""
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError


class Topics(NamedTuple):
    """Topics of one test, and the settings of workers for them."""

    brokers: str
    name: str

    @property
    def settings(self) -> dict[str, str]:
        """SERVICE_ variables in lower case."""
        return {
            "stream_brokers": self.brokers,
            "stream_frames": f"{self.name}.frames",
            "stream_results": f"{self.name}.results",
            "stream_dead": f"{self.name}.dead",
            "stream_annotated": f"{self.name}.annotated",
            "stream_group": self.name,
            "stream_port": "0",
            "stream_client": '{"session.timeout.ms": "6000", "heartbeat.interval.ms": "500"}',
        }

    def producer(self) -> Producer:
        """A producer that takes large messages."""
        return Producer(
            {"bootstrap.servers": self.brokers, "message.max.bytes": 30_000_000, "linger.ms": 5}
        )

    def send(self, frames: Iterable[tuple[bytes | None, Any]]) -> None:
        """Send contents with their headers, to the topic of frames."""
        producer = self.producer()
        for content, headers in frames:
            key = texts(headers).get("source", "").encode()
            producer.produce(f"{self.name}.frames", content, key, headers=headers)
            producer.poll(0)
        assert producer.flush(WITHIN) == 0

    def read(
        self, topic: str, enough: Callable[[list[Message]], bool], within: float = WITHIN
    ) -> list[Message]:
        """Everything in a topic, from its beginning on, until it is enough."""
        deadline = time.monotonic() + within
        while not enough(found := self._read(f"{self.name}.{topic}", enough, deadline)):
            if time.monotonic() >= deadline:
                every = self._read(f"{self.name}.{topic}", enough, time.monotonic() + QUIET, False)
                pytest.fail(
                    f"{len(found)} messages in {self.name}.{topic}, and {len(every)} with those of "
                    "transactions that are open or aborted"
                )
        return found

    def _read(
        self,
        name: str,
        enough: Callable[[list[Message]], bool],
        deadline: float,
        committed: bool = True,
    ) -> list[Message]:
        """Read as `read`, until nothing has come for a while: on a busy machine Tansu has left
        partitions out, and what is asked for anew is all there."""
        consumer = Consumer(
            {
                **{"bootstrap.servers": self.brokers, "group.id": uuid.uuid4().hex},
                "isolation.level": "read_committed" if committed else "read_uncommitted",
                "enable.auto.commit": False,
            }
        )
        found: list[Message] = []
        try:
            parts = consumer.list_topics(name, 30).topics[name].partitions
            consumer.assign([TopicPartition(name, number, 0) for number in parts])
            last = time.monotonic()
            while not enough(found) and time.monotonic() < min(deadline, last + QUIET):
                if more := [one for one in consumer.consume(500, 0.2) if one.error() is None]:
                    found += more
                    last = time.monotonic()
        finally:
            consumer.close()
        return found


def topics(brokers: str, partitions: int = 4) -> Topics:
    """Create the topics of a test."""
    made = Topics(brokers, f"t-{uuid.uuid4().hex[:12]}")
    admin = AdminClient({"bootstrap.servers": brokers})
    wanted = [
        NewTopic(f"{made.name}.{end}", partitions, 1)
        for end in ("frames", "results", "dead", "annotated")
    ]
    for future in admin.create_topics(wanted).values():
        future.result(WITHIN)
    return made


def headers(source: str = "camera", sequence: int = 0, **more: str) -> Any:
    """Headers of a good frame."""
    return headers_of(source, sequence, datetime.now(UTC), **more)


def worker(settings: Mapping[str, Any], log: Path, *words: str) -> "subprocess.Popen[str]":
    """Start `python -m service stream`; `settings` are SERVICE_ variables in lower case."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SERVICE_")}
    own = {f"SERVICE_{key.upper()}": str(value) for key, value in settings.items()}
    with log.open("a", encoding="utf-8") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "service", "stream", *words],
            env=kept | own,
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
        )


@contextmanager
def working(
    topics: Topics, bundle: Path, folder: Path, **settings: Any
) -> "Iterator[tuple[subprocess.Popen[str], Path]]":
    """Run a worker; gives it with its log, once it has started. It has to stop in order."""
    log = folder / f"worker-{time.monotonic_ns()}.log"
    running = worker(topics.settings | own_state(bundle, folder) | settings, log)
    try:
        wait_for_line(log, "streaming", running)
        yield running, log
        running.terminate()
        assert running.wait(WITHIN) == 0, log.read_text(encoding="utf-8")
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()


def own_state(bundle: Path, folder: Path) -> dict[str, Any]:
    """Settings of a worker beside those of its topics."""
    return {
        **{"bundle": bundle, "state": folder / "state", "feedback": "off"},
        **{"repository": folder / "no-repository"},
    }


def wait_for_line(
    log: Path, event: str, process: "subprocess.Popen[str] | None" = None
) -> dict[str, Any]:
    """Wait until a program has logged an event; gives the line."""
    deadline = time.monotonic() + WITHIN
    while time.monotonic() < deadline:
        for line in log.read_text(encoding="utf-8").splitlines():
            if line.startswith("{") and (found := json.loads(line))["event"] == event:
                return dict(found)
        text = log.read_text(encoding="utf-8")
        assert process is None or process.poll() is None, f"it ended: {text}"
        time.sleep(0.02)
    raise AssertionError(f"{event} was never logged: {log.read_text(encoding='utf-8')}")


def sequences(messages: Iterable[Message]) -> list[int]:
    """The sequence numbers of frames that were answered, in the order of the answers."""
    return [int(texts(one.headers())["sequence"]) for one in messages]
