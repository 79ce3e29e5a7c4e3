"""The command lines: help, refused arguments, and errors as a person sees them."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import challenge, evaluate, gate, load, preprocess, report, train
from tests.conftest import run
from tests.pipeline.conftest import call

STAGES = ("load", "preprocess", "train", "evaluate")
COMMANDS = (*STAGES, "ingest", "gate", "report", "challenge")


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (load.main, ("data/", "artifacts/raw/", "reports/data.json")),
        (preprocess.main, ("artifacts/raw/", "artifacts/chips/")),
        (train.main, ("artifacts/chips/", "model/", "reports/training/")),
        (evaluate.main, ("model/", "artifacts/chips/", "reports/metrics.json")),
    ],
)
def test_help_of_a_stage_names_its_inputs_and_outputs(
    workdir: Path, main: Callable[..., None], words: tuple[str, ...]
) -> None:
    result = call(main, "--help")
    assert result.returncode == 0
    for word in ("Reads:", "Writes", "params.yaml", *words):
        assert word in result.stdout


@pytest.mark.parametrize("main", [gate.main, report.main, challenge.main])
def test_help_of_a_comparison_names_the_revision(workdir: Path, main: Callable[..., None]) -> None:
    assert "--against REV" in call(main, "--help").stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_unknown_arguments_exit_with_2_and_start_nothing(workdir: Path, name: str) -> None:
    before = sorted(workdir.rglob("*"))
    result = run(sys.executable, "-m", f"pipeline.{name}", "--frobnicate", check=False)
    assert result.returncode == 2
    assert f"usage: python -m pipeline.{name}" in result.stderr
    assert sorted(workdir.rglob("*")) == before


def test_an_error_is_one_sentence_and_exits_with_1(workdir: Path) -> None:
    result = run(sys.executable, "-m", "pipeline.gate", check=False)
    assert result.returncode == 1
    assert result.stderr == "error: reports/predictions.csv is missing: run `dvc repro`\n"


def test_missing_chips_name_the_command_that_makes_them(workdir: Path) -> None:
    result = call(train.main)
    assert result.returncode == 1
    assert "artifacts/chips is missing: run `dvc repro`" in result.stderr
