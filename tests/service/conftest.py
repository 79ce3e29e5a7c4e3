"""Bundles and running services that the tests of the service share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import built_once
from tests.make.bundles import make_bundle
from tests.make.databases import KINDS, Postgres, postgres
from tests.make.server import Server, serving


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with 4 bands of uint16, 64 x 64 pixels, 10 classes."""
    folder = built_once(tmp_path_factory, "bundle", lambda folder: make_bundle(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real service with two workers, shared by the tests of a module."""
    with serving(bundle, tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="session")
def cluster() -> Iterator[Postgres]:
    """A running PostgreSQL."""
    with postgres() as running:
        yield running


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'feedback.db'}"
    found: str = request.getfixturevalue("cluster").new()
    return found
