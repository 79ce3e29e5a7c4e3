"""A training is a success only if its model is complete; so are tests, if all could be run."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from contracts.commit import folder_digest
from contracts.jobs import Account, JobReport
from jobs import attempt
from jobs.kinds import KINDS, Incomplete, answered, complete
from jobs.record import Attempt
from tests.conftest import run
from tests.make.bundles import make_bundle
from tests.make.jobs import JobProject

GIVEN: dict[str, Any] = {
    **{"id": "train-1.1", "job": "train-1", "kind": "train", "commit": "", "repository": "."},
    **{"command": (), "parameters": {}, "seconds": 60},
    **{"cpus": 1, "memory": 10**9, "gpus": 0, "nodes": 3, "processes": 1},
}


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    make_bundle(tmp_path / "model")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "metrics.json").write_text('{"accuracy": 0.9}', encoding="utf-8")
    out = {"path": "model", "hash": "md5", "md5": folder_digest(tmp_path / "model")}
    document = {"schema": "2.0", "stages": {"train": {"cmd": "x", "outs": [out]}}}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(document), encoding="utf-8")
    return tmp_path


def test_a_complete_model_gives_its_metrics(trained: Path) -> None:
    assert complete(trained) == {"accuracy": 0.9}


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("model/model.onnx", "model/model.onnx is missing"),
        ("model/model.json", "model/model.json is missing"),
        ("reports/metrics.json", "reports/metrics.json is missing"),
        ("dvc.lock", "dvc.lock is missing"),
    ],
)
def test_what_is_missing_is_named(path: str, said: str, trained: Path) -> None:
    (trained / path).unlink()
    with pytest.raises(Incomplete, match=said):
        complete(trained)


def test_an_altered_model_is_no_success(trained: Path) -> None:
    with (trained / "model" / "model.onnx").open("ab") as graph:
        graph.write(b"x")
    with pytest.raises(Incomplete, match="has not the SHA-256 that model.json names"):
        complete(trained)


def test_a_model_of_another_training_is_no_success(trained: Path) -> None:
    (trained / "model" / "left-over").touch()
    with pytest.raises(Incomplete, match="model/ is not the one that dvc.lock names"):
        complete(trained)


def test_broken_files_are_said_to_be(trained: Path) -> None:
    (trained / "reports" / "metrics.json").write_text("{}", encoding="utf-8")
    with pytest.raises(Incomplete, match="the result cannot be read: holds no numbers"):
        complete(trained)
    (trained / "model" / "model.json").write_text("{}", encoding="utf-8")
    with pytest.raises(Incomplete, match="model/model.json: "):
        complete(trained)


def test_a_model_travels_with_what_its_job_cost_and_drew_on(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = JobProject(tmp_path / "project")
    for name in ("model", "reports", "dvc.lock"):
        (trained / name).rename(project.folder / name)
    monkeypatch.chdir(project.folder)
    drawn = Account(scope="month", name="2026-11", used=90.0, held=5.0, limit=100.0)
    given = GIVEN | {"commit": project.commit(), "accounts": (drawn,), "gpus": 2}
    monkeypatch.setattr(attempt, "_work", lambda *given: (("true",),))
    outcome = attempt.run(Attempt.model_validate(given))
    assert outcome.cause is None, outcome.message
    text = run("git", "show", f"{outcome.commit}:reports/job.json", cwd=project.folder).stdout
    found = JobReport.model_validate_json(text)
    assert (found.job, found.gpus, found.accounts) == ("train-1", 6, (drawn,))
    manifest = json.loads((project.folder / "model" / "model.json").read_bytes())
    assert found.model == manifest["sha256"]
    assert found.seconds < 60


def write_tests(folder: Path, state: str = "passed", model: str = "") -> None:
    of = hashlib.sha256((folder / "model" / "model.onnx").read_bytes()).hexdigest()
    test = {"name": "a", "kind": "noise", "severity": "fails", "state": state, "text": "no memory"}
    document = {"model": model or of, "at_a_time": 1, "tests": [test, test]}
    (folder / "reports" / "tests.json").write_text(json.dumps(document), encoding="utf-8")


def test_results_of_a_model_are_counted_whatever_the_gate_makes_of_them(trained: Path) -> None:
    write_tests(trained, "failed")
    assert answered(trained) == {"tests_failed": 2}
    write_tests(trained, "not applicable")
    assert answered(trained) == {"tests_not_applicable": 2}


def test_tests_that_could_not_be_run_are_no_success(trained: Path) -> None:
    with pytest.raises(Incomplete, match="reports/tests.json is missing"):
        answered(trained)
    write_tests(trained, "error")
    with pytest.raises(Incomplete, match="test a could not be run: no memory"):
        answered(trained)
    write_tests(trained, model="0" * 64)
    with pytest.raises(Incomplete, match="reports/tests.json is of another model"):
        answered(trained)
    (trained / "reports" / "tests.json").write_text("{}", encoding="utf-8")
    with pytest.raises(Incomplete, match="the result cannot be read: "):
        answered(trained)
    write_tests(trained)
    assert answered(trained) == {"tests_passed": 2}


@pytest.mark.parametrize(
    ("nodes", "joins", "slurm", "trains"),
    [
        (1, False, "", ()),
        (2, False, "", ("python", "-m", "pipeline.train")),
        (2, True, "", ("python", "-m", "pipeline.train")),
        (2, False, "17", ("srun", "python", "-m", "pipeline.train")),
    ],
)
def test_the_first_of_several_nodes_trains_whatever_dvc_lock_has(
    nodes: int, joins: bool, slurm: str, trains: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dvc repro` may find the model there, and the other ranks would wait for the first one."""
    monkeypatch.setenv("SLURM_JOB_ID", slurm)
    if not slurm:
        monkeypatch.delenv("SLURM_JOB_ID")
    work = attempt._work(KINDS["train"], Attempt.model_validate(GIVEN | {"nodes": nodes}), joins)
    assert [words for words in work if "pipeline.train" in words] == [trains][: len(trains)]
    assert (("dvc", "repro") in work) != joins
