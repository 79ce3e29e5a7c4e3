"""The main job, as a person does it: clone, pull, repro, change a parameter, compare, report."""

import json
from pathlib import Path

import pytest
import yaml

from tests.conftest import run
from tests.repo.conftest import clone

__all__ = ["clone"]


@pytest.fixture(scope="module")
def trained_clone(clone: Path) -> Path:
    """A clone in which `dvc repro` has run, with a short training, and been committed."""
    path = clone / "params.yaml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    document["train"].update(epochs=2, device="cpu", precision="float32")
    document["model"].update(width=4)
    floors = {"min_accuracy": 0.0, "min_recall": 0.0, "max_calibration_error": 1.0}
    document["gate"].update(floors)
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    run("dvc", "repro", cwd=clone)
    run("git", "add", "--all", ".", cwd=clone)
    run("git", "commit", "--quiet", "--message", "train", cwd=clone)
    return clone


def test_repro_leaves_a_bundle_and_reports(trained_clone: Path) -> None:
    for name in (
        "model/model.onnx",
        "model/model.json",
        "reports/metrics.json",
        "reports/data.json",
        "reports/predictions.csv",
        "reports/pictures/confusion.png",
        "dvc.lock",
    ):
        assert (trained_clone / name).is_file(), name


def test_a_second_repro_runs_nothing(trained_clone: Path) -> None:
    output = run("dvc", "repro", cwd=trained_clone).stdout
    assert output.count("didn't change, skipping") == 5  # data.dvc and four stages
    assert "Running stage" not in output
    assert run("git", "status", "--porcelain", cwd=trained_clone).stdout == ""


def test_the_model_knows_its_data_and_its_commit(trained_clone: Path) -> None:
    training = json.loads((trained_clone / "model" / "model.json").read_text())["training"]
    version = yaml.safe_load((trained_clone / "data.dvc").read_text())["outs"][0]["md5"]
    assert training["data_version"] == version
    assert len(training["git_revision"].removesuffix("-dirty")) == 40


def test_an_experiment_with_another_parameter_can_be_compared(trained_clone: Path) -> None:
    arguments = ("--set-param", "train.epochs=3", "--name", "longer")
    run("dvc", "exp", "run", *arguments, cwd=trained_clone)
    diff = json.loads(run("dvc", "params", "diff", "--json", "HEAD", cwd=trained_clone).stdout)
    assert diff["params.yaml"] == {"train.epochs": {"old": 2, "new": 3, "diff": 1}}
    table = run("dvc", "exp", "show", "--csv", "--only-changed", cwd=trained_clone).stdout
    assert "longer" in table and "accuracy" in table.splitlines()[0]
    run("dvc", "metrics", "diff", "HEAD", cwd=trained_clone)
    run("dvc", "plots", "diff", "HEAD", "--out", "artifacts/page", cwd=trained_clone)
    page = (trained_clone / "artifacts" / "page" / "index.html").read_text(encoding="utf-8")
    assert "confusion" in page.lower() and "validation" in page
    run("python", "-m", "pipeline.report", "--against", "HEAD", cwd=trained_clone)
    text = (trained_clone / "reports" / "report.md").read_text(encoding="utf-8")
    assert "`train.epochs`" in text and "shared test chips" in text
    gate = run("python", "-m", "pipeline.gate", "--against", "HEAD", cwd=trained_clone, check=False)
    assert "shared test chips" in gate.stdout
