"""Sends the frames of dead letters again, as they were, each once."""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from contracts import frames
from service import kafka
from service.errors import Unavailable
from service.settings import Settings
from service.stream.records import headers_again

WAIT = 10.0  # seconds for a broker that does not answer


def replay(settings: Settings, only_list: bool) -> None:
    """Send what has come to the topic of dead letters since the last replay, or list it.

    The place is that of a group of its own, and is committed after the frames of a partition were
    delivered: a replay that is stopped sends none of them less, and perhaps some twice. What dies
    meanwhile, perhaps for the second time, is left to the next replay.

    Raises:
        Unavailable: no broker answers, or it refuses a frame.
    """
    producer = kafka.producer(settings)
    group = f"{settings.stream_group}-replay"
    counts = Counter[bool]()
    with closing(kafka.consumer(settings, group, **{"enable.partition.eof": True})) as consumer:
        try:
            topic = consumer.list_topics(settings.stream_dead, WAIT).topics[settings.stream_dead]
            places = [TopicPartition(settings.stream_dead, number) for number in topic.partitions]
            started = int(time.time() * 1000)
            for place in consumer.committed(places, WAIT):
                for message in _until_now(consumer, place, started):
                    whole = _say(message)
                    counts[whole] += 1
                    if whole and not only_list:
                        headers = headers_again(message)
                        frame = (message.value(), message.key())
                        producer.produce(settings.stream_frames, *frame, headers=headers)
                    place.offset = (message.offset() or 0) + 1
                if not only_list and place.offset >= 0:
                    if producer.flush(WAIT):
                        raise Unavailable("the broker does not take the frames: try again")
                    consumer.commit(offsets=[place], asynchronous=False)
        except KafkaException as error:
            raise Unavailable(f"the replay stopped: {error.args[0].str()}: try again") from None
    verb = "could be" if only_list else "were"
    print(f"{counts[True]} frames {verb} sent again; {counts[False]} were too large to be kept")


def _until_now(consumer: Consumer, place: TopicPartition, started: int) -> Iterator[Message]:
    """The messages of a partition that were there at a time, in milliseconds."""
    consumer.assign([TopicPartition(place.topic, place.partition, place.offset)])
    while True:
        message = consumer.poll(WAIT)
        if message is None:
            raise Unavailable("the broker does not answer: try again")
        if (error := message.error()) is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                return
            raise KafkaException(error)
        if message.timestamp()[1] > started:
            return
        yield message


def _say(message: Message) -> bool:
    """Print a dead letter; returns whether it still has its frame."""
    found = frames.texts(message.headers())
    about = {name: found.get(frames.DEAD + name, "?") for name in ("at", "kind", "reason")}
    source = f"{found.get(frames.SOURCE, '-')}/{found.get(frames.SEQUENCE, '-')}"
    print(f"{about['at']} {source} {about['kind']}: {about['reason']}", file=sys.stdout)
    return f"{frames.DEAD}left-out" not in found
