"""The registry: how often it looks, what it says when it cannot, and what it leaves behind."""

import asyncio
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from service.errors import BundleRefused, RegistryUnavailable, ServiceError, StorageFull
from service.files import birth
from service.registry import __main__ as child
from service.registry import client, git
from service.registry.client import RegistryClient
from service.schemas import Listing
from tests.conftest import run
from tests.fakes import http as fakes_http
from tests.fakes.http import silent_server
from tests.make import git_configuration
from tests.make.repositories import (
    CONFIG,
    V1,
    Project,
    ask,
    below,
    fetch,
    listing,
    until,
)


def test_no_configuration_of_git_changes_what_is_listed_and_fetched(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = {entry.tag: entry.commit for entry in listing(trained, tmp_path / "usual").experiments}
    for name, value in git_configuration.write(tmp_path / "user").items():
        monkeypatch.setenv(name, value)
    for number, repository in enumerate((str(trained), f"file://{trained}")):
        cache = tmp_path / f"state-{number}"
        found = {entry.tag: entry.commit for entry in listing(repository, cache).experiments}
        assert found == usual and V1.tag in found
        assert (fetch(repository, cache) / "model.onnx").read_text() == "graph 1"
    assert git_configuration.hooks_that_ran(tmp_path / "user") == []


# How often Git is asked


def test_a_new_tag_is_seen_and_a_deleted_one_goes(
    project: Project, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAUSE", 0.0)
    project.train(b"1")
    project.tag("experiment/1-1")

    async def main(asked: RegistryClient) -> list[list[str]]:
        seen = [await asked.experiments()]
        project.tag("experiment/1-2")
        seen.append(await asked.experiments())
        project.git("tag", "--delete", "experiment/1-1")
        seen.append(await asked.experiments())
        return [[entry.tag for entry in one.experiments] for one in seen]

    assert ask(project.folder, cache, main) == [
        ["experiment/1-1"],
        ["experiment/1-1", "experiment/1-2"],
        ["experiment/1-2"],
    ]


def test_many_requests_at_once_look_at_git_once(
    trained: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAUSE", 3600.0)
    commands: list[str] = []
    original = client._run

    async def counted(command: list[str], *rest: Any) -> Any:
        commands.append(command[0])
        return await original(command, *rest)

    monkeypatch.setattr(client, "_run", counted)

    async def main(asked: RegistryClient) -> list[Listing]:
        return await asyncio.gather(*(asked.experiments() for _ in range(50)))

    answers = ask(trained, cache, main)
    assert len(answers) == 50 and all(len(one.experiments) == 2 for one in answers)
    assert commands == ["git", sys.executable]


def test_a_restarted_server_reads_no_commit_again(trained: Path, cache: Path) -> None:
    first = listing(trained, cache)
    kept = (cache / "experiments.json").stat().st_mtime_ns
    assert listing(trained, cache).experiments == first.experiments
    assert (cache / "experiments.json").stat().st_mtime_ns == kept


def test_a_damaged_or_foreign_cache_is_not_shown(
    trained: Path, project: Project, cache: Path
) -> None:
    listing(trained, cache)
    project.commit()
    assert listing(project.folder, cache).experiments == ()
    for content in ("", "{", "[]", '{"layout": 99}', "\0" * 100):
        (cache / "experiments.json").write_text(content)
        assert len(listing(trained, cache).experiments) == 2


# When Git cannot be reached


@pytest.mark.parametrize("address", ["{}/gone", "file://ada:secret@{}/gone", "{}"])
def test_without_a_repository_and_without_a_cache_it_is_unavailable(
    tmp_path: Path, cache: Path, address: str
) -> None:
    repository = address.format(tmp_path)
    for attempt in (listing, fetch):
        with pytest.raises(RegistryUnavailable) as error:
            attempt(repository, cache)
        assert "repository" in error.value.detail
        assert str(tmp_path) not in error.value.detail and "secret" not in error.value.detail


def test_an_unreachable_repository_is_answered_from_the_cache(
    trained: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", trained, local], check=True)
    before = listing(local, cache)
    shutil.rmtree(local)
    after = listing(local, cache)
    assert after.experiments == before.experiments and not after.fresh
    assert after.detail is not None and "check the setting repository" in after.detail
    assert str(tmp_path) not in after.detail
    assert after.checked is not None and before.checked is not None
    assert after.checked <= before.checked


def test_a_mirror_is_brought_up_to_date_behind_the_answer(
    project: Project, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAUSE", 0.0)
    monkeypatch.setattr(client, "RETRY", 0.0)
    project.train(b"1")
    project.tag("experiment/1-1")
    stamp = cache / git.MIRROR / git.STAMP

    async def main(asked: RegistryClient) -> list[Listing]:
        seen = [await asked.experiments()]
        project.tag("experiment/1-2")
        seen.append(await asked.experiments())
        os.utime(stamp, (1, 1))
        seen.append(await asked.experiments())
        last = await until(asked, lambda found: found.fresh)
        shutil.rmtree(project.folder)
        os.utime(stamp, (1, 1))
        gone = await until(asked, lambda found: "check the setting" in str(found.detail))
        return [*seen, last, gone]

    young, same, old, new, gone = ask(f"file://{project.folder}", cache, main)
    assert [len(one.experiments) for one in (young, same, old, new, gone)] == [1, 1, 1, 2, 2]
    assert [one.fresh for one in (young, same, old, new, gone)] == [True, True, False, True, False]
    assert old.detail is not None and "under way" in old.detail
    assert old.checked == datetime.fromtimestamp(1, UTC)
    assert gone.detail is not None and str(project.folder) not in gone.detail


def test_a_mirror_that_was_deleted_is_made_again(
    trained: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAUSE", 0.0)
    url = f"file://{trained}"
    listing(url, cache)
    shutil.rmtree(cache / git.MIRROR)

    async def main(asked: RegistryClient) -> Listing:
        assert len((await asked.experiments()).experiments) == 2
        return await until(asked, lambda found: found.fresh)

    assert len(ask(url, cache, main).experiments) == 2


class Refusing(fakes_http.Handler[int]):
    """A server of Git that answers everything with one status."""

    def do_GET(self) -> None:
        self.reply(self.state, headers={"WWW-Authenticate": "Basic"} if self.state == 401 else {})


def test_a_remote_that_refuses_is_reported_with_what_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by a real Git, and a server or ssh that refuses; then the next good one is listed."""
    found = {}

    def refused(name: str, url: str) -> None:
        with pytest.raises(RegistryUnavailable) as error:
            listing(url, tmp_path / "state")
        found[name] = error.value.detail

    for status in (401, 403, 404, 500):
        with fakes_http.serving(Refusing, status) as url:
            refused(f"HTTP {status}", f"{url}/x.git")
    refused("nobody listens", "http://127.0.0.1:9/x.git")
    refused("no such host", "http://gitlab.invalid/x.git")
    refused("another transport", "git://gitlab.invalid/x.git")
    for said in ("Host key verification failed.", "git@x: Permission denied (publickey)."):
        monkeypatch.setenv("GIT_SSH_COMMAND", f"echo '{said}' >&2; exit 255; ")
        refused(said, "ssh://git@gitlab.example.com/x.git")
    cures = {
        "HTTP 401": "give the service a token",
        "HTTP 403": "renew the token of the service",
        "HTTP 404": "the repository does not exist",
        "HTTP 500": "its server has failed; try again later",
        "nobody listens": "nothing listens there",
        "no such host": "its host name is unknown here",
        "another transport": "use https, ssh or a path",
        "Host key verification failed.": "its host key is unknown; add it to known_hosts",
        "git@x: Permission denied (publickey).": "renew the key of the service",
    }
    assert {name: text for name, text in found.items() if cures[name] not in text} == {}
    project = Project(tmp_path / "project")
    project.train(b"graph")
    project.tag(V1.tag)
    url = f"file://{project.folder}"
    assert [entry.tag for entry in listing(url, tmp_path / "state").experiments] == [V1.tag]


def test_a_protocol_that_runs_commands_is_refused(tmp_path: Path, cache: Path) -> None:
    for url in (f"ext::touch {tmp_path}/canary", f"ext://touch {tmp_path}/canary"):
        with pytest.raises(RegistryUnavailable):
            listing(url, cache)
    assert not (tmp_path / "canary").exists()


def test_a_full_disk_does_not_hide_the_listing(
    trained: Path, cache: Path, children: Callable[[], list[int]]
) -> None:
    (cache / "experiments.json").mkdir(parents=True)  # cannot be replaced by a file
    assert len(listing(trained, cache).experiments) == 2


@pytest.fixture
def hanging(project: Project) -> Iterator[threading.Event]:
    """Makes `project` one whose remote never answers; set when it is being asked."""
    with silent_server() as (port, asked):
        project.write(".dvc/config", CONFIG.format(f"http://127.0.0.1:{port}/dvc"))
        project.train(b"1")
        project.tag(V1.tag)
        yield asked


def processes() -> dict[int, str]:
    """Children of this process and how they are: Z is a zombie."""
    ps = subprocess.run(
        ["ps", "--ppid", str(os.getpid()), "-o", "pid=,stat=,comm="],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split() for line in ps.stdout.splitlines()]
    return {int(pid): state for pid, state, *name in lines if name != ["ps"]}


@pytest.fixture
def children() -> Callable[[], list[int]]:
    """Returns the children that were born since the test began; a server may be older."""
    before = processes().keys()
    return lambda: sorted(processes().keys() - before)


def test_a_remote_that_hangs_is_left_after_the_time_limit(
    project: Project, cache: Path, hanging: threading.Event, children: Callable[[], list[int]]
) -> None:
    with pytest.raises(RegistryUnavailable, match="did not answer within 3 seconds"):
        fetch(project.folder, cache, seconds=3)
    assert below(cache) == [] and children() == []


def test_a_git_server_that_hangs_is_left_after_the_time_limit(
    cache: Path, children: Callable[[], list[int]]
) -> None:
    with silent_server() as (port, _):
        with pytest.raises(RegistryUnavailable, match="did not answer within 2 seconds"):
            fetch(f"http://ada:secret@127.0.0.1:{port}/x.git", cache, seconds=2)
    assert below(cache) == [] and children() == []


def test_a_killed_child_is_reported_as_stopped(
    project: Project, cache: Path, hanging: threading.Event, children: Callable[[], list[int]]
) -> None:
    def kill() -> None:
        assert hanging.wait(60)
        (pid,) = children()
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(RegistryUnavailable, match="stopped before it was done .signal 9"):
        fetch(project.folder, cache)
    thread.join()
    assert below(cache) == [] and children() == []


def test_a_cancelled_fetch_leaves_no_process_and_no_folder(
    project: Project, cache: Path, hanging: threading.Event, children: Callable[[], list[int]]
) -> None:
    async def main() -> None:
        task = asyncio.create_task(RegistryClient(str(project.folder), cache).fetch(V1))
        assert await asyncio.to_thread(hanging.wait, 60)
        assert [path.suffix for path in (cache / "fetched").iterdir()] == [".work"]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert children() == []
        assert list((cache / "fetched").iterdir()) == []

    asyncio.run(main())


def test_folders_of_dead_servers_are_removed_and_those_of_living_ones_are_kept(
    trained: Path, cache: Path
) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    reused = f"1-{int(birth(1)) + 1}-d"  # another process has the number now
    mine, old = f"1-{birth(1)}-b", f"1-{birth(1)}-old"
    for name in (f"{gone.pid}-7-a", f"{gone.pid}-7-a.work", reused, mine, old, "strange-name"):
        folder = cache / "fetched" / name
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(b"x")
    os.utime(cache / "fetched" / old, (1, 1))
    folder = fetch(trained, cache)
    left = {path.name for path in (cache / "fetched").iterdir()}
    assert left == {mine, "strange-name", folder.name}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_errors_of_the_child_are_explained_by_their_cause(code: int) -> None:
    deep = RuntimeError("dvc says so")
    deep.__cause__ = OSError(code, "full")
    assert isinstance(child.explain(deep), StorageFull)
    assert isinstance(child.explain(OSError(errno.EFBIG, "")), BundleRefused)
    assert isinstance(child.explain(ImportError("yaml")), RegistryUnavailable)


def test_an_unwritable_state_folder_raises_an_error(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for attempt in (listing, fetch):
        with pytest.raises(ServiceError, match="check the setting state"):
            attempt(trained, tmp_path / "file" / "state")


def test_a_person_can_run_the_child_by_hand(trained: Path, cache: Path) -> None:
    module = (sys.executable, "-m", "service.registry")
    options = (f"--repository={trained}", f"--cache={cache}")
    cache.mkdir()
    listed = json.loads(run(*module, "list", *options).stdout)
    assert len(listed["snapshot"]["experiments"]) == 2
    fetched = run(*module, "fetch", *options, f"--tag={V1.tag}", "--into=mine").stdout
    assert json.loads(fetched) == {}
    assert (cache / "fetched" / "mine" / "model.onnx").read_text() == "graph 1"
    absent = run(*module, "fetch", *options, "--tag=landcover@v9.0.0", "--into=other").stdout
    assert json.loads(absent)["error"] == "NotFound"


def test_the_server_does_not_import_what_parses() -> None:
    code = (
        "import sys, service.registry.client; print({'yaml', 'dvc', 'pipeline'} & set(sys.modules))"
    )
    assert run(sys.executable, "-c", code).stdout.strip() == "set()"
