"""Traffic by rules, over HTTP: who answers, what an answer says of it, and what breaks it not."""

import asyncio
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.auth.roles import new_key
from service.errors import FeedbackUnavailable, InvalidOutput
from service.inference.bundle import read_bundle
from service.inference.model import Model
from tests.make.projects import Published
from tests.make.replicas import Worker, within
from tests.service.models.conftest import AREAS, SHIPS
from tests.service.routing.conftest import ALL_TO_V2, LEARN, SPLIT, V2, Traffic

Make = Callable[..., Traffic]


def test_every_answer_says_version_arm_and_propensity_and_the_shares_hold(traffic: Make) -> None:
    found = traffic()

    async def main() -> None:
        await found.follow(f"name: trial\narms: {{default: 0.8, {V2}: 0.2}}\n")
        arms = Counter[str]()
        for _ in range(200):
            answer = await found.predict()
            headers = answer.headers
            arms[arm := headers["x-routing-arm"]] += 1
            share = "0.800000" if arm == "default" else "0.200000"
            assert (headers["x-routing-rule"], headers["x-routing-propensity"]) == ("trial", share)
            tag = "local" if arm == "default" else V2
            assert answer.json()["model"]["tag"] == headers["x-model-tag"] == tag
        assert 15 < arms[V2] < 70
        state = await found.get()
        assert sum(arm["answers"] for arm in state["arms"]) == 200
        assert (state["rule"], state["enabled"], state["problem"]) == ("trial", True, None)

    within(found.worker, work=main())


def test_a_request_that_names_a_model_gets_it_by_no_rule(traffic: Make) -> None:
    found = traffic()

    async def main() -> None:
        await found.follow(ALL_TO_V2)
        named = await found.predict("?model=local")
        assert named.json()["model"]["tag"] == "local"
        assert not [name for name in named.headers if name.startswith("x-routing")]
        assert (await found.predict()).json()["model"]["tag"] == V2

    within(found.worker, work=main())


def test_a_caller_keeps_its_arm_in_every_worker(traffic: Make) -> None:
    workers = [traffic(), traffic()]

    async def main() -> None:
        for one in workers:
            await one.follow(SPLIT + "sticky: X-User-Id\n")
        chosen = []
        for caller in range(30):
            header = {"x-user-id": f"caller-{caller}"}
            arms = [(await one.predict(**header)).headers["x-routing-arm"] for one in workers * 2]
            assert len(set(arms)) == 1
            chosen.append(arms[0])
        assert 5 < chosen.count(V2) < 25

    within(*(one.worker for one in workers), work=main())


def test_replicas_learn_from_labels_and_agree(traffic: Make, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'shared.db'}"
    one, other = traffic(feedback=database), traffic(feedback=database)
    # Another replica: it shares nothing but the database.
    other.router.parts = other.router.parts._replace(folder=tmp_path / "elsewhere")

    async def main() -> None:
        for replica in (one, other):
            await replica.follow(LEARN)
        assert (await one.arm(V2))["share"] == pytest.approx(0.5)
        given = Counter[str]()
        for number in range(60):
            answer = await (one, other)[number % 2].predict()
            arm = answer.headers["x-routing-arm"]
            if given[arm] < 8:
                given[arm] += 1
                await (one, other)[number % 2].label(answer, arm == V2)
        assert given == {"default": 8, V2: 8}
        for replica in (one, other):
            await replica.router.share_rewards()
            await replica.router.read()
        first, second = await one.get(), await other.get()
        assert [arm["share"] for arm in first["arms"]] == [arm["share"] for arm in second["arms"]]
        best = await other.arm(V2)
        assert (best["right"], best["wrong"]) == (8, 0)
        assert best["share"] > 0.94 and (await one.arm("default"))["share"] >= 0.05
        assert first["proposal"]["command"] == "make promote VERSION=v1.1.0 STAGE=production"
        rows = (await one.get("/feedback?labelled=true"))["answers"]
        assert {row["rule"] for row in rows} == {"trial"}
        assert {row["propensity"] for row in rows} == {0.5}

    within(one.worker, other.worker, work=main())


def test_a_label_of_an_unknown_prediction_teaches_nothing(traffic: Make) -> None:
    found = traffic()

    async def main() -> None:
        await found.follow(LEARN)
        await found.predict()
        async with found.worker.client() as client:
            body = {"request_id": "0" * 16, "label": "Forest"}
            assert (await client.post("/feedback", json=body)).status_code == 404
        await found.router.share_rewards()
        await found.router.read()
        assert [(arm["right"], arm["wrong"]) for arm in (await found.get())["arms"]] == [(0, 0)] * 2

    within(found.worker, work=main())


def test_while_the_database_is_away_and_the_clock_jumps_it_goes_on_with_what_it_knows(
    traffic: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = traffic()

    def away(rule: str) -> None:
        raise FeedbackUnavailable("the feedback database is unavailable")

    async def main() -> None:
        await found.follow(LEARN)
        monkeypatch.setattr("time.time_ns", lambda: 7_000_000_000 * 10**9)
        for _ in range(20):
            answer = await found.predict()
            await found.label(answer, answer.headers["x-routing-arm"] == V2)
        monkeypatch.setattr("time.time_ns", lambda: 10**9)
        await found.router.share_rewards()
        await found.router.read()
        before = (await found.arm(V2))["share"]
        assert before > 0.6
        answers = found.worker.container.answers()
        assert answers is not None
        monkeypatch.setattr(answers.store(), "count_rewards", away)
        for _ in range(3):
            await found.router.share_rewards()
            await found.router.read()
        assert (await found.arm(V2))["share"] == before
        assert (await found.predict()).status_code == 200

    with caplog.at_level(logging.WARNING):
        within(found.worker, work=main())
    said = [record for record in caplog.records if getattr(record, "about", "") == "rewards"]
    assert len(said) == 1, "once, not each time"


@pytest.mark.parametrize("broken", ["", "name: [", "name: other\narms: {default: 0.7}\n", None])
def test_a_broken_file_keeps_the_rules_before_it_and_says_so(
    traffic: Make, broken: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    found = traffic()

    async def main() -> None:
        await found.follow(ALL_TO_V2)
        if broken is None:
            found.file.unlink()
        for _ in range(2):
            await found.follow(broken)
        version = (await found.get("/version"))["routing"]
        assert version["rule"] == "trial" and version["problem"]
        assert (await found.get())["problem"] == version["problem"]
        assert "routing_refused 1.0" in await metrics(found)
        assert (await found.predict()).headers["x-routing-arm"] == V2
        await found.follow(SPLIT.replace("trial", "repaired"))
        assert (await found.get("/version"))["routing"] == {"rule": "repaired", "problem": None}
        assert "routing_refused 0.0" in await metrics(found)
        assert (await found.predict()).headers["x-routing-rule"] == "repaired"

    with caplog.at_level(logging.WARNING):
        within(found.worker, work=main())
    said = [record for record in caplog.records if getattr(record, "about", "") == "the file"]
    assert len(said) == 1 and "trial goes on" in vars(said[0])["detail"]


async def metrics(traffic: Traffic) -> str:
    async with traffic.worker.client() as client:
        return (await client.get("/metrics")).text


def test_without_a_file_yet_what_serves_answers(traffic: Make) -> None:
    found = traffic()

    async def main() -> None:
        await found.follow()
        answer = await found.predict()
        assert answer.json()["model"]["tag"] == "local"
        assert "x-routing-arm" not in answer.headers
        state = await found.get()
        assert (state["rule"], state["enabled"]) == (None, False)
        assert state["problem"].startswith("it cannot be read (No such file")

    within(found.worker, work=main())


def test_arms_that_cannot_answer_say_why_and_leave_their_share_to_the_others(
    traffic: Make,
) -> None:
    found = traffic()
    gone = "landcover@v9.9.9"
    arms = f"default: 0.2, {V2}: 0.2, {gone}: 0.2, {SHIPS}: 0.2, {AREAS}: 0.2"

    async def main() -> None:
        await found.follow(f"name: trial\narms: {{{arms}}}\n")
        said = {arm["arm"]: arm for arm in (await found.get())["arms"]}
        assert said["default"]["share"] == said[V2]["share"] == pytest.approx(0.5)
        assert "is not in the registry; near it: landcover@" in said[gone]["problem"]
        assert said[SHIPS]["problem"].startswith("bands: B02, B03, B04, and what serves has")
        assert said[AREAS]["problem"].startswith("task: segmentation, and what serves has")
        for _ in range(20):
            assert (await found.predict()).headers["x-routing-propensity"] == "0.500000"

    within(found.worker, work=main())


def test_an_arm_with_a_damaged_bundle_gets_nothing(
    traffic: Make, bundle: Path, tmp_path: Path
) -> None:
    project = Published(tmp_path / "project")
    graph = (bundle / "model.onnx").read_bytes()
    manifest = json.loads((bundle / "model.json").read_bytes())
    manifest["sha256"] = hashlib.sha256(graph[:-9]).hexdigest()
    files = {"model.json": json.dumps(manifest).encode(), "model.onnx": graph[:-9]}
    project.publish("landcover@v2.0.0", files)
    found = traffic(repository=project.folder)

    async def main() -> None:
        await found.follow("name: trial\narms: {default: 0.1, landcover@v2.0.0: 0.9}\n")
        assert (await found.arm("landcover@v2.0.0"))["problem"]
        answer = await found.predict()
        assert answer.headers["x-routing-arm"] == "default"
        assert answer.headers["x-routing-propensity"] == "1.000000"

    within(found.worker, work=main())


def test_an_arm_that_fails_is_cut_off_within_its_requests_in_every_worker(
    traffic: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = traffic(), traffic()
    text = ALL_TO_V2 + "guard: {requests: 20, errors: 0.1}\n"

    def broken(chip: object) -> None:
        raise InvalidOutput("it is not finite")

    async def main() -> None:
        for worker in (one, other):
            await worker.follow(text)
        arm = one.router.plan.arms[1] if one.router.plan else None
        assert arm is not None and arm.model is not None
        monkeypatch.setattr(arm.model, "infer", broken)
        statuses = [(await one.predict()).status_code for _ in range(30)]
        assert statuses[:3] == [500] * 3 and statuses[3:] == [200] * 27
        await other.router.read()
        for worker in (one, other):
            said = await worker.arm(V2)
            assert (said["share"], "answers failed" in said["cut"]) == (0.0, True)
            assert (await worker.predict()).json()["model"]["tag"] == "local"
        assert f'routing_cut{{arm="{V2}",rule="trial"}} 1.0' in await metrics(other)
        # A changed file gives it another chance.
        monkeypatch.undo()
        await one.follow(text + "# repaired\n")
        assert (await one.predict()).json()["model"]["tag"] == V2

    within(one.worker, other.worker, work=main())


def test_a_stage_that_was_cut_off_begins_anew_with_its_next_version(
    traffic: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Published(tmp_path / "project")
    project.publish_bundle("landcover@v1.0.0", seed=1)
    project.tag("landcover#staging#1")
    stage = "landcover#staging"
    found = traffic(repository=project.folder)

    def broken(chip: object) -> None:
        raise InvalidOutput("it is not finite")

    async def main() -> None:
        rules = (
            f"name: trial\narms: {{default: 0, '{stage}': 1}}\nguard: {{requests: 5, errors: 0}}"
        )
        await found.follow(rules)
        arm = found.router.plan.arms[1] if found.router.plan else None
        assert arm is not None and arm.model is not None
        monkeypatch.setattr(arm.model, "infer", broken)
        assert (await found.predict()).status_code == 500
        assert (await found.predict()).json()["model"]["tag"] == "local"
        project.publish_bundle("landcover@v1.1.0", seed=2)
        project.tag("landcover#staging#2")
        while (await found.arm(stage))["tag"] != "landcover@v1.1.0":
            await asyncio.sleep(0.1)
            await found.follow()
        assert (await found.predict()).json()["model"]["tag"] == "landcover@v1.1.0"

    within(found.worker, work=main())


def test_the_switch_of_a_deployer_lets_what_serves_answer_everything(traffic: Make) -> None:
    key, digest = new_key()
    one, other = (traffic(api_keys={digest: ["deploy"]}) for _ in range(2))

    async def switch(enabled: object, **headers: str) -> Any:
        async with one.worker.client() as client:
            return await client.put("/routing", json={"enabled": enabled}, headers=headers)

    async def main() -> None:
        for worker in (one, other):
            await worker.follow(ALL_TO_V2)
        assert (await switch(False)).status_code == 401
        assert (await switch("no", **{"x-api-key": key})).status_code == 422
        answer = await switch(False, **{"x-api-key": key})
        assert (answer.status_code, answer.json()["enabled"]) == (200, False)
        await other.router.read()
        for worker in (one, other):
            assert (await worker.predict()).json()["model"]["tag"] == "local"
            assert (await worker.get())["off"] == "PUT /routing"
        assert (await switch(True, **{"x-api-key": key})).json()["enabled"]
        assert (await one.predict()).json()["model"]["tag"] == V2
        await one.follow(ALL_TO_V2 + "enabled: false\n")
        assert (await one.predict()).json()["model"]["tag"] == "local"

    within(one.worker, other.worker, work=main())


def test_an_arm_that_has_become_what_serves_is_one_with_it(traffic: Make, registry: Path) -> None:
    found = traffic()

    async def main() -> None:
        await found.follow(SPLIT)
        found.worker.serving.switch(Model(V2, read_bundle(registry / "bundle-2")))
        await found.follow()
        assert "it is the model of default" in (await found.arm(V2))["problem"]
        answer = await found.predict()
        assert answer.headers["x-routing-propensity"] == "1.000000"
        assert answer.headers["x-model-tag"] == V2

    within(found.worker, work=main())


def test_two_loops_end_when_they_are_cancelled_and_follow_the_file_until_then(
    traffic: Make,
) -> None:
    found = traffic()

    async def main() -> None:
        found.file.write_text(ALL_TO_V2, encoding="utf-8")
        task = asyncio.create_task(found.router.follow())
        while (await found.predict()).json()["model"]["tag"] != V2:
            await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    within(found.worker, work=main())


def test_a_service_without_rules_has_no_such_route_and_says_nothing_of_them(
    start: Callable[..., Worker],
) -> None:
    worker = start()
    found = Traffic(worker, Path("none"))

    async def main() -> None:
        async with worker.client() as client:
            assert (await client.get("/routing")).status_code == 404
            assert "routing" not in (await client.get("/metrics")).text
        assert (await found.get("/version"))["routing"] is None
        assert "x-routing-arm" not in (await found.predict()).headers

    within(worker, work=main())
