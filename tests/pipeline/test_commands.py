"""The command lines: help, refused arguments, and errors as a person sees them."""

import runpy
import sys
from pathlib import Path

import pytest

from pipeline import train
from tests.conftest import run
from tests.pipeline.conftest import call

WORDS: dict[str, tuple[str, ...]] = {
    "load": ("Reads:", "Writes", "params.yaml", "data/", "artifacts/raw/", "reports/data.json"),
    "preprocess": ("Reads:", "Writes", "params.yaml", "artifacts/raw/", "artifacts/chips/"),
    "train": (
        "Reads:", "Writes", "params.yaml", "artifacts/chips/", "model/", "reports/training/",
    ),
    "evaluate": (
        "Reads:", "Writes", "params.yaml", "model/", "artifacts/chips/", "reports/metrics.json",
    ),
    "ingest": ("synthetic", "folder", "eurosat", "feedback"),
    "gate": ("--against REV",),
    "report": ("--against REV",),
    "challenge": ("--against REV",),
}  # fmt: skip
"""Command -> what its help names: inputs and outputs of a stage, the revision to compare with."""


def as_program(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> None:
    """Run `python -m pipeline.<name>` in this process."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.delitem(sys.modules, f"pipeline.{name}", raising=False)
    runpy.run_module(f"pipeline.{name}", run_name="__main__")


def test_help_names_inputs_outputs_and_options(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = []
    for name, words in WORDS.items():
        with pytest.raises(SystemExit) as end:
            as_program(monkeypatch, name, "--help")
        assert end.value.code == 0
        output = capsys.readouterr().out
        missing += [f"{name}: {word}" for word in words if word not in output]
    assert missing == []


def test_unknown_arguments_exit_with_2_and_start_nothing(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(workdir.rglob("*"))
    for name in WORDS:
        with pytest.raises(SystemExit) as end:
            as_program(monkeypatch, name, "--frobnicate")
        assert end.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1
        assert f"see python -m pipeline.{name}" in said
        assert sorted(workdir.rglob("*")) == before


def test_an_error_is_one_sentence_and_exits_with_1(workdir: Path) -> None:
    result = run(sys.executable, "-m", "pipeline.gate", check=False)
    assert result.returncode == 1
    assert result.stderr == "error: reports/predictions.csv is missing: run `dvc repro`\n"


def test_missing_chips_name_the_command_that_makes_them(workdir: Path) -> None:
    result = call(train.main)
    assert result.returncode == 1
    assert "artifacts/chips is missing: run `dvc repro`" in result.stderr
