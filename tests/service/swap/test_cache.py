"""Bundles on this replica's disk, and what a start serves from them when the rest is away."""

import errno
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.commit import folder_digest
from service.errors import BundleRefused, NotFound, StorageFull, Unavailable
from service.inference.bundle import Bundle, read_bundle
from service.swap import cache
from service.swap.cache import KEPT, BundleCache
from tests.make.bundles import make_bundle
from tests.make.load import Client, Truth, check
from tests.make.processes import until
from tests.make.projects import Published, contents
from tests.make.server import Server, address, serving, spawn
from tests.make.swaps import Label, version

V1, V2 = "landcover@v1.0.0", "landcover@v1.1.0"
QUICKLY = {"reconcile": 0.05}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "bundles"


@pytest.fixture
def kept(tmp_path: Path, folder: Path) -> Bundle:
    """A bundle that is in the cache."""
    found = read_bundle(make_bundle(tmp_path / "kept", seed=1))
    BundleCache(folder).keep(found)
    return found


def test_a_kept_bundle_is_read_again(folder: Path, kept: Bundle) -> None:
    assert BundleCache(folder).read(kept.manifest.sha256) == kept
    assert [item.name for item in folder.iterdir()] == [kept.manifest.sha256]


@pytest.mark.parametrize(
    "sha256", ["0" * 64, "", "..", "../../etc", "A" * 64, "0" * 63, "0" * 64 + "/..", "é" * 64]
)
def test_a_digest_outside_the_cache_is_not_found(folder: Path, kept: Bundle, sha256: str) -> None:
    with pytest.raises(NotFound):
        BundleCache(folder).read(sha256)


def alter_graph(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[200] ^= 1
    (folder / "model.onnx").write_bytes(content)


def alter_manifest(folder: Path) -> None:
    (folder / "model.json").write_bytes((folder / "model.json").read_bytes()[:100])


def add_file(folder: Path) -> None:
    (folder / "more").touch()


def swap_bundle(folder: Path) -> None:
    shutil.rmtree(folder)
    make_bundle(folder, seed=77)


ALTERED = [alter_graph, alter_manifest, add_file, swap_bundle]


@pytest.mark.parametrize("alter", ALTERED)
def test_an_altered_bundle_is_refused_and_deleted(
    folder: Path, kept: Bundle, alter: Callable[[Path], None]
) -> None:
    sha256 = kept.manifest.sha256
    alter(folder / sha256)
    with pytest.raises(BundleRefused):
        BundleCache(folder).read(sha256)
    with pytest.raises(NotFound):
        BundleCache(folder).read(sha256)


@pytest.mark.parametrize("alter", [alter_graph, alter_manifest])
def test_keeping_a_bundle_again_repairs_its_damaged_copy(
    folder: Path, kept: Bundle, alter: Callable[[Path], None]
) -> None:
    alter(folder / kept.manifest.sha256)
    BundleCache(folder).keep(kept)
    assert BundleCache(folder).read(kept.manifest.sha256) == kept


def test_a_newer_manifest_of_the_same_graph_is_kept(
    folder: Path, kept: Bundle, tmp_path: Path
) -> None:
    newer = read_bundle(make_bundle(tmp_path / "newer", seed=1, name="newer"))
    assert newer.manifest.sha256 == kept.manifest.sha256
    BundleCache(folder).keep(newer)
    assert BundleCache(folder).read(kept.manifest.sha256) == newer
    assert len(list(folder.iterdir())) == 1


def test_pruning_keeps_the_bundles_that_served_last(folder: Path, tmp_path: Path) -> None:
    kept = BundleCache(folder)
    bundles = [
        read_bundle(make_bundle(tmp_path / str(seed), seed=seed)) for seed in range(KEPT + 4)
    ]
    digests = [bundle.manifest.sha256 for bundle in bundles]
    for moment, bundle in enumerate(bundles):
        kept.keep(bundle)
        os.utime(folder / bundle.manifest.sha256, (moment, moment))
    kept.read(digests[1])  # what is read is used
    kept.prune({digests[0]})
    left = {item.name for item in folder.iterdir()}
    assert left == {digests[0], digests[1], *digests[-KEPT + 1 :]}


def test_pruning_keeps_more_where_there_is_room_and_forgets_the_names_of_what_it_deletes(
    folder: Path, tmp_path: Path
) -> None:
    bundles = [
        read_bundle(make_bundle(tmp_path / str(seed), seed=seed)) for seed in range(KEPT + 3)
    ]
    size = max(len(bundle.graph) + len(bundle.document) for bundle in bundles)
    names = [cache.dvc_digest(bundle) for bundle in bundles]
    kept = BundleCache(folder, tmp_path / "names", (KEPT + 1) * size)
    for moment, bundle in enumerate(bundles):
        kept.keep(bundle)
        os.utime(folder / bundle.manifest.sha256, (moment, moment))
    kept.prune(set())
    found = [kept.find(name) for name in names]
    assert found == [None, None, *(bundle.manifest.sha256 for bundle in bundles[2:])]
    assert {item.name for item in (tmp_path / "names").iterdir()} == {*names[2:]}
    BundleCache(folder, tmp_path / "names").prune(set())
    assert len(list(folder.iterdir())) == KEPT


@pytest.mark.parametrize("name", ["", "..", "../bundles", "0" * 32, "0" * 32 + ".dir", None])
def test_a_name_that_leads_nowhere_is_not_found(
    folder: Path, kept: Bundle, tmp_path: Path, name: str | None
) -> None:
    assert BundleCache(folder, tmp_path / "names").find(name) is None
    assert BundleCache(folder).find(cache.dvc_digest(kept)) is None


def test_the_digest_of_a_bundle_is_that_of_dvc(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "model")
    assert cache.dvc_digest(read_bundle(folder)) == folder_digest(folder)


def test_leftovers_of_killed_processes_are_pruned_after_a_while(folder: Path, kept: Bundle) -> None:
    for name, age in (("incoming-old", 2 * cache.LEFTOVER_SECONDS), ("incoming-new", 0)):
        (folder / name).mkdir()
        (folder / name / "model.onnx").touch()
        moment = time.time() - age
        os.utime(folder / name, (moment, moment))
    BundleCache(folder).prune(set())
    assert {item.name for item in folder.iterdir()} == {"incoming-new", kept.manifest.sha256}


def test_pruning_without_a_cache_creates_no_folder(folder: Path) -> None:
    BundleCache(folder).prune(set())
    assert not folder.exists()


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EROFS, Unavailable)],
)
def test_a_failed_write_raises_its_error_and_leaves_nothing(
    folder: Path, kept: Bundle, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def fail(path: Path, content: bytes) -> None:
        path.touch()
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(kind) as caught:
        BundleCache(folder).keep(kept)
    assert str(folder) not in str(caught.value)
    assert [item.name for item in folder.iterdir()] == [kept.manifest.sha256]


def test_workers_that_keep_read_and_prune_at_once_see_whole_bundles(
    folder: Path, tmp_path: Path
) -> None:
    """Keeping, reading and pruning at once: a reader gets a whole bundle, or nothing."""
    bundles = [
        read_bundle(make_bundle(tmp_path / str(seed), seed=seed)) for seed in range(KEPT + 3)
    ]
    surprises: list[BaseException] = []

    def work(turn: int) -> None:
        kept = BundleCache(folder)
        try:
            for number in range(40):
                bundle = bundles[(number + turn) % len(bundles)]
                kept.keep(bundle)
                try:
                    assert kept.read(bundle.manifest.sha256) == bundle
                except (NotFound, BundleRefused):
                    pass  # another one has pruned it, and is half through
                kept.prune({bundles[0].manifest.sha256})
        except BaseException as error:
            surprises.append(error)

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert surprises == []
    assert not list(folder.glob("incoming-*"))


# The service itself: what a start finds.


@pytest.fixture(scope="module")
def bundles(project: Published, bundle: Path) -> dict[str, Path]:
    found = {tag: project.publish_bundle(tag, seed=seed) for seed, tag in enumerate((V1, V2), 1)}
    return {"local": bundle} | found


@pytest.fixture(scope="module")
def swapped(
    tmp_path_factory: pytest.TempPathFactory, project: Published, bundles: dict[str, Path]
) -> Path:
    """The state of a service that has served local, v1 and v2, and was stopped."""
    folder = tmp_path_factory.mktemp("swapped")
    with serving(bundles["local"], folder, repository=project.folder, **QUICKLY) as server:
        with server.client() as client:
            for tag in (V1, V2):
                answer = client.post("/replace_ml_model", json={"tag": tag})
                assert answer.status_code == 200, answer.text
    return folder / "state"


@pytest.fixture
def state(swapped: Path, tmp_path: Path) -> Path:
    """A copy of that state, to spoil."""
    return Path(shutil.copytree(swapped, tmp_path / "state"))


def serves(server: Server, known: Truth) -> set[Label]:
    """What the workers say that they serve, and what predictions on new connections say."""
    body = version(server)
    found = {(worker["tag"], worker["sha256"]) for worker in body["workers"]}
    for _ in range(4):
        client = Client(server.url)
        found.add(check(known, 0, *client.predict(0)))
        client.close()
    return found


def ready(server: Server) -> bool:
    return len(version(server)["workers"]) == 2


def mismatch(server: Server) -> float:
    text = httpx.get(server.url + "/metrics", timeout=60).text
    found = re.search(r"^model_wanted_mismatch (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else -1


def warnings(server: Server, event: str) -> list[dict[str, Any]]:
    return [line for line in server.lines() if line.get("event") == event]


@pytest.fixture
def gone(project: Published) -> Iterator[Callable[[], None]]:
    """The registry is away, repository and remote, until it is called."""
    moved = [
        (folder, folder.with_name(f"{folder.name}-away"))
        for folder in (project.folder, project.remote)
    ]
    for here, away in moved:
        here.rename(away)

    def back() -> None:
        for here, away in moved:
            if away.exists():
                away.rename(here)

    yield back
    back()


def test_a_restart_without_the_registry_serves_the_wanted_model(
    bundles: dict[str, Path],
    project: Published,
    state: Path,
    known: Truth,
    label: dict[str, Label],
    gone: Callable[[], None],
) -> None:
    settings = {"repository": project.folder, "state": state}
    with serving(bundles["local"], state.parent, **settings, **QUICKLY) as server:
        until(lambda: ready(server))
        assert serves(server, known) == {label[V2]}
        assert mismatch(server) == 0
        with server.client() as client:
            answer = client.post("/rollback_ml_model")
            assert answer.status_code == 200, answer.text
        assert serves(server, known) == {label[V1]}


@pytest.mark.parametrize("text", ["", "{", "null", '{"tag": "landcover@v1.1.0"}', "\0" * 300])
def test_an_unreadable_wanted_tag_keeps_the_last_model_and_is_logged(
    bundles: dict[str, Path], state: Path, known: Truth, label: dict[str, Label], text: str
) -> None:
    (state / "wanted.json").write_text(text, encoding="utf-8")
    with serving(bundles["local"], state.parent, state=state, **QUICKLY) as server:
        until(lambda: ready(server))
        assert serves(server, known) == {label[V2]}
        with server.client() as client:
            answer = client.post("/replace_ml_model", json={"tag": V1})
        assert answer.status_code == 503
        assert "Delete it" in answer.json()["detail"]
        assert serves(server, known) == {label[V2]}
        assert version(server)["wanted"] is None
        said = warnings(server, "cannot read the desired model")
        assert len(said) == 2, "each worker says it once"
        assert "wanted.json" in said[0]["detail"]
        (state / "wanted.json").unlink()
        until(lambda: warnings(server, "can again read the desired model"))
        assert serves(server, known) == {label[V2]}


def test_without_cache_and_registry_the_local_bundle_serves_until_it_is_back(
    bundles: dict[str, Path],
    project: Published,
    state: Path,
    known: Truth,
    label: dict[str, Label],
    gone: Callable[[], None],
) -> None:
    shutil.rmtree(state / "bundles")
    settings = {"repository": project.folder, "state": state}
    with serving(bundles["local"], state.parent, **settings, **QUICKLY) as server:
        until(lambda: ready(server))
        assert serves(server, known) == {label["local"]}
        found = version(server)
        assert (found["wanted"]["tag"], found["wanted"]["sha256"]) == label[V2]
        assert mismatch(server) == 2, "workers that do not serve what is wanted"
        gone()  # is back
        until(lambda: {worker["tag"] for worker in version(server)["workers"]} == {V2})
        assert serves(server, known) == {label[V2]}
        until(lambda: mismatch(server) == 0)


@pytest.mark.parametrize("alter", ALTERED)
def test_an_altered_bundle_of_the_cache_is_fetched_again(
    bundles: dict[str, Path],
    project: Published,
    state: Path,
    known: Truth,
    label: dict[str, Label],
    alter: Callable[[Path], None],
) -> None:
    alter(state / "bundles" / label[V2][1])
    settings = {"repository": project.folder, "state": state}
    with serving(bundles["local"], state.parent, **settings, **QUICKLY) as server:
        until(lambda: ready(server))
        assert serves(server, known) == {label[V2]}
    assert contents(state / "bundles" / label[V2][1]) == contents(bundles[V2])


def test_a_local_bundle_that_is_gone_is_served_from_the_cache(
    bundles: dict[str, Path], tmp_path: Path, known: Truth, label: dict[str, Label]
) -> None:
    local = Path(shutil.copytree(bundles["local"], tmp_path / "model"))
    for _ in range(2):
        with serving(local, tmp_path, **QUICKLY) as server:
            until(lambda: ready(server))
            assert serves(server, known) == {label["local"]}
        shutil.rmtree(local, ignore_errors=True)


def test_a_start_serves_the_local_bundle_as_it_is_now(
    bundles: dict[str, Path], tmp_path: Path, known: Truth, label: dict[str, Label]
) -> None:
    local = Path(shutil.copytree(bundles["local"], tmp_path / "model"))
    renamed = {("local", sha256): answers for (_, sha256), answers in known.items()}
    with serving(local, tmp_path, **QUICKLY) as server:
        until(lambda: ready(server))
        shutil.rmtree(local)
        shutil.copytree(bundles[V1], local)
        # A worker that dies meanwhile serves what its neighbour does, not half of something new.
        os.kill(server.workers()[0], 9)
        until(lambda: len(warnings(server, "worker died")) == 1 and ready(server))
        assert serves(server, renamed) == {label["local"]}
    with serving(local, tmp_path, **QUICKLY) as server:
        until(lambda: ready(server))
        assert serves(server, renamed) == {("local", label[V1][1])}


def test_a_start_without_any_model_is_alive_and_not_ready_until_there_is_one(
    bundles: dict[str, Path], tmp_path: Path, known: Truth, label: dict[str, Label]
) -> None:
    local = tmp_path / "model"
    local.mkdir()
    server = spawn(local, tmp_path, **QUICKLY)
    try:
        server.url = address(server)
        server.wait_for("/healthz")
        answer = httpx.get(server.url + "/readyz", timeout=60)
        assert answer.status_code == 503
        assert "no model is loaded yet" in answer.json()["detail"]
        assert version(server)["model"] is None
        make = tmp_path / "made"
        shutil.copytree(bundles["local"], make)
        local.rmdir()
        make.rename(local)
        server.wait_for("/readyz")
        until(lambda: ready(server))
        assert serves(server, known) == {label["local"]}
    finally:
        assert server.stop() == 0
