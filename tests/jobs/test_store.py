"""The state: a folder that survives two writers, damage, a full disk and a clock that jumps."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs import store as module
from jobs.admission import Admission
from jobs.errors import StateError, UnknownJob
from jobs.record import Job, State
from jobs.request import Request
from jobs.store import Store
from tests.make.disks import fill, small_disk
from tests.make.jobs import JobProject

REQUEST = Request(name="a")


def make(store: Store, number: int, priority: int = 0, state: State = State.QUEUED) -> Job:
    request = Request(name="a", priority=priority)
    return store.save(
        Job(
            id=f"a-{number}-0000",
            sequence=number,
            key="k",
            request=request,
            current=request,
            commit="c" * 40,
            state=state,
        )
    )


def test_a_thousand_jobs_are_all_there_and_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, tmp_path)
    monkeypatch.setattr(module, "replace_file", lambda path, text: path.write_text(text))
    for number in range(1, 1001):
        make(store, number, priority=number % 3)
    assert [job.sequence for job in store.jobs()] == list(range(1, 1001))
    order = [job.sequence for job in sorted(store.jobs(), key=lambda job: job.order)]
    assert order[:2] == [2, 5] and order[-2:] == [996, 999]
    reads: list[Path] = []
    read = module._read

    def noted(path: Path) -> Job:
        reads.append(path)
        return read(path)

    monkeypatch.setattr(module, "_read", noted)
    make(store, 500, state=State.RUNNING)
    assert sum(job.state is State.RUNNING for job in store.jobs()) == 1
    assert [path.name for path in reads] == ["a-500-0000.json"]


def test_a_damaged_record_is_named_and_the_others_live(tmp_path: Path) -> None:
    store = Store(tmp_path, tmp_path)
    make(store, 1), make(store, 2)
    (store.records / "a-1-0000.json").write_text('{"id": "a-1-0', encoding="utf-8")
    assert [job.sequence for job in store.jobs()] == [2]
    assert len(store.damaged) == 1 and "a-1-0000.json is damaged: delete it" in store.damaged[0]
    with pytest.raises(StateError, match="is damaged"):
        store.find("a-1-0000")


@pytest.mark.parametrize("name", ["b-9", "../lock", "..", "", "a/b", "\0"])
def test_an_unknown_job_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownJob, match="no job is called"):
        Store(tmp_path, tmp_path).find(name)


def test_a_job_is_found_by_its_number_and_a_slip_gets_a_hint(tmp_path: Path) -> None:
    store = Store(tmp_path, tmp_path)
    assert store.find(make(store, 17).id) == store.find("17")
    with pytest.raises(UnknownJob, match="the nearest is a-17-0000"):
        store.find("a-71-0000")


def test_two_who_submit_at_once_get_one_job_for_one_request(tmp_path: Path) -> None:
    project = JobProject(tmp_path / "project")

    def submit(name: str) -> str:
        own = Store(project.state, project.folder)
        return Admission(own, project.settings).submit(Request(name=name))[0].id

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(submit, ["same", "a", "same", "b", "same", "c", "same", "d"]))
    assert len(set(ids)) == 5 and len(set(ids[::2])) == 1
    assert sorted(job.sequence for job in project.store.jobs()) == [1, 2, 3, 4, 5]


def test_a_clock_that_jumps_back_changes_no_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = JobProject(tmp_path / "project")
    admission = Admission(project.store, project.settings)
    first, _ = admission.submit(Request(name="first"))
    monkeypatch.setattr(time, "time", lambda: 1.0)
    second, _ = admission.submit(Request(name="second"))
    assert second.history[0].at < first.history[0].at
    assert [job.id for job in project.store.jobs()] == [first.id, second.id]
    assert sorted([second, first], key=lambda job: job.order) == [first, second]


def test_a_full_disk_is_named_and_what_was_there_stays(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "200k") as disk:
        store = Store(disk, tmp_path)
        job = make(store, 1)
        filler = fill(disk)
        with pytest.raises(StateError, match="the disk of the jobs' folder is full"):
            make(store, 2)
        with pytest.raises(StateError, match="full"):
            store.save(job.moved(State.RUNNING))
        assert [(it.sequence, it.state) for it in store.jobs()] == [(1, State.QUEUED)]
        filler.unlink()
        make(store, 2)
        assert len(store.jobs()) == 2
