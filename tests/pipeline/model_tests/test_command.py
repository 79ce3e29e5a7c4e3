"""`python -m pipeline.model_tests` on trained models of every task, and the gate behind it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from contracts.model_tests import ModelTest, ModelTests
from pipeline import gate, report
from pipeline.model_tests.__main__ import main
from tests.conftest import ROOT, run
from tests.make.model_tests import make_brittle, write_tests
from tests.make.processes import until
from tests.pipeline.conftest import call

TESTS = Path("reports/tests.json")
QUICK: dict[str, dict[str, Any]] = {
    "classes": {"kind": "slice", "by": "class", "max_drop": 1.0, "min_chips": 2},
    "dark": {"kind": "slice", "by": "brightness", "parts": 2, "max_drop": 1.0, "min_chips": 2},
    "groups": {"kind": "slice", "by": "group", "max_drop": 1.0, "min_chips": 2},
    "sizes": {"kind": "slice", "by": "size", "max_drop": 1.0, "min_chips": 2},
    "months": {"kind": "season", "max_drop": 1.0},
    "bright": {"kind": "brightness", "gains": [0.99, 1.01], "max_drop": 0.2, "min_quality": 0.1},
    "noise": {"kind": "noise", "sigmas": [1e-3], "max_drop": 0.2},
    "shift": {"kind": "shift", "pixels": [1], "max_drop": 0.3},
    "turns": {"kind": "invariance", "under": ["flip", "turn"], "max_changed": 0.6},
    "latency": {"kind": "latency", "runs": 20, "max_cpu": 10_000.0},
    "memory": {"kind": "memory", "max_peak": 4096.0},
}


def results() -> dict[str, ModelTest]:
    found = ModelTests.model_validate_json(TESTS.read_bytes())
    return {test.name: test for test in found.tests}


def applied() -> dict[str, str]:
    return {name: test.state for name, test in results().items() if test.state != "passed"}


def start(*words: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "RUN_OF": str(Path.cwd())}
    line = [sys.executable, "-m", "pipeline.model_tests", *words]
    return subprocess.Popen(
        line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def left() -> list[Path]:
    """Processes of a run that `start` started in this directory."""
    mark, found = f"RUN_OF={Path.cwd()}".encode(), []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            found += [environment] if mark in environment.read_bytes().split(b"\0") else []
    return found


def test_a_classifier_is_tested_and_a_brittle_one_is_refused(trained: Path) -> None:
    """The classes of these images differ by their brightness alone, and this model knows it."""
    make_brittle()
    half = {"kind": "brightness", "gains": [0.5], "max_drop": 0.1}
    write_tests(QUICK | {"half": half, "warned": half | {"severity": "warns", "needs": ["half"]}})
    with start("--strict") as process:
        _, said = process.communicate()
    assert process.returncode == 1 and "error: 1 of 13 tests of the model do not hold" in said
    assert "half failed: accuracy 0.3333 at x 0.5, -" in said
    assert "against clean, wanted -0.1 at worst" in said
    assert "warned" not in said, "it only warns"
    found = applied()
    assert found.pop("half") == "failed" and found.pop("warned") == "skipped"
    assert found == {
        "groups": "not applicable",
        "sizes": "not applicable",
        "months": "not applicable",
    }
    assert results()["groups"].text == "images of folders have no group: slice by place"
    every = results()["classes"].points
    assert [point.at for point in every] == ["class-0", "class-1", "class-2"]
    memory = {point.at: point.value for point in results()["memory"].points}
    assert 10 < memory["bare"] < memory["peak"] < 4096
    assert all(
        test.cpu_seconds > 0 and test.peak_mib > 10 for test in results().values() if test.attempts
    )


def test_a_segmentation_is_tested_and_the_gate_asks_the_tests(mapped: Path) -> None:
    write_tests(QUICK)
    assert call(main).returncode == 0
    assert applied() == {"sizes": "not applicable", "months": "not applicable"}
    assert results()["noise"].measure == "mean IoU"
    opened = call(gate.main, "--against", "HEAD")
    assert opened.returncode == 0 and "pass  test turns: " in opened.stdout
    assert call(report.main, "--against", "HEAD").returncode == 0
    text = Path("reports/report.md").read_text("utf-8")
    assert "## Tests of the model\n\n9 passed, 2 not applicable; " in text
    write_tests({"noise": {"kind": "noise", "sigmas": [0.1, 2.0], "max_drop": 0.2}})
    done = call(main)
    assert done.returncode == 0, "a stage records; the gate judges"
    assert applied() == {"noise": "failed"}
    closed = call(gate.main, "--against", "HEAD")
    assert closed.returncode == 1 and "test noise: failed: mean IoU 0." in closed.stderr
    TESTS.unlink()
    closed = call(gate.main, "--against", "HEAD")
    assert closed.returncode == 1
    assert "reports/tests.json is missing: run `make test-model`" in closed.stderr


def test_a_detector_is_tested(found: Path) -> None:
    write_tests(QUICK)
    assert call(main).returncode == 0
    assert applied() == {"groups": "not applicable", "months": "not applicable"}
    assert "no group has 2 test chips, and a rest" in results()["groups"].text
    assert results()["shift"].measure == "AP50" and len(results()["shift"].points) == 4
    assert results()["turns"].points[0].at == "a flip"


def test_a_slice_without_a_chip_is_refused_before_anything_runs(trained: Path) -> None:
    write_tests(QUICK | {"mine": QUICK["classes"] | {"only": ["class-7"]}})
    done = call(main)
    assert done.returncode == 1 and "model_tests: " not in done.stdout and not TESTS.exists()
    assert done.stderr.startswith("error: tests.yaml: tests.mine.only: 'class-7' has no test chip")
    write_tests({"turns": QUICK["turns"]})
    assert call(main).returncode == 0, "the next good one works"


def test_a_model_of_other_data_or_none_is_refused(trained: Path) -> None:
    write_tests({"turns": QUICK["turns"]})
    data = Path("artifacts/chips/dataset.json")
    data.write_text(data.read_text("utf-8").replace("class-1", "class-9"), "utf-8")
    done = call(main)
    assert done.returncode == 1 and "was trained on other classes or bands" in done.stderr
    shutil.rmtree("model")
    assert "model/ is missing" in call(main).stderr


def test_ctrl_c_ends_the_tests_and_keeps_the_last_results(trained: Path) -> None:
    slow = {"kind": "latency", "runs": 100_000, "max_cpu": 10_000.0}
    write_tests({"slow": slow})
    TESTS.write_text("before", "utf-8")
    with start() as process:
        assert process.stdout is not None
        assert "1 tests of" in process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not children.read_text("ascii").split():
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    until(lambda: not left(), "nothing is left")
    assert TESTS.read_text("utf-8") == "before"


def test_check_reads_the_file_and_runs_nothing(trained: Path) -> None:
    write_tests(QUICK)
    shutil.rmtree("model")
    assert call(main, "--check").stdout == "model_tests: 11 tests, nothing to object\n"


def test_a_clone_without_the_room_has_a_gate_and_a_report(mapped: Path, tmp_path: Path) -> None:
    source = tmp_path / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(source / "pipeline" / "model_tests")
    script = f"import sys; sys.path.insert(0, {str(source)!r}); from pipeline import gate, report; "
    script += "assert gate.__file__.startswith(sys.path[0]); "
    script += "[command.main(['--against', 'HEAD']) for command in (report, gate)]"
    done = run(sys.executable, "-c", script)
    assert "the gate is open: 6 of 6 hold" in done.stdout
    assert "Tests of the model" not in Path("reports/report.md").read_text("utf-8")


def test_the_shipped_sample_passes_what_ships() -> None:
    """Of the commit: a working tree may hold another model. A team's project has its own."""
    shown = run("git", "show", "HEAD:reports/tests.json", cwd=ROOT).stdout
    shipped = ModelTests.model_validate(json.loads(shown))
    assert all(test.holds for test in shipped.tests)
    assert {test.state for test in shipped.tests} <= {"passed", "warned", "not applicable"}
