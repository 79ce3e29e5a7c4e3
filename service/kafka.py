"""Clients of Kafka, by confluent-kafka, which is an extra: what all of them have in common.

Its threads fetch and send heartbeats, so that a model that computes does not look like a dead one.
"""

import json
import logging
import time
from typing import TYPE_CHECKING, Any

from service.errors import Unavailable, UnsafeSettings
from service.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Producer

MISSING = (
    "frames travel by Kafka with confluent-kafka, which is not installed: install the extra (pip "
    "install 'conveyor[stream]', or pip install 'confluent-kafka>=2.16.1,<3')"
)
NO_BROKERS = (
    "SERVICE_STREAM_BROKERS is empty: name the brokers, host:port with commas between; docs/"
    "stream.md starts one on this machine"
)
QUIET = 30.0  # seconds without another line about the same
COMMON: dict[str, Any] = {
    "topic.metadata.refresh.interval.ms": 30_000,
    "reconnect.backoff.max.ms": 2_000,
    "log_level": 2,  # Complaints say the rest
}
CONSUMER = COMMON | {
    "allow.auto.create.topics": True,
    "auto.offset.reset": "earliest",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "isolation.level": "read_committed",
    "partition.assignment.strategy": "cooperative-sticky",
    "session.timeout.ms": 10_000,
    "fetch.wait.max.ms": 50,
    "fetch.queue.backoff.ms": 10,
    "queued.max.messages.kbytes": 32_768,
}
PRODUCER = COMMON | {
    "enable.idempotence": True,
    "linger.ms": 0,
    "message.timeout.ms": 0,  # a broker that is away comes back; nothing is given up meanwhile
    "queue.buffering.max.kbytes": 65_536,
}

log = logging.getLogger("service.kafka")


def check(settings: Settings) -> None:
    """Refuse at the start what no client can work with.

    Raises:
        Unavailable: confluent-kafka is not installed.
        UnsafeSettings: no brokers are named.
    """
    _module()
    if not settings.stream_brokers:
        raise UnsafeSettings(NO_BROKERS)


def consumer(settings: Settings, group: str, **more: Any) -> "Consumer":
    """Make a consumer of a group.

    Raises:
        Unavailable: confluent-kafka is not installed.
        UnsafeSettings: no brokers are named, or the client refuses a setting.
    """
    made: Consumer = _made(_module().Consumer, settings, CONSUMER | {"group.id": group} | more)
    return made


def producer(settings: Settings, **more: Any) -> "Producer":
    """Make a producer, which keeps the order and repeats nothing. Raises as above."""
    made: Producer = _made(_module().Producer, settings, PRODUCER | more)
    return made


def _module() -> Any:
    try:
        import confluent_kafka
    except ImportError:
        raise Unavailable(MISSING) from None
    return confluent_kafka


def _made(kind: Any, settings: Settings, ours: dict[str, Any]) -> Any:
    check(settings)
    own = json.loads(settings.stream_client.get_secret_value() or "{}")
    config = {"error_cb": Complaints()} | ours | own
    config["bootstrap.servers"] = settings.stream_brokers
    try:
        return kind(config, logger=log)
    except Exception as error:  # KafkaException, ValueError or TypeError, by what is wrong
        said = " ".join(str(error).split())[:200]
        raise UnsafeSettings(f"SERVICE_STREAM_CLIENT: the client refuses it: {said}") from None


class Complaints:
    """Logs what goes on by itself, such as a broker that is away: each kind once in a while."""

    def __init__(self) -> None:
        """Nothing was said yet."""
        self._said: dict[int, float] = {}  # code of an error -> when it was logged

    def __call__(self, error: "KafkaError") -> None:
        """Log it, unless it was said just now."""
        now = time.monotonic()
        if now - self._said.get(error.code(), -QUIET) >= QUIET:
            self._said[error.code()] = now
            log.warning("kafka", extra={"detail": error.str()[:200]})
