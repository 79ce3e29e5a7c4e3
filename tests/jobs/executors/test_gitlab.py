"""GitLab: a pipeline on a branch of its own, with the words of GitLab and a real attempt."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import attempts
from jobs.admission import Admission
from jobs.errors import EngineAway, Refused
from jobs.executors import Phase, Seen
from jobs.executors.gitlab import Executor
from jobs.record import Job, State
from jobs.request import Cause, Request
from tests.conftest import ROOT, run
from tests.fakes.gitlab.pipelines import add_job
from tests.fakes.gitlab.server import PATH, FakeGitLab, serving
from tests.fakes.gitlab.state import DEVELOPER
from tests.make.jobs import JobProject
from tests.make.processes import until


@pytest.fixture
def project(tmp_path: Path) -> JobProject:
    made = JobProject(tmp_path / "project")
    (made.folder / "src").symlink_to(ROOT / "src")
    made.commit()
    origin = str(tmp_path / "origin.git")
    run("git", "clone", "--quiet", "--bare", str(made.folder), origin)
    return made


@pytest.fixture
def gitlab(
    project: JobProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeGitLab]:
    with serving(repository=tmp_path / "origin.git") as api:
        monkeypatch.setenv("JOBS_GITLAB_TOKEN", api.admit())
        project.environment["JOBS_GITLAB_TOKEN"] = os.environ["JOBS_GITLAB_TOKEN"]
        own = {"url": api.url, "project": PATH, "interval": 0.1}
        project.configure({"grace": 1, "executors": {"gitlab": own}})
        yield api


def executor(project: JobProject) -> Executor:
    return Executor(project.settings, project.store)


def queued(project: JobProject, **fields: Any) -> Job:
    document = {"name": "job", "kind": "command", "command": ("true",), "executor": "gitlab"}
    request = Request.model_validate({**document, **fields})
    job, _ = Admission(project.store, project.settings).submit(request, "ana", again=True)
    return project.store.save(job.moved(State.LAUNCHING, attempt=1))


def launched(project: JobProject, api: FakeGitLab, **fields: Any) -> tuple[Executor, Job, Any]:
    engine, job = executor(project), queued(project, **fields)
    job = project.store.change(job, handle=engine.launch(job))
    return engine, job, api.jobs[int(job.handle)][-1]


def looked(engine: Executor, job: Job) -> Seen:
    return engine.look([job])[job.id]


def work(api: FakeGitLab, pipeline: Any, folder: Path) -> None:
    """Do what a runner does: clone the branch, and run the job with the pipeline's variables."""
    (job,) = api.jobs[pipeline["id"]]
    job |= {"status": "running", "runner": {"description": "runner-7"}}
    run("git", "clone", "--quiet", "--branch", pipeline["ref"], str(api.repository), str(folder))
    address = f"url.{api.repository}.insteadOf"
    run("git", "config", address, f"{api.url}/{PATH}.git", cwd=folder)
    environment = os.environ | {"PYTHONPATH": "src", **pipeline["variables"]}
    words = (sys.executable, "-m", "jobs.attempt")
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True)
    head = b"section_start:1764484800:step_script\r\x1b[0K\x1b[0;m"
    stamped = b"".join(b"2026-11-30T07:00:00.000000Z 00O " + line for line in lines(done.stdout))
    api.traces[job["id"]] = head + stamped
    job["status"] = "success" if done.returncode == 0 else "failed"


def lines(text: bytes) -> list[bytes]:
    return text.splitlines(keepends=True)


def test_a_job_is_a_pipeline_on_its_branch_and_ends_there_as_a_commit(
    project: JobProject, gitlab: FakeGitLab, tmp_path: Path
) -> None:
    script = "mkdir reports; echo $0 > reports/seen; echo 'ein Gruß'"
    name = project.submit(script, executor="gitlab", queue="a100")
    until(lambda: gitlab.jobs, "started")
    (pipeline,) = gitlab.pipelines
    gitlab.jobs[pipeline["id"]][0]["status"] = "pending"
    reason = "no runner has taken it; it needs one with the tags: a100"
    until(lambda: reason in project.store.find(name).reason, "reason")
    assert pipeline["ref"] == f"job/{name}" and "$" not in str(pipeline["variables"])
    gitlab.broken["GET", "pipelines"] = (503, b"")
    until(
        lambda: "gitlab does not answer, the job stays" in project.store.find(name).reason, "away"
    )
    gitlab.broken.clear()
    work(gitlab, pipeline, tmp_path / "runner")
    job = project.ended(name)
    assert job.state is State.SUCCEEDED and job.outcome, job.reason
    assert gitlab.git("rev-parse", f"job/{name}") == job.outcome.commit
    assert gitlab.git("show", f"job/{name}:reports/seen") == "sh"
    log = project.log(name)
    assert log.count("\nein Gruß\n") == 1 and "section_" not in log and "2026-11" not in log


def test_launched_twice_a_job_has_one_pipeline_and_the_next_attempt_another(
    project: JobProject, gitlab: FakeGitLab
) -> None:
    engine, job, _ = launched(project, gitlab)
    assert engine.launch(job) == job.handle and len(gitlab.pipelines) == 1
    again = job.model_copy(update={"attempt": 2})
    assert engine.launch(again) != job.handle and len(gitlab.pipelines) == 2


@pytest.mark.parametrize(
    ("fields", "phase", "reason"),
    [
        ({"status": "created"}, Phase.WAITING, "it is being created"),
        ({"status": "waiting_for_resource"}, Phase.WAITING, "another job holds its resource"),
        ({"status": "pending", "tag_list": ["gpu", "big"]}, Phase.WAITING, "the tags: gpu, big"),
        ({"status": "manual"}, Phase.WAITING, "a person has to start it"),
        ({"status": "running"}, Phase.RUNNING, "on a runner as pipeline"),
        ({"status": "canceling"}, Phase.RUNNING, "on a runner as pipeline"),
    ],
)
def test_a_job_says_what_gitlab_makes_it_wait_for(
    project: JobProject, gitlab: FakeGitLab, fields: Any, phase: Phase, reason: str
) -> None:
    engine, job, row = launched(project, gitlab)
    row |= fields
    found = looked(engine, job)
    assert found.phase is phase and reason in found.reason


@pytest.mark.parametrize(
    ("status", "reason", "trace", "cause"),
    [
        ("failed", "runner_system_failure", b"", Cause.INFRASTRUCTURE),
        ("failed", "stuck_or_timeout_failure", b"", Cause.INFRASTRUCTURE),
        ("failed", "job_execution_timeout", b"", Cause.TIMED_OUT),
        ("failed", "script_failure", b"make: no rule", Cause.BROKEN),
        ("failed", "script_failure", b'jobs-outcome: {"cause": "nan"}\n', Cause.NAN),
        ("failed", "script_failure", b'jobs-outcome: {"commit": "abc"}\n', Cause.BROKEN),
        ("canceled", None, b"", Cause.INFRASTRUCTURE),
        ("success", None, b"", None),
    ],
)
def test_the_cause_of_a_failure_is_what_the_attempt_said_else_gitlabs_reason(
    project: JobProject, gitlab: FakeGitLab, status: str, reason: Any, trace: bytes, cause: Any
) -> None:
    engine, job, row = launched(project, gitlab)
    row |= {"status": status, "failure_reason": reason, "duration": 7.5}
    gitlab.traces[row["id"]] = trace
    outcome = looked(engine, job).outcome
    assert outcome and outcome.cause is cause
    assert attempts.outcome(job, project.store) == outcome
    gitlab.pipelines.clear()
    assert looked(executor(project), job).outcome == outcome


def test_a_retry_in_gitlab_itself_is_followed(project: JobProject, gitlab: FakeGitLab) -> None:
    engine, job, row = launched(project, gitlab)
    row["status"] = "failed"
    add_job(gitlab, int(job.handle), status="running")
    assert looked(engine, job).phase is Phase.RUNNING


def test_cancelled_it_is_over_when_the_runner_has_stopped_and_leaves_no_branch(
    project: JobProject, gitlab: FakeGitLab
) -> None:
    engine, job, row = launched(project, gitlab)
    row["status"] = "running"
    gitlab.traces[row["id"]] = b"half\n"
    engine.cancel(job, kill=False)
    assert looked(engine, job).phase is Phase.RUNNING
    engine.collect(job, project.store.log(job))
    gitlab.traces[row["id"]] = b"half\nof it\n"
    engine.cancel(job, kill=True)
    assert looked(engine, job).phase is Phase.ENDED
    engine.collect(job, project.store.log(job))
    assert project.log(job.id) == "half\nof it\n"
    assert gitlab.git("branch", "--list", "job/*") == ""
    engine.cancel(job, kill=True)


def test_a_pipeline_that_is_gone_or_has_no_such_job_has_ended(
    project: JobProject, gitlab: FakeGitLab
) -> None:
    engine, job, _ = launched(project, gitlab)
    del gitlab.jobs[int(job.handle)]
    outcome = looked(engine, job).outcome
    assert outcome and "has no job attempt: is templates/train.yml" in outcome.message
    engine, job, _ = launched(project, gitlab)
    gitlab.pipelines.clear()
    assert looked(engine, job) == Seen(Phase.ENDED)


def test_what_gitlab_refuses_is_said_in_its_words(project: JobProject, gitlab: FakeGitLab) -> None:
    gitlab.project["ci_pipeline_variables_minimum_override_role"] = "no_one_allowed"
    with pytest.raises(Refused, match="Insufficient permissions to set pipeline variables"):
        executor(project).launch(queued(project))
    for token in gitlab.tokens.values():
        token.level = DEVELOPER - 10
    with pytest.raises(Refused, match="403.*the role Maintainer"):
        executor(project).launch(queued(project))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((429, b""), "GitLab answered 429"),
        ((401, b"{}"), "does not take the token"),
        ((200, b"<html>"), "no GitLab answers there"),
    ],
)
def test_a_gitlab_that_is_away_changes_nothing(
    project: JobProject, gitlab: FakeGitLab, answer: Any, said: str
) -> None:
    engine, job, _ = launched(project, gitlab)
    gitlab.broken["GET", "pipelines/.*jobs"] = answer
    with pytest.raises(EngineAway, match=said):
        engine.look([job])
    gitlab.broken.clear()
    assert looked(executor(project), job).phase is Phase.WAITING


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"priority": 5}, "priority: 5, and GitLab has no priority of jobs: leave it at 0"),
        ({"resources": {"nodes": 2}}, "resources.nodes: 2, and a runner is one"),
        ({"commit": "0" * 40}, "commit: 000000000000 is not in GitLab's project: git push"),
    ],
)
def test_a_request_that_gitlab_cannot_run_is_refused(
    project: JobProject, gitlab: FakeGitLab, change: Any, said: str
) -> None:
    commit = gitlab.git("rev-parse", "main")
    request = Request.model_validate({"name": "job", "commit": commit, **change})
    with pytest.raises(Refused) as refused:
        executor(project).check(request)
    assert said in str(refused.value)


def test_without_a_token_nothing_is_asked(
    project: JobProject, gitlab: FakeGitLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOBS_GITLAB_TOKEN")
    with pytest.raises(Refused, match="a token with the scope api in JOBS_GITLAB_TOKEN"):
        executor(project).check(Request(name="job", commit=gitlab.git("rev-parse", "main")))
    assert gitlab.requests == []
