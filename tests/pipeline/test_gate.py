"""The gate: on by default, names each floor that is missed, and cannot be talked past."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import gate, report
from pipeline.tasks.comparison import Comparison
from pipeline.tasks.intervals import Interval
from pipeline.gate import judge
from pipeline.params import Gate, read_params
from tests import conftest
from tests.conftest import ROOT, run, write_params
from tests.make.sample import is_adopted
from tests.pipeline.conftest import call

GOOD: dict[str, Any] = {
    "accuracy": 0.95,
    "calibration_error": 0.02,
    "latency_p95_ms": 2.0,
    "model_size_mib": 5.0,
}
CLASSES = {"a": {"recall": 0.9}, "b": {"recall": 0.8}}
FLOORS = Gate(
    min_accuracy=0.9,
    min_recall=0.7,
    max_calibration_error=0.1,
    max_latency=10.0,
    max_model_size=10.0,
    compare=True,
)
PARAMS = read_params(conftest.PARAMS).model_copy(update={"gate": FLOORS})


def missed(metrics: dict[str, Any], classes: dict[str, Any] = CLASSES) -> list[str]:
    checks = judge(metrics, classes, PARAMS, None, "first")
    return [f"{check.name}: {check.text}" for check in checks if not check.passed]


def test_a_model_that_holds_every_floor_passes() -> None:
    assert missed(GOOD) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"accuracy": 0.8999}, "accuracy: 0.8999, wanted at least 0.9"),
        ({"calibration_error": 0.2}, "calibration error: 0.2, wanted at most 0.1"),
        ({"latency_p95_ms": 30.0}, "latency p95: 30 ms, wanted at most 10 ms"),
        ({"model_size_mib": 10.1}, "model size: 10.1 MiB, wanted at most 10 MiB"),
        ({"accuracy": float("nan")}, "accuracy: nan, wanted at least 0.9"),
    ],
)
def test_each_floor_is_named_with_its_number(change: dict[str, Any], words: str) -> None:
    assert missed(GOOD | change) == [words]


def test_the_weakest_class_is_named() -> None:
    weak = CLASSES | {"c": {"recall": 0.5}}
    assert missed(GOOD, weak) == ["recall of c (the lowest): 0.5, wanted at least 0.7"]


@pytest.mark.parametrize(("high", "passes"), [(-0.001, False), (0.0, True), (0.01, True)])
def test_a_loss_counts_only_beyond_the_uncertainty(high: float, passes: bool) -> None:
    comparison = Comparison(500, 0.95, 0.94, Interval(-0.02, high), 1, 6)
    assert judge(GOOD, CLASSES, PARAMS, comparison, "")[-1].passed is passes


def test_the_gate_ships_switched_on() -> None:
    """Of a team's project, whose floors are its own, this asks nothing."""
    shipped = read_params(ROOT / "params.yaml").gate
    switched_on = shipped.compare and shipped.min_accuracy >= 0.5 and shipped.min_recall > 0
    assert is_adopted() or switched_on


@pytest.fixture
def judged(repository: Path, _trained: Path, commit: Callable[[str], str]) -> Path:
    """A repository on a branch, whose main holds a good model's reports, and so the branch."""
    shutil.copytree(_trained / "reports", repository / "reports")
    shutil.copytree(_trained / "model", repository / "model")
    lenient = {"min_accuracy": 0.0, "min_recall": 0.0, "max_calibration_error": 1.0}
    write_params({"gate": lenient})
    improve(repository)
    commit("main")
    run("git", "checkout", "--quiet", "-b", "experiment", cwd=repository)
    return repository


def improve(repository: Path, wrong: bool = False) -> None:
    """Write predictions of 400 chips: all right, or a tenth of them wrong."""
    lines = ["chip,label,predicted,confidence"]
    for index in range(400):
        answer = "class-1" if wrong and index % 10 == 0 else "class-0"
        lines.append(f"{index:016x},class-0,{answer},0.9")
    text = "\n".join(lines) + "\n"
    (repository / "reports" / "predictions.csv").write_text(text, encoding="utf-8")


def test_an_equal_model_may_be_merged(judged: Path) -> None:
    result = call(gate.main)
    assert result.returncode == 0
    assert "the gate is open: 6 of 6 hold" in result.stdout
    assert "on 400 shared test chips" in result.stdout


def test_a_worse_model_is_blocked_with_the_number(judged: Path) -> None:
    improve(judged, wrong=True)
    result = call(gate.main)
    assert result.returncode == 1
    assert "MISS  no loss against the model of the base: accuracy -10.00%" in result.stdout
    assert "the gate is closed, 1 of 6 missed" in result.stderr
    suite = (gate.WIDGETS / "junit.xml").read_text(encoding="utf-8")
    assert 'tests="6" failures="1"' in suite
    assert "landcover_accuracy " in (gate.WIDGETS / "metrics.txt").read_text(encoding="utf-8")


def test_a_missed_floor_is_blocked(judged: Path) -> None:
    document = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    document["gate"]["max_model_size"] = 0.001
    Path("params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    result = call(gate.main)
    assert result.returncode == 1
    assert "model size" in result.stderr and "wanted at most 0.001 MiB" in result.stderr


def test_another_split_is_no_way_around_the_comparison(judged: Path) -> None:
    text = Path("reports/predictions.csv").read_text(encoding="utf-8")
    moved = text.replace("\n0", "\nf")
    Path("reports/predictions.csv").write_text(moved, encoding="utf-8")
    result = call(gate.main)
    assert result.returncode == 1
    assert "no test chip in common with main" in result.stderr
    write_params({"gate": {"compare": False, "min_accuracy": 0.0, "min_recall": 0.0}})
    result = call(gate.main)
    assert "not compared: switched off by gate.compare" in result.stdout


def test_a_first_model_has_nothing_to_be_compared_with(judged: Path) -> None:
    start = run("git", "rev-list", "--max-parents=0", "HEAD").stdout.strip()
    result = call(gate.main, "--against", start)
    assert "so this is the first model" in result.stdout


def test_a_first_commit_has_nothing_before_it(judged: Path) -> None:
    run("git", "checkout", "--quiet", "--orphan", "start", cwd=judged)
    run("git", "commit", "--quiet", "--message", "start", cwd=judged)
    result = call(gate.main, "--against=HEAD^1")
    assert result.returncode == 0
    assert "HEAD^1 does not exist: this is the first commit" in result.stdout


def test_a_model_of_another_name_is_not_compared(judged: Path) -> None:
    document = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    document["model"]["name"] = "crops"
    Path("params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    improve(judged, wrong=True)
    result = call(gate.main)
    assert result.returncode == 0
    assert "main has another model, landcover, so this is the first crops" in result.stdout


@pytest.mark.parametrize("name", ["nowhere", "--help-me", "$(touch evil)", "main:params.yaml", ""])
def test_a_revision_that_is_none_is_refused(judged: Path, name: str) -> None:
    result = call(gate.main, f"--against={name}")
    assert result.returncode == 1
    assert "is not in this repository" in result.stderr and "Traceback" not in result.stderr
    assert not Path("evil").exists()


@pytest.mark.parametrize("name", ["metrics.json", "classes.json", "predictions.csv"])
def test_missing_reports_say_what_to_run(judged: Path, name: str) -> None:
    (judged / "reports" / name).unlink()
    result = call(gate.main)
    assert result.returncode == 1
    assert f"reports/{name} is missing: run `dvc repro`" in result.stderr


def test_damaged_reports_say_what_to_run(judged: Path) -> None:
    Path("reports/metrics.json").write_text("{", encoding="utf-8")
    result = call(gate.main)
    assert result.returncode == 1
    assert "reports/metrics.json is not JSON" in result.stderr
    assert json.loads(Path("reports/classes.json").read_text(encoding="utf-8"))


def write_lock() -> None:
    """What `dvc repro` would have written: the reports are those of these parameters and data."""
    md5 = {
        name: hashlib.md5(Path(name).read_bytes(), usedforsecurity=False).hexdigest()
        for name in ("reports/metrics.json", "params.yaml")
    }
    Path("data.dvc").write_text("outs:\n- md5: one.dir\n  path: data\n", encoding="utf-8")
    epochs = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["train"]["epochs"]
    stages = {
        "load": {"deps": [{"path": "data", "md5": "one.dir"}]},
        "train": {"params": {"params.yaml": {"train.epochs": epochs}}},
        "evaluate": {
            "outs": [{"path": "reports/metrics.json", "md5": md5["reports/metrics.json"]}]
        },
    }
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "old", "new", "reason"),
    [
        ("params.yaml", "epochs: 2", "epochs: 3", "train: train.epochs of params.yaml has changed"),
        ("data.dvc", "one", "two", "load: data.dvc names another version of the data"),
        ("reports/metrics.json", "{", "{ ", "evaluate: reports/metrics.json is not the output of"),
    ],
)
def test_reports_of_another_state_are_named_with_the_cure(
    judged: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    old: str,
    new: str,
    reason: str,
) -> None:
    monkeypatch.delenv("CI_PIPELINE_ID", raising=False)
    write_lock()
    assert call(gate.main).stderr == ""
    content = Path(file).read_text(encoding="utf-8")
    Path(file).write_text(content.replace(old, new, 1), encoding="utf-8")
    said = f"reports/ describes another state of this folder ({reason}"
    refused = call(gate.main)
    assert refused.returncode == 1 and "the gate is open" not in refused.stdout
    assert refused.stderr.startswith(f"error: {said}")
    reported = call(report.main)
    assert reported.returncode == 0, "a report is no door"
    monkeypatch.setenv("CI_PIPELINE_ID", "7")  # main without BOT_TOKEN: docs/gitlab-setup.md
    judged_there = call(gate.main)
    assert judged_there.returncode == 0
    for result in (reported, judged_there):
        assert result.stderr.startswith(f"warning: {said}")
    for result in (refused, reported, judged_there):
        assert result.stderr.rstrip().endswith("run `make repro`")


@pytest.mark.parametrize("lock", ["", "stages: 1", "stages: {load: {deps: [{path: params.yaml}]}}"])
def test_a_broken_lock_stops_no_gate(judged: Path, lock: str) -> None:
    Path("dvc.lock").write_text(lock, encoding="utf-8")
    assert "the gate is open" in call(gate.main).stdout
