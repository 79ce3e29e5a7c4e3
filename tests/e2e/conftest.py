"""The story's world, and what its steps share. A step that fails ends the story, by its name."""

import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.conftest import built_once
from tests.e2e.world import RUNNER, World, adopt
from tests.fakes.gitlab import server

FAILED: dict[str, str] = {}
"""File of a story -> the step at which it ended."""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A team's project that has trained once, for every story; copy it before you change it."""
    return built_once(tmp_path_factory, "trained", adopt)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Iterator[World]:
    """A team on its first day."""
    for program in (str(RUNNER), "rsync"):
        if shutil.which(program) is None:
            pytest.skip(f"{program.rpartition('/')[2]} is not installed: make setup-e2e")
    with server.serving() as api:
        yield World(tmp_path_factory.mktemp("world"), api, trained)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember the step that failed."""
    report = yield
    if report.failed and item.get_closest_marker("step"):
        FAILED[item.path.name] = item.name
    return report


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what comes after a step that failed."""
    if item.get_closest_marker("step") and (name := FAILED.get(item.path.name)):
        pytest.skip(f"the story ended at {name}")
