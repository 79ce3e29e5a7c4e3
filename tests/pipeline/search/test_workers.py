"""Workers as processes: killed, interrupted, and at two at a time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from pipeline.search.__main__ import main
from pipeline.search.journal import JOURNAL, open_storage
from pipeline.search.study import Search, counts, resume
from tests.conftest import write_params
from tests.pipeline.conftest import call

PLAN = {
    "space": {"train.learning_rate": {"float": [0.001, 0.05], "log": True}},
    "pruner": "none",
}
COMMAND = (sys.executable, "-m", "pipeline.search", "run")


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    for _ in range(2400):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it never came")


def running() -> list[int]:
    """Process numbers of the workers whose trial has an epoch behind it."""
    if not JOURNAL.is_file():
        return []
    try:
        found = [t for t in resume(open_storage()).trials() if t.state.name == "RUNNING"]
    except Exception:  # the search is being created
        return []
    return [int(t.user_attrs["worker"].split()[1]) for t in found if t.intermediate_values]


def begin(trials: int, epochs: int) -> subprocess.Popen[str]:
    """Start `python -m pipeline.search run`."""
    write_params({"train": {"epochs": epochs, "progressive": False}, "model": {"width": 4}})
    Path("search.yaml").write_text(yaml.safe_dump(PLAN | {"budget": {"trials": trials}}))
    return subprocess.Popen(
        COMMAND,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def checked(search: Search, trials: int) -> None:
    """Hold the history to what a search without kills would have: every point has its score."""
    counted = [trial for trial in search.trials() if counts(trial)]
    assert search.state == ("succeeded", f"{trials} trials")
    assert (
        len(counted) == trials
        and len({trial.params["train.learning_rate"] for trial in counted}) == trials
    )
    lost = [trial for trial in search.trials() if not counts(trial)]
    again = [t.params for t in counted if "origin" in t.user_attrs]
    assert lost and all(trial.params in again for trial in lost)


def test_killed_workers_and_a_killed_search_lose_no_trial(chips: Path) -> None:
    process = begin(trials=2, epochs=60)
    wait_for(running)
    os.kill(running()[0], signal.SIGKILL)
    wait_for(lambda: any("origin" in t.user_attrs for t in resume(open_storage()).trials()))
    wait_for(running)
    os.killpg(process.pid, signal.SIGKILL)  # all of them, as when the power goes
    process.wait()
    assert process.stdout
    process.stdout.close()
    with JOURNAL.open("ab") as file:
        file.write(b'{"op_code":6,"worker')
    done = call(main, "run")
    assert "search: succeeded (2 trials)" in done.stdout, done.stderr
    checked(resume(open_storage()), 2)
    assert Path("reports/search.json").is_file()


def test_ctrl_c_ends_with_a_sentence_and_leaves_no_process(chips: Path) -> None:
    process = begin(trials=9, epochs=500)
    wait_for(running)
    workers = [psutil.Process(number) for number in running()]
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "search: stopped after 0 trials; make search goes on from there" in output
    assert "Traceback" not in output
    assert not any(worker.is_running() for worker in workers)
    assert {trial.state.name for trial in resume(open_storage()).trials()} <= {"FAIL", "WAITING"}
