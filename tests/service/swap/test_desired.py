"""What both stores of the wanted model promise, and the file: over a real disk and socket."""

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.errors import Conflict, ServiceError, StorageFull, Unavailable
from service.files import locked
from service.swap import desired
from service.swap.desired import DesiredModel
from tests.conftest import ROOT
from tests.fakes.kubernetes import FakeKubernetes
from tests.make.stores import Place, Store, model


@pytest.fixture(params=["file", "configmap"])
def place(
    request: pytest.FixtureRequest, path: Path, api: FakeKubernetes, credentials: Path
) -> Place:
    return Place(path, api if request.param == "configmap" else None, credentials)


# What both stores promise


def test_an_empty_store_holds_no_model(place: Place) -> None:
    assert place.read() is None


def test_a_written_model_is_read_by_another_process(place: Place) -> None:
    place.write(model(1))
    assert place.read() == model(1)
    place.write(model(2))
    assert place.read() == model(2)


def test_a_store_reads_the_writes_of_another_store(place: Place) -> None:
    async def watch(store: Store) -> list[DesiredModel | None]:
        other = place.store()
        found = [await store.read()]
        for version in range(1, 30):
            await other.write(model(version))
            found.append(await store.read())
        await other.close()
        return found

    assert place.run(watch) == [None, *(model(version) for version in range(1, 30))]


def test_only_the_next_version_is_written(place: Place) -> None:
    place.write(model(1))
    place.write(model(2))
    for version in (1, 2, 4, 99):
        with pytest.raises(Conflict, match="at the same time"):
            place.write(model(version, "landcover@v9.9.9"))
        assert place.read() == model(2)


def test_an_empty_store_takes_only_version_1(place: Place) -> None:
    with pytest.raises(Conflict):
        place.write(model(2))
    assert place.read() is None


@pytest.mark.parametrize("before", [0, 1])
def test_exactly_one_of_32_concurrent_writers_wins(place: Place, before: int) -> None:
    if before:
        place.write(model(1))

    async def race(_: Store) -> list[BaseException | None]:
        stores = [place.store() for _ in range(32)]
        writes = [
            store.write(model(before + 1, f"landcover@v1.0.{number}"))
            for number, store in enumerate(stores)
        ]
        ends = await asyncio.gather(*writes, return_exceptions=True)
        for store in stores:
            await store.close()
        return ends

    ends = place.run(race)
    winners = [number for number, end in enumerate(ends) if end is None]
    assert len(winners) == 1
    assert all(isinstance(end, Conflict) for end in ends if end is not None)
    assert place.read() == model(before + 1, f"landcover@v1.0.{winners[0]}")


def test_exactly_one_of_32_concurrent_writes_of_one_store_wins(place: Place) -> None:
    async def race(store: Store) -> list[BaseException | None]:
        return await asyncio.gather(
            *(store.write(model(1)) for _ in range(32)), return_exceptions=True
        )

    ends = place.run(race)
    assert ends.count(None) == 1
    assert sum(isinstance(end, Conflict) for end in ends) == 31


WHOLE = model(3).model_dump_json()


SPOILED = (
    "",
    "{",
    "null",
    "[]",
    "no json",
    WHOLE[:-1],
    WHOLE[: len(WHOLE) // 2],
    WHOLE.replace('"version":3', '"version":"3"'),
    WHOLE.replace('"version":3', '"version":0'),
    WHOLE.replace('"version":3', '"version":NaN'),
    WHOLE.replace("landcover@v1.0.0", ""),
    WHOLE.replace(f"{3:064x}", "short"),
    WHOLE.replace('"local"', "null"),
    WHOLE.replace("2026-03-01T12:00:00Z", "2026-03-01T12:00:00"),
    '{"a":' * 10_000,
    " " * 70_000 + "{}",
)


def test_a_damaged_record_is_refused_and_not_overwritten(place: Place) -> None:
    for text in SPOILED:
        place.overwrite(text)
        with pytest.raises(Unavailable, match="Delete it, then choose the model again"):
            pytest.fail(f"{text[:80]!r} was read as {place.read()}")
        with pytest.raises(Unavailable, match="Delete it"):
            place.write(model(4))
        assert place.content() == text


def test_a_damaged_record_does_not_bring_back_the_one_before(place: Place) -> None:
    place.write(model(1))

    async def watch(store: Store) -> None:
        assert await store.read() == model(1)
        place.overwrite(WHOLE[:-1])
        for _ in range(2):
            with pytest.raises(Unavailable):
                await store.read()
        place.overwrite(WHOLE)
        assert await store.read() == model(3)

    place.run(watch)


def test_a_record_of_a_newer_service_is_understood(place: Place) -> None:
    place.overwrite(WHOLE[:-1] + ',"weight":10}')
    assert place.read() == model(3)


def test_no_error_contains_a_path(place: Place) -> None:
    place.overwrite("{")
    with pytest.raises(Unavailable) as caught:
        place.read()
    assert "/" not in caught.value.detail.replace("POST /replace_ml_model", "")


def test_a_desired_model_is_immutable() -> None:
    with pytest.raises(ValidationError):
        model(1).version = 2


# The file


def test_an_unchanged_file_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Path] = []
    load = desired._load

    def counted(path: Path) -> Any:
        loads.append(path)
        return load(path)

    monkeypatch.setattr(desired, "_load", counted)
    place = Place(path, None, path)
    place.overwrite(WHOLE)
    os.utime(path, (1_000_000_000, 1_000_000_000))

    async def poll(store: Store) -> None:
        for _ in range(10):
            assert await store.read() == model(3)
        assert len(loads) == 1
        place.overwrite(model(4).model_dump_json())
        assert await store.read() == model(4)

    place.run(poll)


def test_two_quick_writes_of_equal_size_are_both_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desired, "_fingerprint", lambda found: (1,))  # coarse times, a reused inode
    place = Place(path, None, path)

    async def watch(store: Store) -> None:
        for version in (1, 2, 3):
            await place.store().write(model(version))
            assert await store.read() == model(version)

    place.run(watch)


def test_a_deleted_file_holds_no_model(path: Path) -> None:
    place = Place(path, None, path)

    async def watch(store: Store) -> None:
        await store.write(model(1))
        assert await store.read() == model(1)
        path.unlink()
        assert await store.read() is None

    place.run(watch)


@pytest.mark.parametrize(
    ("number", "kind", "cure"),
    [
        (errno.ENOSPC, StorageFull, "free some space"),
        (errno.EDQUOT, StorageFull, "free some space"),
        (errno.EACCES, Unavailable, "Permission denied"),
        (errno.EROFS, Unavailable, "Read-only"),
        (errno.EIO, Unavailable, "Check that the service may"),
    ],
)
def test_a_disk_that_refuses_keeps_the_old_model(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    kind: type[ServiceError],
    cure: str,
) -> None:
    place = Place(path, None, path)
    place.write(model(1))

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(kind, match=cure) as caught:
            place.write(model(2))
    assert str(path.parent) not in caught.value.detail
    assert place.read() == model(1)
    assert {item.name for item in path.parent.iterdir()} == {path.name, f".{path.name}.lock"}
    place.write(model(2))


def test_an_uncreatable_folder_raises_an_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    place = Place(tmp_path / "state" / "wanted.json", None, tmp_path)
    for work in (place.read, lambda: place.write(model(1))):
        with pytest.raises(Unavailable, match="state directory"):
            work()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_raises_an_error(path: Path) -> None:
    place = Place(path, None, path)
    place.write(model(1))
    path.chmod(0)
    with pytest.raises(Unavailable, match="Permission denied"):
        place.read()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_special_file_is_refused_without_waiting(
    path: Path, make: Callable[[Path], None]
) -> None:
    path.parent.mkdir()
    make(path)
    with pytest.raises(Unavailable):
        Place(path, None, path).read()


def test_a_writer_does_not_wait_for_a_lock_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desired, "LOCK_SECONDS", 0.05)
    path.parent.mkdir()
    with locked(path.with_name(".wanted.json.lock"), 1):
        with pytest.raises(Conflict):
            Place(path, None, path).write(model(1))


def test_leftovers_of_a_killed_writer_are_ignored(path: Path) -> None:
    place = Place(path, None, path)
    place.write(model(1))
    path.with_name(".wanted.json.new").write_text(WHOLE[:20])
    assert place.read() == model(1)
    place.write(model(2))
    assert place.read() == model(2)


WRITER = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from service.errors import Conflict
from service.swap.desired import DesiredModel, FileStore

async def main(path, name):
    store, won, last = FileStore(path), [], 0
    while last < 40:
        found = await store.read()
        last = found.version if found else 0
        try:
            await store.write(DesiredModel(tag=name, sha256=f"{last + 1:064x}", previous_tag=None,
                previous_sha256=None, version=last + 1, changed=datetime.now(UTC)))
            won.append(last + 1)
        except Conflict:
            pass
    print(*won)

print("ready", flush=True)
sys.stdin.readline()
asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


def test_over_processes_each_version_is_won_once(path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), f"writer-{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for number in range(3)
    ]
    for writer in writers:
        assert writer.stdout and writer.stdout.readline() == "ready\n"
    won: list[int] = []
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        won += map(int, writer.communicate(timeout=120)[0].split())
        assert writer.returncode == 0
    assert sorted(won) == list(range(1, len(won) + 1))
    found = Place(path, None, path).read()
    assert found and found.version == len(won)
