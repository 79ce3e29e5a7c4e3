"""Frames of the stream get their arms as requests do; a frame that names a model gets that one."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message
from prometheus_client import CollectorRegistry

from contracts.frames import texts
from service.feedback.journal import Routed
from service.inference.model import Model
from service.inference.several import infer_several
from service.stream.metrics import StreamMetrics
from service.stream.records import Record
from service.stream.worker import StreamWorker
from tests.make.kafka import headers
from tests.make.replicas import within
from tests.service.routing.conftest import ALL_TO_V2, CHIP, SPLIT, V2, Traffic

Make = Callable[..., Traffic]


class Topic:
    """A client whose topic has these batches, and which keeps what is sent; then it stops."""

    def __init__(self, *batches: Sequence[Message]) -> None:
        self.batches = list(batches)
        self.sent: list[Record] = []
        self.worker: StreamWorker
        self.stopping = False

    def take(self) -> Sequence[Message]:
        return self.batches.pop(0)

    def settle(self, records: Iterable[Record], messages: Sequence[Message]) -> "Future[None]":
        self.sent += records
        if not self.batches:
            self.worker.stopping.set()
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def close(self) -> bool:
        return True


def frames(count: int, **more: str) -> list[Message]:
    return [
        Message(
            topic="frames",
            partition=0,
            offset=number,
            timestamp=(1, 1),
            value=CHIP,
            headers=headers("camera", number, **more),
        )
        for number in range(count)
    ]


async def stream(traffic: Traffic, *batches: Sequence[Message]) -> list[Record]:
    """What a worker answers to these batches."""
    container, topic = traffic.worker.container, Topic(*batches)
    metrics = StreamMetrics(CollectorRegistry(), "frames")
    client: Any = topic
    topic.worker = StreamWorker(
        container.settings(),
        client,
        container.predictor(),
        container.serving(),
        metrics,
        traffic.worker.catalogue,
        traffic.router,
    )
    await topic.worker.run()
    return topic.sent


def arms(sent: Iterable[Record]) -> Counter[str]:
    return Counter(texts(one.headers).get("routing-arm", "none") for one in sent)


def test_frames_are_split_keep_their_order_and_say_arm_and_propensity(traffic: Make) -> None:
    one = traffic()

    async def main() -> list[Record]:
        await one.follow(SPLIT)
        return await stream(one, frames(40), frames(40)[20:])

    sent = within(one.worker, work=main())
    order = [int(texts(record.headers)["sequence"]) for record in sent]
    assert order == [*range(40), *range(20, 40)]
    dealt = arms(sent)
    assert set(dealt) == {"default", V2} and min(dealt.values()) > 10
    for record in sent:
        named = texts(record.headers)
        assert named["routing-rule"] == "trial" and named["routing-propensity"] == "0.500000"
        tag = json.loads(record.value or b"")["model"]["tag"]
        assert tag == named["model"] == {"default": "local", V2: V2}[named["routing-arm"]]
    assert one.worker.value("routing_answers_total", rule="trial", arm=V2) == dealt[V2]


def test_the_frames_of_a_source_may_keep_their_arm(traffic: Make) -> None:
    one = traffic()

    async def main() -> list[Record]:
        await one.follow(f"{SPLIT}sticky: source\n")
        return await stream(one, frames(20))

    assert len(arms(within(one.worker, work=main()))) == 1


def test_a_frame_that_names_a_model_gets_it_by_no_rule(traffic: Make) -> None:
    one = traffic()

    async def main() -> list[Record]:
        await one.follow(ALL_TO_V2)
        return await stream(one, [*frames(2, model="local"), *frames(3)[2:]])

    sent = within(one.worker, work=main())
    assert [texts(record.headers)["model"] for record in sent] == ["local", "local", V2]
    assert arms(sent) == {"none": 2, V2: 1}


def test_a_label_can_find_the_arm_and_the_propensity(
    traffic: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = traffic()
    recorder, seen = one.worker.container.recorder(), []
    monkeypatch.setattr(
        recorder, "record", lambda request_id, *rest: seen.append(recorder.routed[request_id])
    )

    async def main() -> list[Record]:
        await one.follow(ALL_TO_V2)
        return await stream(one, frames(3))

    within(one.worker, work=main())
    assert seen == [Routed("trial", 1.0)] * 3
    assert recorder.routed == {}


def test_an_arm_that_fails_in_the_stream_is_cut_off(
    traffic: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = traffic()
    infer = infer_several

    def broken(model: Model, chips: Any) -> Any:
        if model.tag == V2:
            raise RuntimeError("out of memory")
        return infer(model, chips)

    monkeypatch.setattr("service.prediction.infer_several", broken)

    async def main() -> list[Record]:
        await one.follow(f"{ALL_TO_V2}guard: {{requests: 10, errors: 0.5}}\n")
        batches = [frames(count + 1)[count:] for count in range(40)]
        return await stream(one, *batches)

    sent = within(one.worker, work=main())
    dead = [record for record in sent if "dead-reason" in texts(record.headers)]
    assert 0 < len(dead) <= 10 and arms(sent)["default"] == 40 - len(dead)


def test_no_copy_for_a_shadow_is_made_while_frames_wait(traffic: Make, tmp_path: Path) -> None:
    one = traffic(stream_batch=4)
    rules = f"name: trial\narms: {{default: 1}}\nshadow: {V2}\n"

    async def main() -> float:
        await one.follow(rules)
        offered = one.router.parts.shadow
        calls: list[object] = []
        offered.offer = lambda *given: calls.append(given)  # type: ignore[method-assign]
        await stream(one, frames(4))
        assert calls == []
        await stream(one, frames(2))
        return len(calls)

    assert within(one.worker, work=main()) == 2
