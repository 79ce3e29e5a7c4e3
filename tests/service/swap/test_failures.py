"""Whatever goes wrong in a swap, the old model serves on, and the step that failed is named."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.errors import Conflict, ServiceError, StorageFull, Unavailable
from service.inference.model import Serving
from service.registry.client import RegistryClient
from service.swap.cache import BundleCache
from service.swap.desired import DesiredModel, FileStore
from service.swap.loader import ModelLoader
from service.swap.reconciler import Reconciler
from service.swap.swapper import Swapper
from service.swap.workers import WorkerRegistry
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing
from tests.fakes.http import silent_server
from tests.make.bundles import CLASSES, make_bundle, make_graph
from tests.make.load import CHIPS, Client, Load, Truth, check, truth
from tests.make.processes import children, running_swap, until
from tests.make.projects import Published, contents, digest_of
from tests.make.repositories import CONFIG, md5
from tests.make.server import Server, serving
from tests.make.swaps import replace, version

GOOD = "landcover@v1.0.0"
HELD = "landcover@v8.8.8"  # its remote takes connections and never answers
ABSENT = "landcover@v9.9.9"
QUICKLY = {"reconcile": 0.05}
AROUND = 10  # predictions before and after each failure


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Published:
    project = Published(tmp_path_factory.mktemp("project") / "project")
    project.publish(GOOD, contents(make_bundle(project.folder.with_name("good"), seed=1)))
    return project


def good(project: Published) -> Path:
    return project.folder.with_name("good")


@pytest.fixture(scope="module")
def server(
    bundle: Path, project: Published, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One replica that all failures below hit, one after the other."""
    folder = tmp_path_factory.mktemp("service")
    with serving(bundle, folder, repository=project.folder, **QUICKLY) as running:
        yield running


@pytest.fixture(scope="module")
def known(bundle: Path, project: Published) -> Truth:
    return truth({"local": bundle, GOOD: good(project)})


@pytest.fixture(scope="module")
def held(project: Published) -> Iterator[str]:
    """A tag whose fetch does not end by itself, so that it can be killed in time."""
    with silent_server() as (port, _):
        project.write(".dvc/config", CONFIG.format(f"http://127.0.0.1:{port}/dvc"))
        project.publish_bundle(HELD, seed=54)
        project.write(".dvc/config", CONFIG.format(project.remote))
        yield HELD


@contextmanager
def unmoved(server: Server, known: Truth) -> Iterator[None]:
    """The model does not change in this block: not for a client, not for a worker."""
    before = version(server)
    with Load(server.url, known, clients=2) as load:
        load.wait(AROUND)
        yield
        load.wait(AROUND)
    assert load.wrong == []
    assert set(load.answers) == {(before["model"]["tag"], before["model"]["sha256"])}
    after = version(server)
    for part in ("model", "previous", "wanted", "workers"):
        assert after[part] == before[part]


def fails(server: Server, tag: str, status: int, step: str, said: str) -> None:
    answer = replace(server, tag)
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["step"] == step, body
    assert said in body["detail"]
    assert answer.headers["content-type"] == "application/problem+json"
    swap = version(server)["swap"]
    assert (swap["tag"], swap["step"], swap["state"]) == (tag, step, "failed")
    assert swap["detail"] == body["detail"]


def succeeds(server: Server, tag: str = GOOD) -> None:
    """The lock is free: a good tag serves, and the old one again."""
    answer = replace(server, tag)
    assert answer.status_code == 200, answer.text
    with server.client() as client:
        answer = client.post("/rollback_ml_model")
    assert answer.status_code == 200, answer.text


# What a tag can name: how it is published -> status, step and a part of what is said.


def truncated(project: Published, tag: str) -> None:
    files = contents(good(project))
    project.publish(tag, files | {"model.onnx": files["model.onnx"][:-100]})


def other_graph(project: Published, tag: str) -> None:
    files = contents(good(project))
    project.publish(tag, files | {"model.onnx": make_graph(99, 4, "uint16", 64)})


def flipped_byte(project: Published, tag: str) -> None:
    bundle = project.publish_bundle(tag, seed=50)
    graph = project.object(md5((bundle / "model.onnx").read_bytes()))
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)


def altered_manifest(project: Published, tag: str) -> None:
    text = (project.publish_bundle(tag, seed=51) / "model.json").read_bytes()
    project.object(md5(text)).write_bytes(text.replace(b"Forest", b"Desert"))


def extra_file(project: Published, tag: str) -> None:
    project.publish(tag, contents(good(project)) | {"notes.txt": b"hello"})


def missing_file(project: Published, tag: str) -> None:
    project.publish(tag, {"model.json": contents(good(project))["model.json"]})


def path_out_of_the_folder(project: Published, tag: str) -> None:
    files = contents(good(project))
    project.publish(tag, {"../model.json": files["model.json"], "model.onnx": files["model.onnx"]})


def missing_object(project: Published, tag: str) -> None:
    bundle = project.publish_bundle(tag, seed=52)
    project.object(md5((bundle / "model.onnx").read_bytes())).unlink()


def link_in_the_remote(project: Published, tag: str) -> None:
    bundle = project.publish_bundle(tag, seed=53)
    graph = project.object(md5((bundle / "model.onnx").read_bytes()))
    graph.unlink()
    graph.symlink_to("/etc/hostname")


def with_options(**options: Any) -> Callable[[Published, str], None]:
    def publish(project: Published, tag: str) -> None:
        project.publish_bundle(tag, **options)

    return publish


def with_manifest(change: Callable[[dict[str, Any]], None]) -> Callable[[Published, str], None]:
    def publish(project: Published, tag: str) -> None:
        files = contents(good(project))
        manifest = json.loads(files["model.json"])
        change(manifest)
        project.publish(tag, files | {"model.json": json.dumps(manifest).encode()})

    return publish


def with_graph(graph: bytes) -> Callable[[Published, str], None]:
    def publish(project: Published, tag: str) -> None:
        manifest = json.loads(contents(good(project))["model.json"])
        manifest["sha256"] = hashlib.sha256(graph).hexdigest()
        text = json.dumps(manifest).encode()
        project.publish(tag, {"model.json": text, "model.onnx": graph})

    return publish


def wrong_golden(manifest: dict[str, Any]) -> None:
    manifest["golden"][1]["probabilities"].reverse()


def nan_golden(manifest: dict[str, Any]) -> None:
    manifest["golden"][0]["probabilities"][0] = float("nan")


def short_golden(manifest: dict[str, Any]) -> None:
    manifest["golden"][0]["probabilities"].pop()


def damaged_chip(manifest: dict[str, Any]) -> None:
    manifest["golden"][0]["chip"] = "AAAA"


def nine_classes(manifest: dict[str, Any]) -> None:
    manifest["classes"] = CLASSES[:9]


def schema_2(manifest: dict[str, Any]) -> None:
    manifest["schema"] = 2


def no_model(project: Published, tag: str) -> None:
    project.git("rm", "--quiet", "--cached", "dvc.lock")
    project.git("commit", "--quiet", "--message", "Forget the model")
    project.tag(tag)


PUBLISHED: dict[str, tuple[Callable[[Published, str], None], int, str, str]] = {
    "truncated graph": (truncated, 422, "verify", "altered or cut off"),
    "another graph": (other_graph, 422, "verify", "altered or cut off"),
    "flipped byte in the remote": (flipped_byte, 422, "fetch", "md5"),
    "altered manifest in the remote": (altered_manifest, 422, "fetch", "md5"),
    "extra file": (extra_file, 422, "fetch", "exactly model.json and model.onnx"),
    "missing file": (missing_file, 422, "fetch", "exactly model.json and model.onnx"),
    "path out of the folder": (path_out_of_the_folder, 422, "fetch", "exactly model.json and"),
    "missing object": (missing_object, 404, "fetch", "dvc push"),
    "link in the remote": (link_in_the_remote, 422, "fetch", "model"),
    "no dvc.lock": (no_model, 404, "fetch", "tag a commit that was trained"),
    "another schema": (with_manifest(schema_2), 422, "verify", "schema"),
    "another size": (with_options(seed=54, size=32), 422, "verify", "clients of this service"),
    "another type": (with_options(seed=55, dtype="uint8"), 422, "verify", "clients of this"),
    "other bands": (
        with_options(seed=56, bands=("B02", "B03", "B08", "B04")),
        422,
        "verify",
        "clients of this service send uint16 (4, 64, 64) of B02, B03, B04, B08",
    ),
    "no ONNX": (with_graph(b"\x00 no graph"), 422, "load", "cannot open the graph"),
    "graph of another input": (
        with_graph(make_graph(57, 3, "uint16", 64)),
        422,
        "load",
        "the manifest says uint16 chips (4, 64, 64)",
    ),
    "other classes than the graph has": (with_manifest(nine_classes), 422, "warm-up", "shapes"),
    "wrong golden answers": (with_manifest(wrong_golden), 422, "self-test", "golden chip 1"),
    "golden answer that is no number": (with_manifest(nan_golden), 422, "self-test", "golden"),
    "short golden answer": (with_manifest(short_golden), 422, "self-test", "another length"),
    "damaged golden chip": (with_manifest(damaged_chip), 422, "self-test", "golden"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_invalid_bundle_is_refused_at_the_step_that_finds_it(
    server: Server, project: Published, known: Truth, name: str
) -> None:
    publish, status, step, said = PUBLISHED[name]
    tag = f"experiment/8-{list(PUBLISHED).index(name)}"
    publish(project, tag)
    with unmoved(server, known):
        fails(server, tag, status, step, said)


def test_replacing_by_an_unknown_tag_is_refused_with_the_tag(server: Server, known: Truth) -> None:
    with unmoved(server, known):
        fails(server, ABSENT, 404, "fetch", f"{ABSENT} is not in the repository")
    succeeds(server)


def test_tags_that_attack_reach_neither_git_nor_a_shell(
    server: Server, known: Truth, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    before = version(server)["swap"]
    tags = [
        f"$(touch {trap})",
        f"`touch {trap}`",
        f"experiment/1-1;touch {trap}",
        f"--upload-pack=touch {trap}",
        "--upload-pack=x",
        "-x",
        "../x",
        "landcover@v1.0.0/../../x",
        "landcover@v1.0.0\n",
        "landcover@v1.0.0\0",
        "refs/tags/landcover@v1.0.0",
        "landcover@v1.0.0^{commit}",
        "HEAD",
        "main",
        "local",
        "",
        " landcover@v1.0.0",
        "läńdcover@v1.0.0",
        "landcover@v１.0.0",
        "‮landcover@v1.0.0",
        "x" * 60_000,
    ]
    with unmoved(server, known):
        for tag in tags:
            answer = replace(server, tag)
            assert answer.status_code == 422, (tag[:80], answer.text)
            assert "tag" in answer.json()["detail"]
            assert len(answer.text) < 1000
        with server.client() as client:
            for body in ({"tag": 7}, {"tag": None}, {"tag": [GOOD]}, {}, {"tag": GOOD, "x": 1}):
                assert client.post("/replace_ml_model", json=body).status_code == 422, body
            for text in ("", "{", "[]", '"x"', GOOD):
                answer = client.post(
                    "/replace_ml_model", content=text, headers={"content-type": "application/json"}
                )
                assert answer.status_code in (400, 422), (text, answer.text)
    assert not trap.exists()
    assert version(server)["swap"] == before, "a swap was begun"


@pytest.mark.parametrize("gone", ["remote", "repository"])
def test_a_registry_that_is_down_changes_nothing(
    server: Server, project: Published, known: Truth, gone: str
) -> None:
    folder = project.remote if gone == "remote" else project.folder
    away = folder.with_name(f"{folder.name}-away")
    folder.rename(away)
    try:
        with unmoved(server, known):
            fails(server, GOOD, 503, "fetch", "DVC remote" if gone == "remote" else "Git repos")
    finally:
        away.rename(folder)
    succeeds(server)


def test_a_killed_fetch_changes_nothing(server: Server, known: Truth, held: str) -> None:
    def kill() -> None:
        worker = until(lambda: running_swap(server))
        child = until(lambda: children(worker))
        os.kill(child[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    with unmoved(server, known):
        killer.start()
        fails(server, held, 503, "fetch", "was stopped before it was done (signal 9")
        killer.join()
    succeeds(server)


def test_a_worker_killed_in_a_swap_frees_the_lock_and_the_swap_is_shown_as_failed(
    server: Server, known: Truth, held: str
) -> None:
    def kill() -> None:
        os.kill(until(lambda: running_swap(server)), signal.SIGKILL)

    before = version(server)
    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(httpx.RemoteProtocolError):
        replace(server, held)
    killer.join()
    until(lambda: len(version(server)["workers"]) == 2)
    after = version(server)
    assert after["swap"]["step"] == "fetch"
    assert after["swap"]["state"] == "failed"
    assert "killed" in after["swap"]["detail"]
    assert (after["model"], after["wanted"]) == (before["model"], before["wanted"])
    labels = {(worker["tag"], worker["sha256"]) for worker in after["workers"]}
    with Load(server.url, known) as load:
        load.wait(AROUND)
    assert load.wrong == []
    assert set(load.answers) == labels == {(before["model"]["tag"], before["model"]["sha256"])}
    succeeds(server)


def test_a_service_killed_while_it_swaps_starts_with_the_old_model(
    bundle: Path, project: Published, known: Truth, held: str, tmp_path: Path
) -> None:
    with serving(bundle, tmp_path, repository=project.folder, **QUICKLY) as server:
        asked = threading.Thread(
            target=lambda: pytest.raises(httpx.HTTPError, replace, server, held)
        )
        asked.start()
        worker = until(lambda: running_swap(server))
        processes = [server.process.pid, *server.workers(), *children(worker)]
        for pid in processes:
            os.kill(pid, signal.SIGKILL)
        server.process.wait()
        asked.join()
    with serving(bundle, tmp_path, repository=project.folder, **QUICKLY) as server:
        found = version(server)
        assert (found["swap"]["step"], found["swap"]["state"]) == ("fetch", "failed")
        assert "killed" in found["swap"]["detail"]
        assert found["wanted"] is None
        chip = Client(server.url)
        assert check(known, 0, *chip.predict(0)) == ("local", digest_of(bundle))
        chip.close()
        succeeds(server)


def test_a_full_disk_changes_nothing(
    bundle: Path, project: Published, known: Truth, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk here")
    try:
        settings = {"repository": project.folder, "state": disk / "state"} | QUICKLY
        with serving(bundle, tmp_path, **settings) as server:
            with unmoved(server, known):
                fails(server, GOOD, 507, "fetch", "disk")
            with pytest.raises(OSError), (disk / "filler").open("wb") as file:
                while True:
                    file.write(b"0" * 4096)
            with unmoved(server, known):
                answer = replace(server, GOOD)
                # With not a byte left DVC's own database fails first, and says less.
                assert answer.status_code in (503, 507), answer.text
                assert answer.json()["step"] == "fetch"
        # A start needs no room: what is in the folder of the bundle serves.
        with serving(bundle, tmp_path, **settings) as server:
            chip = Client(server.url)
            assert check(known, 0, *chip.predict(0)) == ("local", digest_of(bundle))
            chip.close()
    finally:
        subprocess.run(["umount", disk], check=True)


# What only a store can do wrong, and at one moment only: the parts themselves, without HTTP.


class Store(FileStore):
    """A store whose `write` fails once, before or after the record is written."""

    def __init__(self, path: Path, error: ServiceError, written: bool) -> None:
        super().__init__(path)
        self.error = error
        self.written = written

    async def write(self, wanted: DesiredModel) -> None:
        if self.written:
            await super().write(wanted)
        raise self.error


class Nearby(RegistryClient):
    """Hands out a copy of a folder instead of fetching."""

    def __init__(self, bundle: Path, cache: Path) -> None:
        super().__init__("nowhere", cache)
        self.bundle = bundle
        self.meanwhile: Callable[[], Any] = lambda: None
        self.copies = cache / "copies"

    async def fetch(self, tag: Any) -> Path:
        folder = self.copies / str(time.monotonic_ns())
        folder.mkdir(parents=True)
        for name, content in contents(self.bundle).items():
            (folder / name).write_bytes(content)
        self.meanwhile()
        return folder


class Parts:
    """A worker's parts around a store."""

    def __init__(self, local: Path, other: Path, folder: Path, store: FileStore) -> None:
        self.serving, self.metrics, self.store = Serving(), Metrics(), store
        self.workers, self.cache = WorkerRegistry(folder), BundleCache(folder / "bundles")
        self.registry = Nearby(other, folder)
        loader = ModelLoader(self.registry, self.cache, local)
        tracing = Tracing()
        self.swapper = Swapper(
            self.serving, loader, store, self.workers, self.cache, self.metrics, tracing
        )
        self.reconciler = Reconciler(
            self.swapper, self.serving, loader, store, self.workers, self.metrics, tracing
        )

    def label(self) -> str:
        return self.serving.model().tag


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "other", seed=5)


@pytest.mark.parametrize("error", [StorageFull("full"), Conflict("late"), Unavailable("away")])
def test_a_store_that_does_not_take_the_tag_keeps_the_old_model(
    bundle: Path, other: Path, tmp_path: Path, error: ServiceError
) -> None:
    parts = Parts(bundle, other, tmp_path, Store(tmp_path / "wanted.json", error, written=False))

    async def steps() -> None:
        await parts.reconciler.load_first_model()
        with pytest.raises(type(error)) as caught:
            await parts.swapper.replace(GOOD)
        assert caught.value.step == "switch"
        await parts.reconciler.reconcile()

    asyncio.run(steps())
    assert parts.label() == "local"
    swap = parts.workers.last_swap()
    assert swap is not None and (swap.step, swap.state) == ("switch", "failed")
    with parts.workers.lock():
        pass


def test_a_tag_that_was_written_although_the_answer_was_lost_serves(
    bundle: Path, other: Path, tmp_path: Path
) -> None:
    store = Store(tmp_path / "wanted.json", Unavailable("away"), written=True)
    parts = Parts(bundle, other, tmp_path, store)

    async def steps() -> None:
        await parts.reconciler.load_first_model()
        answer = await parts.swapper.replace(GOOD)
        assert (answer.model.tag, answer.previous and answer.previous.tag) == (GOOD, "local")

    asyncio.run(steps())
    assert parts.label() == GOOD


def test_a_tag_that_somebody_else_set_meanwhile_wins(
    bundle: Path, other: Path, tmp_path: Path
) -> None:
    store = FileStore(tmp_path / "wanted.json")
    parts = Parts(bundle, other, tmp_path, store)
    theirs = DesiredModel(
        tag="landcover@v2.0.0",
        sha256=digest_of(other),
        previous_tag=None,
        previous_sha256=None,
        version=1,
        changed=datetime.now(UTC),
    )
    parts.registry.meanwhile = lambda: store._write(theirs)

    async def steps() -> None:
        await parts.reconciler.load_first_model()
        with pytest.raises(Conflict) as caught:
            await parts.swapper.replace(GOOD)
        assert caught.value.step == "switch"
        assert parts.label() == "local"
        await parts.reconciler.reconcile()

    asyncio.run(steps())
    assert parts.label() == "landcover@v2.0.0"


def test_a_cancelled_swap_is_recorded_as_failed_and_frees_the_lock(
    bundle: Path, other: Path, tmp_path: Path
) -> None:
    parts = Parts(bundle, other, tmp_path, FileStore(tmp_path / "wanted.json"))

    async def steps() -> None:
        await parts.reconciler.load_first_model()
        swap = asyncio.create_task(parts.swapper.replace(GOOD))
        parts.registry.meanwhile = lambda: swap.cancel() and None
        with pytest.raises(asyncio.CancelledError):
            await swap
        swapped = parts.workers.last_swap()
        assert swapped is not None and (swapped.step, swapped.state) == ("verify", "failed")
        assert parts.label() == "local"
        parts.registry.meanwhile = lambda: None
        await parts.swapper.replace(GOOD)

    asyncio.run(steps())
    assert parts.label() == GOOD


def test_a_slow_follower_does_not_undo_a_faster_swap(
    bundle: Path, other: Path, tmp_path: Path
) -> None:
    store = FileStore(tmp_path / "wanted.json")
    parts = Parts(bundle, other, tmp_path, store)
    third = make_bundle(tmp_path / "third", seed=6)

    async def steps() -> None:
        await parts.reconciler.load_first_model()
        await parts.swapper.replace(GOOD)
        parts.serving.previous = None  # what it would find at once
        parts.registry.bundle = third
        old = await store.read()
        assert old is not None
        before = old.model_copy(update={"tag": "local", "sha256": digest_of(bundle), "version": 2})
        await store.write(before)
        looking = asyncio.create_task(parts.reconciler.reconcile())
        await asyncio.sleep(0)
        await parts.swapper.replace("landcover@v3.0.0")
        await looking

    asyncio.run(steps())
    assert parts.label() == "landcover@v3.0.0"
    assert np.isfinite(parts.serving.model().infer(CHIPS[0]).probabilities).all()
