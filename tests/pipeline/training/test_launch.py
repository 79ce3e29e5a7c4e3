"""The stage starts its own processes: a death costs an epoch, a sentence ends the training."""

import gc
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from torch.distributed import run as torchrun

from pipeline import train
from pipeline.data.prepared import read_prepared
from pipeline.errors import ParameterError, command
from pipeline.params import read_params
from pipeline.training import launch, processes
from pipeline.training.processes import join
from tests.conftest import PARAMS, ROOT, write_params
from tests.make import ranks
from tests.make.processes import ended, until
from tests.make.zygote import rank_launcher
from tests.pipeline.conftest import call

Start = Callable[..., CompletedProcess[str]]

MEET = """
import os, signal, time
from pathlib import Path

import torch

from pipeline.errors import TrainingError, command
from pipeline.params import read_params
from pipeline.training.processes import join

@command
def main():
    with join(read_params().train) as group:
        work(group)

def add(group):
    total = torch.ones(1)
    group.add(total)
    if group.is_first:
        Path("total").write_text(f"{total.item():g}")

{work}

main()
"""
"""A module that ranks run instead of the stage, in a hundredth of its time."""


def write_rank(work: str) -> None:
    """Write the module that the ranks run."""
    Path("rank.py").write_text(MEET.replace("{work}", work), encoding="utf-8")


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Start]:
    """Starts the ranks of params.yaml, as the stage does; torchrun takes over the signals."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    for name in ("PYTHONUNBUFFERED", "TORCH_CPP_LOG_LEVEL", "GLOO_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "executable", rank_launcher())

    def start(*words: str) -> CompletedProcess[str]:
        def run(_: object) -> None:
            if words:
                torchrun.run(torchrun.parse_args(words))
            else:
                command(launch.launch)(read_params().train, "rank")

        with warnings.catch_warnings():  # torchrun leaves it to Python to close the logs
            warnings.simplefilter("ignore", ResourceWarning)
            done = call(run)
            gc.collect()
        out, error = capfd.readouterr()
        return CompletedProcess("rank", done.returncode, out + done.stdout, error + done.stderr)

    yield start
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture
def pair(workdir: Path) -> Path:
    """Directory whose params.yaml wants two processes."""
    write_params({"train": {"processes": 2}})
    return workdir


def learn() -> None:
    """Train as one of the ranks; the first writes the weights."""
    params = read_params()
    with join(params.train) as group:
        result = train.train(params, read_prepared(), group)
        if group.is_first:
            result.checkpoints.clear()
            torch.save(result.model.state_dict(), "weights.pt")


KILLED = """
import os, signal
from pathlib import Path

from pipeline import train
from tests.pipeline.training.test_launch import learn

augment, calls = train.augment, 0

def augment_and_die(*arguments):
    global calls
    calls += 1
    # In the middle of the third epoch.
    if calls == 8 and os.environ["RANK"] == "1" and not Path("died").exists():
        Path("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return augment(*arguments)

train.augment = augment_and_die
learn()
"""


def test_a_rank_that_is_killed_costs_an_epoch_and_the_weights_stay_the_same(
    chips: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params({"train": {"processes": 2, "epochs": 3}})
    assert ranks.run(learn) == [None, None]
    expected = torch.load("weights.pt", weights_only=True)
    Path("rank.py").write_text(KILLED, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = start()
    assert done.returncode == 0, done.stderr
    assert "train: rank 1: killed by SIGKILL: all start again from the last che" in done.stderr
    assert "[rank 0] train: going on after epoch 2 of 3" in done.stdout
    assert done.stderr.count("[rank 0] epoch ") == 3
    found = torch.load("weights.pt", weights_only=True)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_rank_that_ends_with_a_sentence_ends_all_and_is_quoted(pair: Path, start: Start) -> None:
    write_rank("""
def work(group):
    print("I am", group.rank)
    if group.rank == 1:
        raise TrainingError("the disk of this machine is gone: mount it")
    add(group)
""")
    done = start()
    assert done.returncode == 1
    said = "error: rank 1: the disk of this machine is gone: mount it; the logs of all ranks are in"
    assert done.stderr.splitlines()[-1] == f"{said} artifacts/ranks/"
    assert "Traceback" not in done.stderr and "start again" not in done.stderr
    assert {"[rank 0] I am 0", "[rank 1] I am 1"} <= set(done.stdout.splitlines())
    logs = {path.parent.name: path.read_text() for path in Path("artifacts").rglob("stdout.log")}
    assert logs == {"0": "I am 0\n", "1": "I am 1\n"}
    Path("rank.py").write_text("print('well')")
    assert start().stdout.count("] well") == 2


def test_restarts_have_an_end_and_the_reason_is_named(pair: Path, start: Start) -> None:
    Path("rank.py").write_text("import os\nopen('starts', 'a').write('*')\nos.abort()")
    done = start()
    assert done.returncode == 1 and done.stderr.count("start again") == launch.RESTARTS == 3
    assert len(Path("starts").read_text()) > 3
    assert ": killed by SIGABRT (after 3 restarts); the logs of all" in done.stderr


def test_torchrun_restarts_a_group_that_meets_again(pair: Path, start: Start) -> None:
    write_rank("""
def work(group):
    add(group)
    if group.rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        Path("total").unlink(missing_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)
    group.add(torch.ones(1))
    add(group)
""")
    words = ("--standalone", "--nproc-per-node", "2", "--max-restarts", "1", "-m", "rank")
    done = start(*words)
    assert done.returncode == 0, done.stderr
    assert Path("total").read_text() == "2"


def adopt() -> int:
    """Fork a process that ends with this one; return its number."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.environ["TORCHELASTIC_RUN_ID"] = "7"
        processes.end_with_the_agent()
        os.write(writer, b".")
        time.sleep(600)
    os.read(reader, 1)
    return child


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends children")
def test_ranks_end_with_the_one_that_started_them(workdir: Path) -> None:
    (rank,) = ranks.run(adopt, WORLD_SIZE="1")
    until(lambda: ended([rank]))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"processes": 999}, "train.processes is 999, but this machine has"),
        ({"processes": 2, "nodes": 2}, "is 2, and nothing says where the other machines are"),
    ],
)
def test_what_cannot_run_here_is_refused_before_anything_starts(
    changes: dict[str, Any], said: str
) -> None:
    params = read_params(PARAMS).train.model_copy(update={"device": "cpu"} | changes)
    with pytest.raises(ParameterError, match=said):
        launch.launch(params, "no_such_module")


def test_more_processes_than_gpus_are_refused_and_auto_is_one_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    params = read_params(PARAMS).train.model_copy(update={"processes": 99})
    with pytest.raises(ParameterError, match="processes is 99, but torch sees 4 GPUs here: use a"):
        launch.launch(params, "no_such_module")
    assert launch.local_processes(params.model_copy(update={"processes": "auto"})) == 4


def test_one_process_starts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    params = read_params(PARAMS).train.model_copy(update={"device": "cpu"})
    assert not launch.is_launcher(params)
    assert not launch.is_launcher(params.model_copy(update={"processes": "auto"}))
    assert launch.is_launcher(params.model_copy(update={"processes": 2}))
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "a-host")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert not launch.is_launcher(params.model_copy(update={"processes": 2}))
