"""A real Slurm: reasons, priority, limits, a node's death, an alternative, logs, cancellation."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import Refused
from jobs.executors.slurm import Executor
from jobs.record import Job, State
from tests.conftest import run
from tests.make.jobs import JobProject
from tests.make.processes import until
from tests.make.slurm import Slurm, slurm

FIELDS: dict[str, Any] = {"executor": "slurm", "resources": {"memory": "200MiB", "time": "5m"}}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    # The path of a socket has at most 107 bytes.
    with slurm(tmp_path_factory.mktemp("slurm")) as made:
        yield made


@pytest.fixture
def project(cluster: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobProject:
    monkeypatch.setenv("SLURM_CONF", str(cluster.configuration))
    return JobProject(tmp_path / "project", {"grace": 1})


def hold(project: JobProject, name: str) -> tuple[str, Path]:
    """A script that runs until a file is there, and the file."""
    file = project.folder / f"go-{name}"
    return f"until [ -e {file} ]; do sleep 0.1; done", file


def seen(project: JobProject, name: str, state: State, reason: str = "") -> Job:
    def found() -> Job | None:
        job = project.store.find(name)
        return job if job.state is state and reason in job.reason else None

    return until(found, f"{name} {state} {reason}")


def test_jobs_wait_with_slurms_reasons_and_a_priority_overtakes(project: JobProject) -> None:
    scripts = {name: hold(project, name) for name in ("a", "b", "late", "urgent")}
    jobs = {}
    for name, (script, _) in scripts.items():
        priority = 100 if name == "urgent" else 0
        jobs[name] = project.submit(script, name=name, priority=priority, **FIELDS)
        if name in "ab":
            seen(project, jobs[name], State.RUNNING, "on node-")
    seen(project, jobs["urgent"], State.LAUNCHING, "Resources")
    seen(project, jobs["late"], State.LAUNCHING, "Priority")
    assert "waits at Slurm" in project.jobs("list").stdout
    scripts["a"][1].touch()  # one place is free
    seen(project, jobs["urgent"], State.RUNNING)
    assert project.store.find(jobs["late"]).state is State.LAUNCHING
    for _, file in scripts.values():
        file.touch()
    for name in jobs.values():
        assert project.ended(name).state is State.SUCCEEDED


def test_limits_end_a_job_and_a_rule_of_the_request_finds_the_way_out(project: JobProject) -> None:
    hungry = "import yaml; held = b'x' * 5_000_000 * yaml.safe_load(open('params.yaml'))"
    hungry += "['train']['batch_size']; print(len(held))"
    rule = {"when": "out_of_memory", "parameters": {"train.batch_size": "/4"}}
    long = project.submit(
        "sleep 600",
        name="long",
        executor="slurm",
        resources={"memory": "200MiB", "time": "2s"},
    )
    large = project.submit(f'exec "{sys.executable}" -c "{hungry}"', on_failure=[rule], **FIELDS)
    job = project.ended(large)
    assert job.state is State.SUCCEEDED and job.attempt == 2, job.history
    assert "80000000" in project.log(large)
    tried = next(event for event in job.history if event.state is State.RETRYING)
    assert "rule 1 of on_failure sets train.batch_size 16" in tried.reason
    job = project.ended(long)
    assert job.state is State.TIMED_OUT and "longer than 2 s" in job.reason


def test_a_job_whose_node_dies_runs_again_on_the_other(project: JobProject, cluster: Slurm) -> None:
    script, go = hold(project, "x")
    name = project.submit(script, **FIELDS)
    job = seen(project, name, State.RUNNING)
    node = job.reason.split()[1]
    until(lambda: "$ sh" in project.log(name))
    cluster.kill_node(node)
    seen(project, name, State.LAUNCHING)
    # It would wait for two minutes.
    cluster.ask(
        "scontrol", "update", f"JobId={job.handle or handle(project, name)}", "StartTime=now"
    )
    again = seen(project, name, State.RUNNING)
    assert again.reason.split()[1] != node and again.attempt == 1
    go.touch()
    assert project.ended(name).state is State.SUCCEEDED
    cluster.start_node(node)


def handle(project: JobProject, name: str) -> str:
    return project.store.find(name).handle


def test_while_slurm_is_away_jobs_stay_as_they_are(project: JobProject, cluster: Slurm) -> None:
    script, go = hold(project, "x")
    name = project.submit(script, **FIELDS)
    seen(project, name, State.RUNNING)
    cluster.stop_controller()
    seen(project, name, State.RUNNING, "slurm does not answer, the job stays as it is")
    new = project.submit("echo later", name="later", **FIELDS)
    seen(project, new, State.QUEUED, "does not answer")
    go.touch()
    cluster.start_controller()
    assert project.ended(name).state is project.ended(new).state is State.SUCCEEDED
    assert project.log(name).count("$ sh") == 1


def test_logs_follow_and_a_cancelled_job_leaves_nothing(
    project: JobProject, cluster: Slurm
) -> None:
    name = project.submit("echo first; (setsid sleep 987 &); sleep 987", **FIELDS)
    words = (sys.executable, "-m", "jobs", "logs", "-f", name)
    with subprocess.Popen(
        words, cwd=project.folder, env=project.environment, stdout=subprocess.PIPE, text=True
    ) as following:
        assert following.stdout
        until(lambda: following.stdout and following.stdout.readline() == "first\n", "first line")
        project.jobs("cancel", name)
        assert project.ended(name).state is State.CANCELLED
        assert "jobs-outcome" in following.stdout.read()
    assert [entry for entry in Path("/proc").iterdir() if _runs(entry, project.folder)] == []
    assert cluster.ask("squeue", "--noheader", "--states=RUNNING,PENDING") == ""
    assert list((project.state / "work").iterdir()) == []


def _runs(process: Path, folder: Path) -> bool:
    try:
        return b"987" in (process / "cmdline").read_bytes() and str(folder) in os.readlink(
            process / "cwd"
        )
    except OSError:
        return False


def test_the_same_attempt_is_handed_over_once_and_the_impossible_is_refused(
    project: JobProject,
) -> None:
    engine = Executor(project.settings, project.store)
    refused = project.jobs("submit", str(project.request(queue="nowhere", **FIELDS)), check=False)
    assert "error: Slurm: " in refused.stderr and "partition" in refused.stderr
    name = project.submit("sleep 1", **FIELDS)
    job = seen(project, name, State.RUNNING)
    assert engine.launch(job) == handle(project, name)
    wanted = job.current.resources.model_copy(update={"gpus": 8})
    with pytest.raises(Refused, match="generic resource"):
        engine.check(job.current.model_copy(update={"resources": wanted}))


STAGES = """
stages:
  preprocess: {cmd: touch chips, outs: [chips]}
  train: {cmd: exit 3, deps: [chips], outs: [model]}
  evaluate: {cmd: cp model/name evaluated, deps: [model], outs: [evaluated]}
"""
TRAIN = """
import json, os
from pathlib import Path

names = ("MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS", "SLURMD_NODENAME")
own = {name: value for name, value in os.environ.items() if name[:6] == "SLURM_" or name in names}
Path(f"rank-{own['SLURM_PROCID']}.json").write_text(json.dumps(own))
if own["SLURM_PROCID"] == "0":
    Path("model").mkdir()
    Path("model/name").write_text("trained by all")
"""


def test_a_training_of_two_nodes_is_a_rank_on_each_that_find_each_other(
    project: JobProject,
) -> None:
    run("dvc", "init", "--quiet", cwd=project.folder)
    project.write("params.yaml", "train: {nodes: 1, processes: 1}\n")
    project.write("dvc.yaml", STAGES)
    project.write("src/pipeline/__init__.py", "")
    project.write("src/pipeline/params.py", "")
    project.write("src/pipeline/train.py", TRAIN)
    project.commit()
    resources = {**FIELDS["resources"], "nodes": 2}
    name = project.submit(
        kind="train", executor="slurm", resources=resources, parameters={"train.nodes": 2}
    )
    job = project.ended(name)
    # Every command has ended with 0; dvc took over what srun trained, and went on.
    assert job.reason.endswith("model/model.json is missing"), project.log(name)
    work = project.store.work(job)
    assert (work / "evaluated").read_text() == "trained by all"
    ranks = [json.loads((work / f"rank-{rank}.json").read_bytes()) for rank in range(2)]
    assert [rank["SLURMD_NODENAME"] for rank in ranks] == ["node-a", "node-b"]
    for number, rank in enumerate(ranks):  # what pipeline.training.processes reads
        own = {"SLURM_PROCID": str(number), "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"}
        assert rank | own | {"SLURM_STEP_ID": "0", "OMP_NUM_THREADS": "1"} == rank
    assert len({(rank["MASTER_ADDR"], rank["MASTER_PORT"]) for rank in ranks}) == 1


def test_nodes_that_would_each_train_the_whole_are_refused(project: JobProject) -> None:
    project.write("params.yaml", "train: {nodes: 1}\n")
    project.commit()
    resources = {**FIELDS["resources"], "nodes": 2}
    said = "resources.nodes: 2, and train.nodes is 1: add parameters: {train.nodes: 2}"
    with pytest.raises(Refused, match=re.escape(said)):
        project.submit(kind="train", executor="slurm", resources=resources)
