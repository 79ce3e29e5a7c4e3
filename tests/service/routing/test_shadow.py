"""The shadow: it sees a copy after the answer, only when nothing waits, and harms no one."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from service.errors import InvalidOutput
from service.inference.model import Model
from tests.make.replicas import within
from tests.service.routing.conftest import CHIP, KIND, V2, Traffic

Make = Callable[..., Traffic]
MIRROR = f"name: trial\narms: {{default: 1}}\nshadow: {V2}\n"


def shadow_of(traffic: Traffic) -> Model:
    plan = traffic.router.plan
    assert plan is not None and plan.shadow is not None and plan.shadow.model is not None
    return plan.shadow.model


async def settled(traffic: Traffic) -> dict[str, int]:
    """Wait for the copy that waits; what became of all."""
    task = traffic.router.parts.shadow._task
    if task is not None:
        await task
    copies: dict[str, int] = (await traffic.get())["shadow"]["copies"]
    return copies


def test_a_copy_runs_after_its_answer_was_sent(
    traffic: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = traffic()
    order: list[str] = []

    async def main() -> None:
        await found.follow(MIRROR)
        model = shadow_of(found)
        infer = model.infer

        def copied(chip: Any) -> Any:
            order.append("copy")
            return infer(chip)

        monkeypatch.setattr(model, "infer", copied)

        async def send(message: Any) -> None:
            order.append(message["type"])

        async def receive() -> Any:
            return {"type": "http.request", "body": CHIP, "more_body": False}

        headers = [(key.encode(), value.encode()) for key, value in KIND.items()]
        scope = {
            **{"type": "http", "method": "POST", "path": "/predict", "query_string": b""},
            "headers": [*headers, (b"content-length", b"%d" % len(CHIP))],
        }
        await found.worker.app(scope, receive, send)
        assert order == ["http.response.start", "http.response.body"]
        copies = await settled(found)
        assert order[2:] == ["copy"]
        assert copies["equal"] + copies["different"] == 1

    within(found.worker, work=main())


def test_a_copy_is_dropped_where_anything_waits_or_runs(
    traffic: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = traffic()
    monkeypatch.setattr("service.routing.shadow.PAUSE", 0.2)  # so that all of it is within

    async def main() -> None:
        await found.follow(MIRROR)
        queue = found.worker.container.queue()
        await found.predict()
        await asyncio.sleep(0)  # the queue ends with it
        queue._busy = True
        assert await settled(found) == {"equal": 0, "different": 0, "failed": 0, "dropped": 1}
        queue._busy = False
        answers = await asyncio.gather(*(found.predict() for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        copies = await settled(found)
        assert sum(copies.values()) == 21 and copies["dropped"] >= 19, "one copy waits at most"

    within(found.worker, work=main())


def test_the_verdict_compares_classes_confidence_and_time_and_no_copy_is_recorded(
    traffic: Make,
) -> None:
    found = traffic()

    async def main() -> None:
        await found.follow(MIRROR)
        for _ in range(3):
            await found.predict()
            await settled(found)
        verdict = (await found.get())["shadow"]
        assert (verdict["tag"], verdict["problem"]) == (V2, None)
        assert sum(verdict["copies"].values()) == 3
        assert verdict["equal"] in (0.0, 1.0) and abs(verdict["confidence"]) <= 1
        assert verdict["milliseconds"] > 0 and verdict["answer_milliseconds"] > 0
        async with found.worker.client() as client:
            text = (await client.get("/metrics")).text
        counted = [line for line in text.splitlines() if line.startswith("model_predictions_total")]
        assert counted and all(V2 not in line for line in counted)

    within(found.worker, work=main())


def test_no_answer_waits_for_a_copy_that_runs(
    traffic: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = traffic()
    began, go_on = threading.Event(), threading.Event()

    async def main() -> None:
        await found.follow(MIRROR)
        model = shadow_of(found)
        infer = model.infer

        def slow(chip: Any) -> Any:
            began.set()
            assert go_on.wait(60)
            return infer(chip)

        monkeypatch.setattr(model, "infer", slow)
        await found.predict()
        assert await asyncio.to_thread(began.wait, 60)
        assert (await found.predict()).status_code == 200
        go_on.set()
        copies = await settled(found)
        assert copies["equal"] + copies["different"] == copies["dropped"] == 1

    within(found.worker, work=main())


def test_a_shadow_that_fails_harms_no_answer(
    traffic: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = traffic()

    def broken(chip: object) -> None:
        raise InvalidOutput("it is not finite")

    async def main() -> None:
        await found.follow(MIRROR)
        monkeypatch.setattr(shadow_of(found), "infer", broken)
        for _ in range(3):
            assert (await found.predict()).json()["model"]["tag"] == "local"
            await settled(found)
        assert (await found.get())["shadow"]["copies"]["failed"] == 3

    within(found.worker, work=main())
    said = [record for record in caplog.records if record.getMessage() == "the shadow failed"]
    assert len(said) == 1, "once, not with each copy"
