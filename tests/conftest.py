"""Fixtures that all tests share: real small projects, real small images."""

import os
import signal
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import yaml
from filelock import FileLock
from httpx._transports import default as transport
from PIL import Image

from tests import skips, system

# Test workers share the cores; threads that wait for each other by spinning would starve them.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["DVC_NO_ANALYTICS"] = "1"
# Under `make test`, each make in a test would be a part of it, and say where it enters and leaves.
for variable in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
    os.environ.pop(variable, None)
# httpx reads all certificates anew for each request outside a client: 35 ms of CPU.
vars(transport)["create_ssl_context"] = cache(httpx.create_ssl_context)

ROOT = Path(__file__).parent.parent
# As the template ships them: a team changes those of params.yaml, and the tests hold all the same.
PARAMS = ROOT / "tests" / "make" / "params.yaml"
SIZE = 32  # pixels of a test chip

# Trains in a second; what each test needs on top, it says.
QUICK = {
    "model": {"width": 4},
    "train": {
        "epochs": 2,
        "batch_size": 16,
        "precision": "float32",
        "device": "cpu",
        "patience": 0,
    },
    "evaluate": {"bootstrap_samples": 100, "latency_runs": 10},
}


def chip(label: int, index: int, bands: int = 3) -> npt.NDArray[np.uint8]:
    """A textured chip (SIZE, SIZE, bands) whose brightness tells its class."""
    rng = np.random.default_rng((label, index))
    noise = rng.integers(0, 60, (SIZE, SIZE, bands))
    return (noise + 45 * label + 10).astype(np.uint8)


def write_images(
    folder: Path, classes: Sequence[str] = ("class-0", "class-1", "class-2"), each: int = 12
) -> Path:
    """Write a directory a class with PNG chips; returns the folder."""
    for label, name in enumerate(classes):
        directory = folder / name
        directory.mkdir(parents=True, exist_ok=True)
        for index in range(each):
            Image.fromarray(chip(label, index)).save(directory / f"{index:03d}.png")
    return folder


def write_params(changes: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Write the shipped params.yaml into the working directory, quick and with `changes`."""
    document = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    for source in (QUICK, changes or {}):
        for section, values in source.items():
            document[section].update(values)
    Path("params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")


def run(*arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command of the environment, such as `python -m pipeline.load`, as a person would."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    }
    return subprocess.run(
        arguments, check=check, text=True, capture_output=True, env=environment, **options
    )


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """Let one worker build a folder that all workers of a run read; returns it.

    pytest-xdist gives each worker a folder of its own below the one of the run.
    """
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"shared-{name}"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = factory.mktemp(name) / name
            unfinished.mkdir()
            build(unfinished)
            unfinished.rename(folder)
    return folder


def pytest_configure() -> None:
    """Let tests interrupt their programs, also where this run is in the background of a shell.

    There SIGINT is ignored, and every program would inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _signals_are_heard() -> Iterator[None]:
    """A signal that a test has left ignored, every program of the tests behind it would ignore."""
    yield
    watched = (signal.SIGINT, signal.SIGTERM)
    ignored = [it.name for it in watched if signal.getsignal(it) is signal.SIG_IGN]
    if ignored:  # the tests behind it can do nothing for it
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert ignored == []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test-fast` leaves out, and put the files that have such tests first.

    What starts programs is slow: in the end one worker would run it while the others wait. Of tests
    with one name `--dist loadfile` runs one only, so that no two may have the same.
    """
    assert len({item.nodeid for item in items}) == len(items)
    slow = set()
    for item in items:
        if system.is_system_test(item):
            item.add_marker(pytest.mark.system)
            slow.add(item.path)
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a test that is skipped in CI fail, unless its reason stands on the list."""
    report = yield
    skips.judge(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a file that is skipped as a whole."""
    report = yield
    skips.judge(report)
    return report


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a quick params.yaml."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_params()
    return folder


@pytest.fixture(scope="session")
def _repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_once(tmp_path_factory, "repository", _start_repository)


def _start_repository(folder: Path) -> None:
    run("git", "init", "--quiet", "--initial-branch=main", cwd=folder)
    run("git", "config", "user.name", "Test", cwd=folder)
    run("git", "config", "user.email", "test@example.org", cwd=folder)
    run("dvc", "init", "--quiet", cwd=folder)
    run("dvc", "config", "core.analytics", "false", cwd=folder)
    shutil.copy(ROOT / ".gitignore", folder / ".gitignore")
    run("git", "add", ".", cwd=folder)
    run("git", "commit", "--quiet", "--message", "start", cwd=folder)


@pytest.fixture
def repository(_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A real Git and DVC repository with a quick params.yaml, as the working directory."""
    folder = tmp_path / "repository"
    shutil.copytree(_repository, folder)
    monkeypatch.chdir(folder)
    write_params()
    return folder


@pytest.fixture
def commit(repository: Path) -> Callable[[str], str]:
    """Commit everything in `repository`; returns the hash."""

    def commit_all(message: str) -> str:
        run("git", "add", "--all", ".", cwd=repository)
        run("git", "commit", "--quiet", "--message", message, cwd=repository)
        return run("git", "rev-parse", "HEAD", cwd=repository).stdout.strip()

    return commit_all


@pytest.fixture(scope="session")
def eurosat() -> Path:
    """The real EuroSAT RGB archive, where this machine has it."""
    default = ROOT.parent / "shared" / "data" / "EuroSAT_RGB.zip"
    path = Path(os.environ.get("EUROSAT", default))
    if not path.is_file():
        pytest.skip("no EuroSAT archive here: set EUROSAT=path/to/EuroSAT_RGB.zip")
    return path
