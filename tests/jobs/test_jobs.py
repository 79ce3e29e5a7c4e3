"""The story of a person: submit, list, follow, cancel, retry, on this machine."""

from pathlib import Path

import pytest

from jobs.record import State
from tests.conftest import run
from tests.make.jobs import JobProject
from tests.make.processes import until


@pytest.fixture
def project(tmp_path: Path) -> JobProject:
    return JobProject(tmp_path / "project")


def test_a_job_runs_in_a_checkout_of_its_commit_and_ends_as_a_ref(project: JobProject) -> None:
    first = project.commit()
    script = "mkdir reports; cat params.yaml > reports/seen; pwd"
    name = project.submit(script, "--set", "train.batch_size=8")
    project.write("params.yaml", "train: {}")  # a person goes on working
    job = project.ended(name)
    assert job.state is State.SUCCEEDED and job.commit == first and job.outcome
    assert str(project.folder) in project.log(name)
    seen = run("git", "show", f"job/{name}:reports/seen", cwd=project.folder).stdout
    assert (
        seen == "train:  # how\n  batch_size: 8   # chips\n  learning_rate: 0.02\n  device: auto\n"
    )
    parent = run("git", "rev-parse", f"job/{name}^", cwd=project.folder).stdout.strip()
    assert parent == first
    assert list((project.state / "work").iterdir()) == []
    listed = project.jobs("list").stdout
    assert f"job/{name}" in listed and "succeeded" in listed
    shown = project.jobs("status", str(job.sequence)).stdout
    assert "parameter  train.batch_size = 8" in shown and job.outcome.commit in shown


def test_the_same_request_is_one_job_until_it_fails(project: JobProject) -> None:
    name = project.submit()
    assert project.submit() == name
    project.ended(name)
    assert project.submit() == name
    assert project.submit("echo done", "--again") != name
    failed = project.submit("exit 3")
    assert project.ended(failed).state is State.FAILED
    assert project.submit("exit 3") != failed


def test_a_running_job_is_cancelled_with_all_that_it_started(project: JobProject) -> None:
    script = "trap '' TERM; (trap '' TERM; setsid sleep 600) & echo started; sleep 600"
    project.write("jobs/settings.yaml", "check: []\ngrace: 0.5\n")
    name = project.submit(script)
    until(
        lambda: "started" in project.log(name).partition("\n$ sh")[2].partition("\n")[2], "started"
    )
    assert "being cancelled" in project.jobs("cancel", name).stdout
    assert project.ended(name).state is State.CANCELLED
    left = run("pgrep", "-f", "sleep 600", check=False).stdout.split()
    assert [pid for pid in left if str(project.folder).encode() in _environment(pid)] == []
    refused = project.jobs("cancel", name, check=False)
    assert refused.returncode == 1 and "is cancelled: there is nothing to cancel" in refused.stderr


def _environment(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
