"""`kind: test`: the model of a commit is tested on this machine, and the result is a commit."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import yaml

from jobs.record import State
from jobs.request import read
from tests.conftest import ROOT, run
from tests.make.bundles import make_bundle
from tests.make.jobs import JobProject

STAGES = {
    "preprocess": {"cmd": "mkdir -p artifacts && echo chips > artifacts/chips"}
    | {"outs": [{"artifacts/chips": {"cache": False}}]},
    "train": {"cmd": "cp -r bundle model", "deps": ["bundle"], "outs": ["model"]},
    "model_tests": {"cmd": "mkdir -p reports && cp found reports/tests.json"}
    | {"deps": ["artifacts/chips", "found", "model"]}
    | {"outs": [{"reports/tests.json": {"cache": False}}]},
}


@pytest.fixture
def project(tmp_path: Path) -> JobProject:
    """A commit with a trained model, whose tests answer what the file `found` says."""
    made = JobProject(tmp_path / "project")
    make_bundle(made.folder / "bundle")
    model = hashlib.sha256((made.folder / "bundle" / "model.onnx").read_bytes()).hexdigest()
    test = {"name": "a", "kind": "noise", "severity": "fails", "state": "passed", "text": "well"}
    tests = [test, test | {"name": "b", "state": "failed"}]
    made.write("found", json.dumps({"model": model, "at_a_time": 1, "tests": tests}))
    made.write("dvc.yaml", yaml.safe_dump({"stages": STAGES}))
    made.write(".gitignore", "/artifacts\n/model\n")
    run("dvc", "init", "--quiet", cwd=made.folder)
    made.write(
        ".dvc/config", "[core]\n    remote = store\n['remote \"store\"']\n    url = ../store\n"
    )
    run("dvc", "repro", "--quiet", "preprocess", "train", cwd=made.folder)
    made.commit()
    return made


def test_a_commit_is_tested_in_a_checkout_and_the_results_are_a_commit(project: JobProject) -> None:
    request = (ROOT / "jobs" / "test.yaml").read_text("utf-8")
    cores = len(os.sched_getaffinity(0))
    file = project.write(
        "artifacts/test.yaml", request.replace("cpus: 2", f"cpus: {min(2, cores)}")
    )
    name = project.jobs("submit", str(file)).stdout.strip()
    job = project.ended(name)
    assert job.state is State.SUCCEEDED and job.outcome, project.log(name)
    assert job.outcome.metrics == {"tests_passed": 1, "tests_failed": 1}, "the gate judges"
    shown = run("git", "show", f"job/{name}:reports/tests.json", cwd=project.folder).stdout
    assert shown == (project.folder / "found").read_text("utf-8")
    lock = run("git", "show", f"job/{name}:dvc.lock", cwd=project.folder).stdout
    assert set(yaml.safe_load(lock)["stages"]) == set(STAGES)


def test_the_shipped_request_is_valid() -> None:
    assert read(ROOT / "jobs" / "test.yaml").kind == "test"
