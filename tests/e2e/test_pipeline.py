"""The main job, as a person does it: clone, pull, repro, change a parameter, compare, report."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.conftest import run
from tests.e2e.world import change_params, commit_all


@pytest.fixture(scope="module")
def trained_clone(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which `dvc repro` has run, with a short training, and been committed."""
    folder = tmp_path_factory.mktemp("clone") / "conveyor"
    shutil.copytree(trained, folder, symlinks=True)
    change_params(folder, {"gate": {"min_accuracy": 0.0, "compare": True}})
    commit_all(folder, "Compare with the base")
    return folder


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
    assert output.count("didn't change, skipping") == 6  # data.dvc and five stages
    assert "Running stage" not in output
    assert run("git", "status", "--porcelain", cwd=trained_clone).stdout == ""


def test_the_manifest_names_data_version_and_commit(trained_clone: Path) -> None:
    training = json.loads((trained_clone / "model" / "model.json").read_text())["training"]
    version = yaml.safe_load((trained_clone / "data.dvc").read_text())["outs"][0]["md5"]
    assert training["data_version"] == version
    assert len(training["git_revision"].removesuffix("-dirty")) == 40


def test_an_experiment_with_another_parameter_can_be_compared(trained_clone: Path) -> None:
    arguments = ("--set-param", "train.epochs=1", "--name", "shorter")
    run("dvc", "exp", "run", *arguments, cwd=trained_clone)
    diff = json.loads(run("dvc", "params", "diff", "--json", "HEAD", cwd=trained_clone).stdout)
    assert diff["params.yaml"] == {"train.epochs": {"old": 3, "new": 1, "diff": -2}}
    table = run("dvc", "exp", "show", "--csv", "--only-changed", cwd=trained_clone).stdout
    assert "shorter" in table and "accuracy" in table.splitlines()[0]
    run("dvc", "metrics", "diff", "HEAD", cwd=trained_clone)
    run("dvc", "plots", "diff", "HEAD", "--out", "artifacts/page", cwd=trained_clone)
    page = (trained_clone / "artifacts" / "page" / "index.html").read_text(encoding="utf-8")
    assert "confusion" in page.lower() and "validation" in page
    run("python", "-m", "pipeline.report", "--against", "HEAD", cwd=trained_clone)
    text = (trained_clone / "reports" / "report.md").read_text(encoding="utf-8")
    assert "`train.epochs`" in text and "shared test chips" in text
    gate = run("python", "-m", "pipeline.gate", "--against", "HEAD", cwd=trained_clone, check=False)
    assert "shared test chips" in gate.stdout


def test_a_misspelt_parameter_costs_no_output(trained_clone: Path) -> None:
    run("git", "checkout", "--quiet", "--", ".", cwd=trained_clone)
    run("dvc", "checkout", "--quiet", cwd=trained_clone)
    change_params(trained_clone, {"train": {"epoch": 9, "epochs": 4}})
    refused = run("make", "repro", "NO_SETUP=1", cwd=trained_clone, check=False)
    assert "train.epoch is not a parameter" in refused.stderr and "checkout" not in refused.stderr
    assert (trained_clone / "model" / "model.onnx").exists(), "DVC was not asked"
    failed = run("dvc", "repro", cwd=trained_clone, check=False)
    assert failed.returncode != 0 and not (trained_clone / "model").exists()
    assert "`dvc checkout` and `git checkout -- reports` bring back" in failed.stderr
    run("dvc", "checkout", "--quiet", cwd=trained_clone)
    run("git", "checkout", "--quiet", "--", "reports", cwd=trained_clone)
    assert (trained_clone / "model" / "model.onnx").exists()
    changed = run("git", "status", "--porcelain", cwd=trained_clone).stdout.split()
    assert changed == ["M", "params.yaml"]
