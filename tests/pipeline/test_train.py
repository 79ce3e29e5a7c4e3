"""Training: one seed, one model; a killed run resumes; errors name their cure."""

import hashlib
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import train
from pipeline.bundle.manifest import read_bundle
from pipeline.data.prepared import read_prepared
from pipeline.params import read_params
from pipeline.train import Result
from pipeline.training.checkpoint import Checkpoints
from tests.conftest import run, write_params
from tests.pipeline.conftest import call


def learn() -> Result:
    """Train as the stage does, without an export, which takes longer than these trainings."""
    return train.train(read_params(), read_prepared())


def weights(result: Result) -> str:
    """Digest of all weights and of the temperature."""
    state = result.model.state_dict()
    content = b"".join(state[name].contiguous().numpy().tobytes() for name in sorted(state))
    return hashlib.sha256(content).hexdigest()


def history() -> dict[str, Any]:
    """What DVCLive wrote, but for the speed, which no seed fixes."""
    root = Path("reports/training/plots/metrics")
    return {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        for path in root.rglob("*.tsv")
        if path.stem != "images_per_second"
    }


def test_training_learns(chips: Path) -> None:
    write_params({"train": {"epochs": 12}})
    learn()
    metrics = json.loads(Path("reports/training/metrics.json").read_text(encoding="utf-8"))
    assert metrics["train"]["loss"] < 1.0  # chance is 1.1
    assert len(history()["train/loss.tsv"].splitlines()) == 1 + 12


@pytest.mark.parametrize("change", [{"mirror": False}, {"noise": 0.5}])
def test_other_views_of_the_chips_give_another_model(chips: Path, change: dict[str, Any]) -> None:
    write_params({"train": {"epochs": 1}})
    first = weights(learn())
    write_params({"train": {"epochs": 1} | change})
    assert weights(learn()) != first


def test_the_stage_writes_a_bundle_and_leaves_no_checkpoint(trained: Path) -> None:
    assert read_bundle()[1].training.params["train"]["epochs"] == 2
    assert len(history()["train/loss.tsv"].splitlines()) == 1 + 2
    assert not list(Path("artifacts/checkpoints").rglob("*.pt"))


def test_two_runs_of_one_seed_give_one_bundle(trained: Path) -> None:
    first, curves = read_bundle()[1].sha256, history()
    train.main()
    assert (read_bundle()[1].sha256, history()) == (first, curves)


def test_another_seed_gives_another_model(chips: Path) -> None:
    first = weights(learn())
    write_params({"train": {"seed": 1}})
    assert weights(learn()) != first


def test_a_run_killed_after_any_epoch_ends_as_if_nothing_had_happened(
    chips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params({"train": {"epochs": 4}})
    result = learn()
    expected, curves = weights(result), history()
    saved = Checkpoints.save
    for killed_after in (1, 3):
        result.checkpoints.clear()

        def save_and_die(self: Checkpoints, epoch: int, state: dict[str, Any]) -> None:
            saved(self, epoch, state)
            if epoch == killed_after:
                raise InterruptedError

        monkeypatch.setattr(Checkpoints, "save", save_and_die)
        with pytest.raises(InterruptedError):
            learn()
        monkeypatch.setattr(Checkpoints, "save", saved)
        assert (weights(learn()), history()) == (expected, curves)


KILLED = """
import os, signal
from pipeline import train

augment, calls = train.augment, 0

def augment_and_die(*arguments):
    global calls
    calls += 1
    if calls == 8:  # the second of three batches in the third epoch
        os.kill(os.getpid(), signal.SIGKILL)
    return augment(*arguments)

train.augment = augment_and_die
train.main()
"""


def test_a_process_killed_in_the_middle_of_an_epoch_resumes(
    chips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_params({"train": {"epochs": 4}})
    result = learn()
    expected = weights(result)
    result.checkpoints.clear()
    assert run(sys.executable, "-c", KILLED, check=False).returncode == -signal.SIGKILL
    assert weights(learn()) == expected
    assert "train: going on after epoch 2 of 4" in capsys.readouterr().out


def test_a_checkpoint_of_other_parameters_or_data_is_not_used(
    chips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learn()
    write_params({"train": {"learning_rate": 0.5}})
    learn()
    table = Path("artifacts/chips/manifest.csv")
    table.write_text(table.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    learn()
    assert "going on" not in capsys.readouterr().out
    assert len(list(Path("artifacts/checkpoints").iterdir())) == 3


def test_timing_steps_does_not_change_what_is_trained(
    chips: Path, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = []

    def choose(step: Callable[[], None]) -> int:
        for index in range(3):
            step()
            timed.append(index)
        torch.set_num_threads(1)
        return 1

    monkeypatch.setattr(train, "choose_threads", choose)
    first = learn()
    first.checkpoints.clear()
    assert len(timed) == 3

    monkeypatch.setattr(train, "choose_threads", lambda step: 1)
    assert weights(learn()) == weights(first)


def test_a_resumed_run_has_the_threads_that_it_began_with(
    chips: Path, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(step: Callable[[], None]) -> int:
        torch.set_num_threads(1)
        return 1

    monkeypatch.setattr(train, "choose_threads", choose)
    learn()
    torch.set_num_threads(2)
    monkeypatch.setattr(train, "choose_threads", lambda step: pytest.fail("chosen again"))
    assert ", 1 thread, " in learn().hardware
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2)
    assert ", 2 threads, " in learn().hardware


def test_a_loss_that_is_nan_names_the_cure_and_keeps_the_old_model(trained: Path) -> None:
    before = Path("model/model.json").read_bytes()
    statistics = Path("artifacts/chips/statistics.json")
    document = json.loads(statistics.read_text(encoding="utf-8"))
    statistics.write_text(json.dumps(document | {"std": [0.0, 0.0, 0.0]}), encoding="utf-8")
    write_params({"train": {"seed": 3}})
    result = call(train.main)
    assert result.returncode == 1
    assert "the loss is nan in epoch 1: lower train.learning_rate" in result.stderr
    assert Path("model/model.json").read_bytes() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_an_error_and_auto_falls_back_to_the_cpu(chips: Path) -> None:
    write_params({"train": {"device": "cuda"}})
    result = call(train.main)
    assert result.returncode == 1
    assert "train.device is cuda, but torch sees no GPU here: set it to auto" in result.stderr
    write_params({"train": {"device": "auto", "epochs": 1}})
    assert "cores" in learn().hardware


def test_out_of_memory_names_the_cure(chips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust(*arguments: object) -> None:
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(train, "augment", exhaust)
    with pytest.raises(SystemExit, match=r"out of memory: lower train\.batch_size \(now 16\)"):
        train.main()


def test_an_unknown_network_or_task_is_refused(chips: Path) -> None:
    for key in ("network", "task"):
        write_params({"model": {key: "vgg"}})
        result = call(train.main)
        assert result.returncode == 1
        assert f"model.{key} is 'vgg': use one of" in result.stderr


def test_training_stops_early_when_validation_does_not_improve(chips: Path) -> None:
    slow = {"epochs": 40, "patience": 2, "learning_rate": 1e-12, "progressive": False}
    write_params({"train": slow})
    result = learn()
    assert len(result.history) == result.best_epoch + 2 < 40


def test_only_epochs_at_full_size_can_be_the_best(chips: Path) -> None:
    write_params({"train": {"epochs": 10, "patience": 1}})
    assert learn().best_epoch >= 8


def test_an_export_that_differs_fails_the_stage_and_writes_nothing(
    chips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.tasks.classification.PARITY", 0.0)
    with pytest.raises(SystemExit, match="the exported model differs from the trained one"):
        train.main()
    assert not Path("model").exists()
    assert list(Path("artifacts/checkpoints").rglob("*.pt"))  # the training is not lost


def test_without_a_terminal_progress_is_one_line_an_epoch(
    chips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learn()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[:2] for line in lines] == [["epoch", "1/2"], ["epoch", "2/2"]]
    for word in ("loss", "validation loss", "accuracy", "images/s"):
        assert word in lines[0]
