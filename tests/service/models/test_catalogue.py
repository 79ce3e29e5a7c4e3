"""Models that requests name: fetched once, kept within limits, and what goes wrong on the way."""

import asyncio
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from service.errors import (
    BeingFetched,
    BundleRefused,
    Forbidden,
    NotFound,
    Overloaded,
    ServiceError,
    StorageFull,
)
from service.models import catalogue
from service.registry import client
from tests.make.bundles import expected, make_bundle, make_chip
from tests.make.disks import small_disk
from tests.make.images import npy
from tests.make.projects import Published, contents, digest_of
from tests.make.replicas import Worker, within
from tests.service.models.conftest import AREAS, SHIPS, V1, V2

Start = Callable[..., Worker]
LONG = 120.0  # seconds; generous, the machine may be busy


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    """A registry to change, with one version; every request looks at it."""
    monkeypatch.setattr(client, "PAUSE", 0.0)
    found = Published(tmp_path / "project")
    found.publish_bundle(V1, seed=1)
    return found


def tags(worker: Worker) -> list[str]:
    return [key.tag for key in worker.catalogue._loaded]


async def error_of(worker: Worker, reference: str, wait: float = LONG) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await worker.catalogue.resolve(reference, wait)
    return caught.value


def heavy(bundle: Path) -> dict[str, bytes]:
    """A bundle whose graph has 2 MiB more."""
    graph = onnx.load(bundle / "model.onnx")
    graph.doc_string = "x" * (2 << 20)
    content = graph.SerializeToString()
    manifest = json.loads((bundle / "model.json").read_bytes())
    manifest["sha256"] = hashlib.sha256(content).hexdigest()
    return {"model.json": json.dumps(manifest).encode(), "model.onnx": content}


def test_models_of_other_tasks_and_bands_answer_beside_the_one_that_serves(
    start: Start, registry: Path
) -> None:
    worker = start()

    async def main() -> list[dict[str, Any]]:
        found = []
        for reference, chip in (
            (V2, make_chip(5)),
            (SHIPS, make_chip(5, bands=3)),
            (AREAS, make_chip(5, size=32)),
            ("local", make_chip(5)),
        ):
            model = None
            if reference != "local":
                model = await worker.catalogue.resolve(reference, LONG)
            answer = await worker.container.predictor().predict(npy(chip), "", "id", model)
            found.append(json.loads(answer.body))
        return found

    landcover, ships, areas, local = within(worker, work=main())
    assert [it["model"]["tag"] for it in (landcover, ships, areas, local)] == [
        *(V2, SHIPS, AREAS, "local"),
    ]
    bundle = registry / "bundle-2"
    right = expected(bundle, make_chip(5))
    assert np.allclose(list(landcover["probabilities"].values()), right, atol=1e-6)
    assert landcover["model"]["sha256"] == digest_of(bundle)
    assert ships["model"]["name"] == "ships" and "shares" in areas
    assert worker.serving.model().tag == "local"


def test_two_hundred_clients_of_two_workers_fetch_an_absent_model_once(start: Start) -> None:
    workers = [start(), start()]

    async def main() -> list[Any]:
        asks = [workers[i % 2].catalogue.resolve(SHIPS, LONG) for i in range(200)]
        return await asyncio.gather(*asks)

    found = within(*workers, work=main())
    assert sum(worker.fetches for worker in workers) == 1
    assert {model.tag for model in found} == {SHIPS}
    assert len(set(found)) == 2, "each worker loads it once"


def test_who_does_not_wait_is_told_to_try_again_until_it_is_there(start: Start) -> None:
    worker = start()

    async def main() -> None:
        error = await error_of(worker, V1, 0.0)
        assert isinstance(error, BeingFetched) and error.headers["retry-after"] == "1"
        assert V1 in error.detail and "?wait=" in error.detail
        assert (await worker.catalogue.resolve(V1, LONG)).tag == V1
        assert (await worker.catalogue.resolve(V1, 0.0)).tag == V1

    within(worker, work=main())
    assert worker.fetches == 1


def test_no_request_waits_longer_than_the_setting(start: Start) -> None:
    worker = start(models_wait=0.0)

    async def main() -> None:
        assert isinstance(await error_of(worker, V1, LONG), BeingFetched)

    within(worker, work=main())


def test_another_worker_finds_on_the_disk_what_one_has_fetched(start: Start) -> None:
    one, other = start(), start()

    async def main() -> None:
        await one.catalogue.resolve(V1, LONG)
        assert other.catalogue.is_here(await other.catalogue.find(V1))
        await other.catalogue.resolve(V1, 0.0)  # a moment of loading is no fetch

    within(one, other, work=main())
    assert (one.fetches, other.fetches) == (1, 0)


def test_a_stage_is_resolved_with_each_request(start: Start, project: Published) -> None:
    project.publish_bundle(V2, seed=2)
    project.tag("landcover#staging#1", f"{V1}^0")
    worker = start(repository=project.folder)

    async def main() -> list[str]:
        found = [(await worker.catalogue.resolve("landcover#staging", LONG)).tag]
        project.tag("landcover#staging#2", f"{V2}^0")
        found.append((await worker.catalogue.resolve("landcover#staging", LONG)).tag)
        project.tag("landcover#staging!#3", f"{V2}^0")
        found.append((await worker.catalogue.resolve("landcover#staging", LONG)).tag)
        return found

    assert within(worker, work=main()) == [V1, V2, V1]


def test_a_version_that_is_moved_by_force_is_another_model(
    start: Start, project: Published
) -> None:
    worker = start(repository=project.folder)

    async def main() -> None:
        before = await worker.catalogue.resolve(V1, LONG)
        moved = project.publish_bundle(V1, seed=9)
        after = await worker.catalogue.resolve(V1, LONG)
        assert (before.tag, after.tag) == (V1, V1)
        assert after.sha256 == digest_of(moved) != before.sha256

    within(worker, work=main())


def test_a_name_alone_is_what_serves_here_or_its_production(start: Start) -> None:
    worker = start()

    async def main() -> list[str]:
        names = ("landcover", "ships", "landcover#production")
        return [(await worker.catalogue.resolve(name, LONG)).tag for name in names]

    assert within(worker, work=main()) == ["local", SHIPS, V1]


def test_the_models_that_serve_are_not_loaded_again(start: Start) -> None:
    worker = start()

    async def main() -> None:
        for tag in (V1, V2):
            await worker.container.swapper().replace(tag)
            assert await worker.catalogue.resolve(tag) is worker.serving.current
        assert await worker.catalogue.resolve(V1) is worker.serving.previous
        assert await worker.catalogue.resolve("landcover#staging") is worker.serving.current

    within(worker, work=main())
    assert (worker.fetches, tags(worker)) == (0, [])


def test_models_that_nobody_has_asked_for_longest_go_first(start: Start) -> None:
    worker = start(models_most=2)

    async def main() -> None:
        for reference in (V1, V2, V1, SHIPS):
            await worker.catalogue.resolve(reference, LONG)
        assert tags(worker) == [V1, SHIPS]
        assert [model.tag for model in worker.serving.beside] == [V1, SHIPS]
        assert set(worker.container.workers().loaded()) == {V1, SHIPS}
        await worker.catalogue.resolve(V2, 0.0)  # it is still on the disk
        assert tags(worker) == [SHIPS, V2]

    within(worker, work=main())
    assert worker.fetches == 3


def test_a_model_in_flight_is_not_unloaded(start: Start) -> None:
    worker = start(models_most=1)

    async def main() -> None:
        model = await worker.catalogue.resolve(V1, LONG)
        model.in_flight += 1
        error = await error_of(worker, V2)
        assert isinstance(error, Overloaded) and "SERVICE_MODELS_MOST" in error.detail
        assert tags(worker) == [V1]
        model.in_flight -= 1
        worker.catalogue._failed.clear()  # a few seconds later
        assert (await worker.catalogue.resolve(V2, LONG)).tag == V2
        assert tags(worker) == [V2]

    within(worker, work=main())


def test_a_model_larger_than_all_of_the_room_is_refused_and_unloads_nothing(
    start: Start, project: Published
) -> None:
    project.publish("large@v1.0.0", heavy(make_bundle(project.folder.with_name("large"), seed=4)))
    worker = start(repository=project.folder, models_memory=1)

    async def main() -> None:
        await worker.catalogue.resolve(V1, LONG)
        error = await error_of(worker, "large@v1.0.0")
        assert isinstance(error, StorageFull) and "SERVICE_MODELS_MEMORY" in error.detail
        assert tags(worker) == [V1]

    within(worker, work=main())


def test_a_bundle_that_the_remote_has_lost_is_an_error_that_is_not_tried_at_once_again(
    start: Start, project: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in project.remote.rglob("*"):
        if file.is_file():
            file.rename(file.with_name(f"{file.name}.lost"))
    worker = start(repository=project.folder)

    async def main() -> None:
        errors = [await error_of(worker, V1) for _ in range(3)]
        assert {type(error) for error in errors} == {NotFound}
        assert "dvc push" in errors[0].detail and errors[0].step == "fetch"
        assert worker.value("model_fetches_total", result="NotFound") == 1
        for file in project.remote.rglob("*.lost"):
            file.rename(file.with_suffix(""))
        monkeypatch.setattr(catalogue, "FAILED", 0.0)  # a few seconds later
        assert (await worker.catalogue.resolve(V1, LONG)).tag == V1

    within(worker, work=main())


def test_a_damaged_bundle_is_an_error_and_the_next_model_answers(
    start: Start, project: Published
) -> None:
    wrong = make_bundle(project.folder.with_name("wrong"), seed=6)
    manifest = json.loads((wrong / "model.json").read_bytes())
    manifest["golden"][0]["probabilities"].reverse()
    project.publish("wrong@v1.0.0", contents(wrong) | {"model.json": json.dumps(manifest).encode()})
    project.publish("broken@v1.0.0", {"model.json": b"{}", "model.onnx": b"graph"})
    project.publish("files@v1.0.0", {"model.onnx": b"graph"})
    digest = project.publish("altered@v1.0.0", contents(make_bundle(wrong.with_name("a"), seed=7)))
    project.object(digest).write_bytes(b"[]")
    project.write("dvc.lock", "stages: {}")
    project.commit("No model")
    project.tag("nothing@v1.0.0")
    worker = start(repository=project.folder)

    async def main() -> None:
        for name, kind, step in (
            ("wrong", BundleRefused, "self-test"),
            ("broken", BundleRefused, "verify"),
            ("files", BundleRefused, "fetch"),
            ("altered", BundleRefused, "fetch"),
            ("nothing", NotFound, None),
        ):
            error = await error_of(worker, name)
            assert (type(error), error.step) == (kind, step), (name, error.detail)
        assert (await worker.catalogue.resolve(V1, LONG)).tag == V1

    within(worker, work=main())
    assert tags(worker) == [V1]


def test_a_bundle_that_was_altered_on_the_disk_is_fetched_again(
    start: Start, tmp_path: Path
) -> None:
    worker, other = start(), start()

    async def main() -> None:
        model = await worker.catalogue.resolve(V1, LONG)
        graph = tmp_path / "state" / "bundles" / model.sha256 / "model.onnx"
        graph.write_bytes(graph.read_bytes()[:-1])
        assert (await other.catalogue.resolve(V1, LONG)).sha256 == model.sha256

    within(worker, other, work=main())
    assert (worker.fetches, other.fetches) == (1, 1)


def test_a_full_disk_is_an_error_and_what_is_loaded_answers_on(
    bundle: Path, registry: Path, tmp_path: Path, counters: Path
) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        worker = Worker(bundle, registry / "project", disk / "state")

        async def main() -> None:
            error = await error_of(worker, V1)
            assert isinstance(error, StorageFull) and "free some space" in error.detail
            assert (await worker.catalogue.resolve("landcover")).tag == "local"

        within(worker, work=main())
        shutil.rmtree(disk / "state", ignore_errors=True)


def test_only_names_that_the_settings_admit_are_loaded(start: Start) -> None:
    worker = start(models=["landcover@*"])

    async def main() -> None:
        error = await error_of(worker, "ships")
        assert isinstance(error, Forbidden) and "SERVICE_MODELS" in error.detail
        assert (await worker.catalogue.resolve(V1, LONG)).tag == V1

    within(worker, work=main())


def test_experiments_are_loaded_only_where_the_settings_say_so(start: Start) -> None:
    closed, open_ = start(), start(models=["*"])

    async def main() -> str:
        assert isinstance(await error_of(closed, "experiment/12-345"), Forbidden)
        return str((await open_.catalogue.resolve("experiment/12-345", LONG)).tag)

    assert within(closed, open_, work=main()) == "experiment/12-345"


def test_warm_models_are_there_before_anybody_asks_and_stay(start: Start) -> None:
    worker = start(warm=["ships", "gone@v1.0.0"], models_most=2)

    async def main() -> None:
        task = asyncio.ensure_future(worker.catalogue.keep_warm(["gone@v1.0.0", "ships"], 0.01))
        async with asyncio.timeout(LONG):
            while tags(worker) != [SHIPS]:
                await asyncio.sleep(0.01)
        for reference in (V1, V2):
            await worker.catalogue.resolve(reference, LONG)
        assert tags(worker) == [SHIPS, V2]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    within(worker, work=main())


def test_a_warm_stage_is_followed(start: Start, project: Published) -> None:
    project.publish_bundle(V2, seed=2)
    project.tag("landcover#staging#1", f"{V1}^0")
    worker = start(repository=project.folder, models_most=2)

    async def main() -> None:
        task = asyncio.ensure_future(worker.catalogue.keep_warm(["landcover#staging"], 0.01))
        async with asyncio.timeout(LONG):
            while V1 not in tags(worker):
                await asyncio.sleep(0.01)
            project.tag("landcover#staging#2", f"{V2}^0")
            while V2 not in tags(worker):
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    within(worker, work=main())


def test_a_registry_that_cannot_be_read_harms_only_requests_that_need_it(
    start: Start, tmp_path: Path
) -> None:
    worker = start(repository=tmp_path / "nowhere")

    async def main() -> None:
        assert (await error_of(worker, V1)).status == 503
        assert (await worker.catalogue.resolve("landcover")).tag == "local"

    within(worker, work=main())


def test_many_names_at_once_are_bounded(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "WAITING", 1)
    worker = start()

    async def main() -> None:
        assert isinstance(await error_of(worker, V1, 0.0), BeingFetched)
        assert isinstance(await error_of(worker, V2, 0.0), Overloaded)
        assert (await worker.catalogue.resolve(V1, LONG)).tag == V1
        assert (await worker.catalogue.resolve(V2, LONG)).tag == V2

    within(worker, work=main())
