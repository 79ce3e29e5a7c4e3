"""The worker's two ends at Kafka: takes what waits, delivers, then commits.

Blocking; the worker calls `take` and `settle` in threads of their own, one call of each at a time.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from service import kafka
from service.errors import ServiceError
from service.settings import Settings
from service.stream.records import Record

WAIT = 0.2  # seconds that `take` waits for a first message
STATISTICS = 2_000  # milliseconds between two of librdkafka's own
TRANSACTION = 15_000  # milliseconds; so long may that of a killed worker hold readers up
GIVE_UP = 10.0  # seconds that a revoked partition, or a stop, waits for what is in flight
FENCED = (
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError._FENCED,
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
)

log = logging.getLogger("service.stream")


class Broken(ServiceError):
    """The stream cannot go on; nothing is committed that was not delivered."""


class Undelivered(Exception):
    """The worker stops, and the broker is away: the frames are taken again later."""


class Client:
    """One member of the group, and one producer."""

    def __init__(self, settings: Settings, statistics: Callable[[str], None]) -> None:
        """Connect lazily; `statistics` gets librdkafka's own, as JSON.

        Raises:
            UnsafeSettings, Unavailable: see `service.kafka`.
        """
        self._settings = settings
        self._transactional = settings.stream_transactions
        more: dict[str, Any] = {"stats_cb": statistics, "statistics.interval.ms": STATISTICS}
        if settings.stream_id:
            more["group.instance.id"] = settings.stream_id
        self._consumer: Consumer = kafka.consumer(settings, settings.stream_group, **more)
        own = {
            "transactional.id": f"{settings.stream_group}-{settings.stream_id}",
            "transaction.timeout.ms": TRANSACTION,
        }
        self._producer = kafka.producer(settings, **(own if self._transactional else {}))
        self._threads = ThreadPoolExecutor(2, "kafka")
        self._in_flight: Future[None] | None = None
        self._begun = False
        self.stopping = False

    def take(self) -> list[Message]:
        """Messages that wait, `stream_batch` at most; none if none came in a moment.

        Raises:
            Broken: the broker refuses this worker for good.
        """
        if not self._begun:
            self._begin()
        first = self._consumer.poll(WAIT)
        if first is None:
            return []
        found = [first, *self._consumer.consume(self._settings.stream_batch - 1, 0)]
        messages = []
        for message in found:
            if (error := message.error()) is None:
                messages.append(message)
            elif error.fatal() or error.code() in FENCED:
                raise self._broken(error)
            else:
                log.warning("kafka", extra={"detail": error.str()[:200]})
        return messages

    def _begin(self) -> None:
        if self._transactional:
            try:
                self._producer.init_transactions(WAIT * 10)
            except KafkaException as error:
                if error.args[0].retriable() or error.args[0].code() == KafkaError._TIMED_OUT:
                    return
                raise self._broken(error.args[0]) from None
        self._consumer.subscribe([self._settings.stream_frames], on_revoke=self._revoked)
        self._begun = True

    def settle(self, records: Sequence[Record], messages: Sequence[Message]) -> Future[None]:
        """Deliver, then commit the messages, in the background; wait for it before the next one.

        Raises (by the future):
            Broken: the broker refuses an answer, or this worker.
            Undelivered: the worker was stopped before the broker had them.
        """
        work = self._in_transaction if self._transactional else self._deliver_and_commit
        self._in_flight = self._threads.submit(work, records, messages)
        return self._in_flight

    def _deliver_and_commit(self, records: Sequence[Record], messages: Sequence[Message]) -> None:
        failed: list[KafkaError] = []
        self._produce(records, failed)
        waited = 0.0
        while self._producer.flush(WAIT):
            waited += WAIT
            if self.stopping and waited > GIVE_UP / 2:
                raise Undelivered
        if failed:
            raise self._broken(failed[0])
        try:
            self._consumer.commit(offsets=_after(messages), asynchronous=False)
        except KafkaException as error:
            refused = error.args[0]
            if refused.fatal() or refused.code() in FENCED:
                raise self._broken(refused) from None
            # Another worker has the partition now, or the coordinator is away: these frames may be
            # answered again, and their answers have the same ids.
            log.warning("not committed", extra={"detail": refused.str()[:200]})

    def _in_transaction(self, records: Sequence[Record], messages: Sequence[Message]) -> None:
        failed: list[KafkaError] = []
        try:
            self._producer.begin_transaction()
            self._produce(records, failed)
            group = self._consumer.consumer_group_metadata()
            self._producer.send_offsets_to_transaction(_after(messages), group)
            while True:
                try:
                    return self._producer.commit_transaction(GIVE_UP)
                except KafkaException as error:
                    if not error.args[0].retriable() or self.stopping:
                        raise
        except KafkaException as error:
            refused = error.args[0]
            if not refused.txn_requires_abort():
                raise self._broken(refused) from None
            log.warning("transaction aborted", extra={"detail": refused.str()[:200]})
            self._producer.abort_transaction()
            for place in _first(messages):
                with suppress(KafkaException):  # another worker has the partition now
                    self._consumer.seek(place)

    def _produce(self, records: Sequence[Record], failed: list[KafkaError]) -> None:
        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failed.append(error)

        for topic, key, value, headers in records:
            while True:
                try:
                    self._producer.produce(
                        topic, value, key, headers=list(headers), on_delivery=delivered
                    )
                    break
                except BufferError:  # the broker is slow, or away
                    self._producer.poll(WAIT)
                    if self.stopping:
                        raise Undelivered from None
                except KafkaException as error:
                    raise self._broken(error.args[0]) from None

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Let what is in flight be committed before another worker gets the partitions."""
        if self._in_flight is not None:
            with suppress(Exception):
                self._in_flight.exception(GIVE_UP)

    def _broken(self, error: KafkaError) -> Broken:
        if error.code() in FENCED:
            return Broken(
                f"another worker has SERVICE_STREAM_ID {self._settings.stream_id!a} and has taken "
                "over: give each worker a name of its own"
            )
        return Broken(
            f"Kafka refuses: {error.str()[:200]}: check the topics, their limits and the rights of "
            "SERVICE_STREAM_CLIENT (docs/stream.md)"
        )

    def close(self) -> bool:
        """Leave the group, so that others take over; False where a thread waits for the broker."""
        self.stopping = True
        if self._in_flight is not None:
            try:
                self._in_flight.exception(GIVE_UP / 10)
            except TimeoutError:
                return False
        self._consumer.close()
        self._threads.shutdown(wait=False)
        return True


def _after(messages: Sequence[Message]) -> list[TopicPartition]:
    """The places after the last message of each partition."""
    last = {(str(one.topic()), int(one.partition() or 0)): one.offset() or 0 for one in messages}
    return [TopicPartition(topic, number, offset + 1) for (topic, number), offset in last.items()]


def _first(messages: Sequence[Message]) -> list[TopicPartition]:
    """The places of the first message of each partition."""
    places = {
        (str(it.topic()), int(it.partition() or 0)): it.offset() or 0 for it in messages[::-1]
    }
    return [TopicPartition(topic, number, offset) for (topic, number), offset in places.items()]
