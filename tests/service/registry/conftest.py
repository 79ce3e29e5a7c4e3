"""Repositories to read and to change, and an empty cache."""

from pathlib import Path

import pytest

from tests.make.repositories import Project, make_trained


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with two versions, made by DVC itself."""
    return make_trained(tmp_path_factory.mktemp("trained") / "project")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A small repository to change, with nothing in it."""
    return Project(tmp_path / "project")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty folder of the state."""
    return tmp_path / "state"
