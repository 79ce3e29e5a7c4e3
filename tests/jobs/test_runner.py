"""The runner on this machine: order, failures and their cures, and being killed anywhere."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from jobs.record import State
from tests.make.jobs import JobProject
from tests.make.processes import until


@pytest.fixture
def project(tmp_path: Path) -> JobProject:
    return JobProject(tmp_path / "project")


def runners(project: JobProject) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            is_runner = process.cmdline()[1:] == ["-m", "jobs", "run"]
            if is_runner and process.cwd() == str(project.folder):
                found.append(process.pid)
        except psutil.Error:
            pass
    return found


def test_priority_comes_first_then_age(project: JobProject) -> None:
    go, order = project.folder / "go", project.folder / "order"
    script = f"until [ -e {go} ]; do sleep 0.1; done; echo $0 >> {order}"
    names = {}
    for name, priority in (("first", 0), ("older", 0), ("younger", 0), ("urgent", 5)):
        command = ["sh", "-c", script, name]
        names[name] = project.submit(name=name, priority=priority, command=command)
        if name == "first":
            until(lambda: project.store.find(names["first"]).state is State.RUNNING)
    until(lambda: project.store.find(names["younger"]).reason == "2 are before it on local")
    assert project.store.find(names["urgent"]).reason == "the next one on local"
    assert len(runners(project)) == 1
    project.jobs("cancel", names["older"])
    assert project.store.find(names["older"]).state is State.CANCELLED
    go.touch()
    project.ended(names["younger"])
    assert order.read_text(encoding="ascii").split() == ["first", "urgent", "younger"]


def test_a_failure_is_recorded_told_and_cured_by_rule(project: JobProject) -> None:
    told = project.folder / "told"
    notify = f'["sh", "-c", "echo $0 $1 >> {told}"]'
    project.write("jobs/settings.yaml", f"check: []\nnotify: {notify}\n")
    lost = project.folder / "lost"
    script = f"""
        [ -e {lost} ] || {{ touch {lost}; kill -9 $PPID; sleep 60; }}
        grep -q 'learning_rate: 0.02$' params.yaml && echo 'the loss is nan in epoch 1' && exit 1
        grep -q 'batch_size: 64 ' params.yaml && exec python -c 'import time; b"x" * 10**9'
        echo done
    """
    rules = [
        {"when": "nan", "parameters": {"train.learning_rate": "/10"}},
        {"when": "out_of_memory", "parameters": {"train.batch_size": "/2"}},
    ]
    name = project.submit(script, on_failure=rules, resources={"memory": "500MB"})
    job = project.ended(name)
    assert job.state is State.SUCCEEDED, project.log(name)
    tried = [event.reason for event in job.history if event.state is State.RETRYING]
    assert [reason.rpartition(": ")[2] for reason in tried] == [
        "the same again, 1 of 1",
        "rule 1 of on_failure sets train.learning_rate 0.002",
        "rule 2 of on_failure sets train.batch_size 32",
    ]
    assert "the loss is nan in epoch 1" in tried[1] and "MemoryError" in tried[2]
    until(lambda: told.read_text(encoding="utf-8").count("job-retrying") == 3)
    assert f"--text={name}: " in told.read_text(encoding="utf-8")


def test_no_job_is_lost_or_run_twice_whenever_the_runner_is_killed(project: JobProject) -> None:
    ran = project.folder / "ran"
    names = [
        project.submit(name=f"job-{letter}", command=["sh", "-c", f"echo $0 >> {ran}", letter])
        for letter in "abcde"
    ]
    kills = 0
    while any(not project.store.find(name).has_ended for name in names):
        for pid in runners(project):
            os.kill(pid, signal.SIGKILL)
            kills += 1
        ended = sum(project.store.find(name).has_ended for name in names)
        project.jobs("list")  # whoever asks starts the next runner
        until(lambda: sum(job.has_ended for job in project.store.jobs()) > ended)
    assert kills >= 2
    assert {project.store.find(name).state for name in names} == {State.SUCCEEDED}
    assert sorted(ran.read_text(encoding="ascii").split()) == list("abcde")


def test_a_job_that_is_retried_goes_on_in_its_checkout(project: JobProject) -> None:
    name = project.submit("ls; touch checkpoint; [ -e ../../../../go ]")
    assert project.ended(name).state is State.FAILED
    (project.folder / "go").touch()
    assert "queued again" in project.jobs("retry", name).stdout
    job = project.ended(name)
    assert job.state is State.SUCCEEDED and job.attempt == 2
    assert "checkpoint" in project.log(name).splitlines()
    refused = project.jobs("retry", name, check=False)
    assert refused.returncode == 1 and "succeeded: only what failed" in refused.stderr


def test_one_that_waits_too_long_goes_elsewhere(project: JobProject) -> None:
    rule = {"when": "waiting", "after": "1s", "parameters": {"train.batch_size": 1}}
    hold = project.submit("until [ -e ../../../../go ]; do sleep 0.1; done", name="hold")
    until(lambda: project.store.find(hold).state is State.RUNNING)
    name = project.submit("echo hi", name="late", on_failure=[rule])
    job = until(lambda: job if (job := project.store.find(name)).used else None)
    assert job.state is State.RETRYING and "it has waited 1s: rule 1" in job.reason
    (project.folder / "go").touch()
    assert project.ended(name).state is State.SUCCEEDED


def test_the_oldest_that_have_ended_are_forgotten_with_all_they_left(project: JobProject) -> None:
    project.configure({"keep": 2})
    failed = project.submit("echo $0; exit 3", name="job-1")
    checkout = project.state / "work" / failed
    assert project.ended(failed).state is State.FAILED and checkout.is_dir()
    kept = [project.submit(f"echo {number}", name=f"job-{number}") for number in (2, 3)]
    until(lambda: [job.id for job in project.store.jobs()] == kept)
    left = [str(path) for path in project.state.rglob("*") if failed in path.name]
    assert left == [] and len(list((project.state / "keys").iterdir())) == 2
    assert "no job is called" in project.jobs("status", failed, check=False).stderr
    again = project.submit("echo $0; exit 3", name="job-1")
    assert again != failed and project.ended(again).state is State.FAILED


@pytest.mark.parametrize("keep", [0, -1, "all", None])
def test_what_is_kept_is_a_number(project: JobProject, keep: object) -> None:
    project.configure({"keep": keep})
    said = project.jobs("submit", str(project.request()), check=False)
    assert said.returncode == 1 and "keep: " in said.stderr and "Traceback" not in said.stderr
