"""The process of one job by itself: what it says, how it ends, and with whom."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.inference.bundle import read_bundle
from service.maps.jobs import Job, Jobs, Limits, State, now
from service.maps.jobs_child import in_words_of_http
from tests.conftest import ROOT
from tests.make.processes import children, until
from tests.make.processes import ended as all_ended


@pytest.fixture
def jobs(tmp_path: Path, bundle: Path) -> Jobs:
    """An empty queue that knows the model."""
    found = Jobs(tmp_path / "maps", Limits(10, 10, 1 << 30, 1.0))
    found.models.keep(read_bundle(bundle))
    return found


def submit(jobs: Jobs, scene: Path, bundle: Path) -> str:
    sha256 = read_bundle(bundle).manifest.sha256
    with jobs.incoming() as (id, folder):
        (folder / "scene.tif").write_bytes(scene.read_bytes())
        jobs.submit(id, folder, Job("", now(), "landcover", "local", sha256, "0" * 64, 1, 1, 1))
    return id


def start(jobs: Jobs, id: str) -> "subprocess.Popen[str]":
    words = (jobs.folder(id), jobs.root / "models", jobs.root / "map.lock", 2)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "service.maps.jobs_child", *map(str, words)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_it_says_how_far_it_is_and_ends_without_a_word_more(
    jobs: Jobs, scene: Path, bundle: Path
) -> None:
    with start(jobs, submit(jobs, scene, bundle)) as process:
        assert process.stdout and process.stderr
        said = [json.loads(line) for line in process.stdout]
        assert process.stderr.read() == ""
        assert process.wait(60) == 0
    assert [list(line) for line in said] == [*[["tiles"]] * (len(said) - 1), ["made"]]
    assert said[-2]["tiles"][0] == said[-2]["tiles"][1] > 0


def test_it_ends_with_the_service_and_takes_its_workers_along(
    jobs: Jobs, long_scene: Path, bundle: Path
) -> None:
    with start(jobs, submit(jobs, long_scene, bundle)) as process:
        assert process.stdout and process.stdin
        process.stdout.readline()
        assert os.sched_getscheduler(process.pid) == os.SCHED_IDLE
        workers = until(lambda: children(process.pid))
        assert {os.sched_getscheduler(worker) for worker in workers} == {os.SCHED_IDLE}
        process.stdin.close()  # as the kernel does when the service dies
        assert process.wait(60) == -signal.SIGKILL
        until(lambda: all_ended(workers))


def test_a_second_process_waits_for_the_first(jobs: Jobs, scene: Path, bundle: Path) -> None:
    first, second = (start(jobs, submit(jobs, scene, bundle)) for _ in range(2))
    with first, second:
        for process in (first, second):
            assert process.stdout
            assert "made" in json.loads(process.stdout.readlines()[-1])


@pytest.mark.parametrize(
    ("command", "http"),
    [
        ("say --offset -1000; or", "say ?offset=-1000; or"),
        ("say --offset 0 if", "say ?offset=0 if"),
        ("say --offset to be sure", "say ?offset= to be sure"),
        ("as --bands B02,B03", "as ?bands=B02,B03"),
        ("name the bands with --bands", "name the bands with ?bands="),
        ("rio edit-info --crs EPSG:32633 FILE", "rio edit-info --crs EPSG:32633 FILE"),
    ],
)
def test_options_of_the_command_become_those_of_a_request(command: str, http: str) -> None:
    assert in_words_of_http(command) == http


def test_a_job_that_is_dismissed_while_it_ends_is_dismissed_next(
    jobs: Jobs, scene: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = submit(jobs, scene, bundle)
    write = jobs.write_state

    def dismissed_then(id: str, state: State) -> None:
        write(id, state)
        monkeypatch.setattr(jobs, "write_state", write)
        (jobs.dismissed / id).touch()

    monkeypatch.setattr(jobs, "write_state", dismissed_then)
    jobs.settle(id, State("failed"))
    assert jobs.state(id).status == "dismissed", "it was asked for, and is not forgotten"
    jobs.settle(id, State("dismissed"))
    assert not jobs.is_dismissed(id) and jobs.state(id).status == "dismissed"
