"""Training: one seed, one model; a killed run resumes; what goes wrong is said with its cure."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import train
from pipeline.bundle.manifest import read_bundle
from pipeline.data.prepared import read_chips
from pipeline.params import read_params
from pipeline.training.checkpoint import Checkpoints
from tests.conftest import run, write_params


def digest() -> str:
    return read_bundle()[1].sha256


def history() -> dict[str, Any]:
    """What DVCLive wrote, but for the speed, which no seed fixes."""
    root = Path("reports/training/plots/metrics")
    return {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        for path in root.rglob("*.tsv")
        if path.stem != "images_per_second"
    }


def test_training_learns_and_writes_a_bundle(chips: Path) -> None:
    write_params({"train": {"epochs": 12}})
    train.main()
    metrics = json.loads(Path("reports/training/metrics.json").read_text(encoding="utf-8"))
    assert metrics["train"]["loss"] < 1.0  # chance is 1.1
    manifest = read_bundle()[1]
    assert manifest.training.params["train"]["epochs"] == 12
    assert len(history()["train/loss.tsv"].splitlines()) == 1 + 12
    assert not list(Path("artifacts/checkpoints").rglob("*.pt"))


def test_two_runs_of_one_seed_give_one_digest_and_another_seed_another(chips: Path) -> None:
    train.main()
    first, curves = digest(), history()
    train.main()
    assert (digest(), history()) == (first, curves)
    write_params({"train": {"seed": 1}})
    train.main()
    assert digest() != first


@pytest.mark.parametrize("killed_after", [1, 3])
def test_a_run_killed_after_any_epoch_ends_as_if_nothing_had_happened(
    chips: Path, killed_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params({"train": {"epochs": 4}})
    train.main()
    expected, curves = digest(), history()
    shutil.rmtree("model")
    saved = Checkpoints.save

    def save_and_die(self: Checkpoints, epoch: int, state: dict[str, Any]) -> None:
        saved(self, epoch, state)
        if epoch == killed_after:
            raise InterruptedError

    monkeypatch.setattr(Checkpoints, "save", save_and_die)
    with pytest.raises(InterruptedError):
        train.main()
    assert not Path("model").exists()
    monkeypatch.undo()
    monkeypatch.chdir(chips)
    train.main()
    assert (digest(), history()) == (expected, curves)


def test_a_process_killed_in_the_middle_of_an_epoch_resumes(chips: Path) -> None:
    write_params({"train": {"epochs": 30}})
    train.main()
    expected = digest()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.train"],
        env=os.environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not list(Path("artifacts/checkpoints").rglob("*.pt")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    output = run("python", "-m", "pipeline.train").stdout
    assert "train: going on after epoch" in output
    assert digest() == expected


def test_a_checkpoint_of_other_parameters_or_data_is_not_used(
    chips: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Checkpoints, "clear", lambda self: None)
    train.main()
    write_params({"train": {"learning_rate": 0.5}})
    train.main()
    manifest = Path("artifacts/chips/manifest.csv")
    manifest.write_text(manifest.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    train.main()
    assert "going on" not in capsys.readouterr().out
    assert len(list(Path("artifacts/checkpoints").iterdir())) == 3


def test_a_loss_that_is_no_number_names_the_cure_and_keeps_the_old_model(chips: Path) -> None:
    train.main()
    before = digest()
    statistics = Path("artifacts/chips/statistics.json")
    document = json.loads(statistics.read_text(encoding="utf-8"))
    statistics.write_text(json.dumps(document | {"std": [0.0, 0.0, 0.0]}), encoding="utf-8")
    result = run("python", "-m", "pipeline.train", check=False)
    assert result.returncode == 1
    assert "the loss is nan in epoch 1: lower train.learning_rate" in result.stderr
    assert "Traceback" not in result.stderr
    assert digest() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_said_and_auto_just_runs(chips: Path) -> None:
    write_params({"train": {"device": "cuda"}})
    result = run("python", "-m", "pipeline.train", check=False)
    assert result.returncode == 1
    assert "train.device is cuda, but torch sees no GPU here: set it to auto" in result.stderr
    write_params({"train": {"device": "auto"}})
    assert run("python", "-m", "pipeline.train").returncode == 0


def test_out_of_memory_names_the_cure(chips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust(*arguments: object) -> None:
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(train, "augment", exhaust)
    with pytest.raises(SystemExit, match=r"out of memory: lower train\.batch_size \(now 16\)"):
        train.main()


def test_an_unknown_network_is_refused(chips: Path) -> None:
    write_params({"model": {"network": "vgg"}})
    result = run("python", "-m", "pipeline.train", check=False)
    assert result.returncode == 1
    assert "model.network is 'vgg': use one of" in result.stderr


def test_training_stops_early_when_validation_does_not_improve(chips: Path) -> None:
    slow = {"epochs": 40, "patience": 2, "learning_rate": 1e-12, "progressive": False}
    write_params({"train": slow})
    result = train.train(read_params(), read_chips())
    assert len(result.history) == result.best_epoch + 2 < 40


def test_only_epochs_at_full_size_can_be_the_best(chips: Path) -> None:
    write_params({"train": {"epochs": 10, "patience": 1}})
    result = train.train(read_params(), read_chips())
    assert result.best_epoch >= 8


def test_an_export_that_differs_fails_the_stage_and_writes_nothing(
    chips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.bundle.onnx_graph.PARITY", 0.0)
    with pytest.raises(SystemExit, match="the exported model differs from the trained one"):
        train.main()
    assert not Path("model").exists()
    assert list(Path("artifacts/checkpoints").rglob("*.pt"))  # the training is not lost


def test_missing_chips_say_what_to_run(workdir: Path) -> None:
    result = run("python", "-m", "pipeline.train", check=False)
    assert result.returncode == 1
    assert "artifacts/chips is missing: run `dvc repro`" in result.stderr


def test_without_a_terminal_progress_is_one_line_an_epoch(chips: Path) -> None:
    lines = run("python", "-m", "pipeline.train").stderr.splitlines()
    assert [line.split()[:2] for line in lines] == [["epoch", "1/2"], ["epoch", "2/2"]]
    for word in ("loss", "validation loss", "accuracy", "images/s"):
        assert word in lines[0]
