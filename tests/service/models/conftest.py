"""A registry of several models, and workers that serve one of them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import built_once
from tests.make import harbours, maps
from tests.make.projects import Published, contents
from tests.make.replicas import Worker
from tests.make.repositories import CONFIG

V1, V2, SHIPS, AREAS = "landcover@v1.0.0", "landcover@v1.1.0", "ships@v1.0.0", "areas@v1.0.0"
HARBOUR = "harbour@v1.0.0"
BANDS_OF_SHIPS = ("B02", "B03", "B04")


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a `project` with two land covers, ships of three bands, maps, and boxes."""

    def build(folder: Path) -> None:
        project = Published(folder / "project")
        project.write(".dvc/config", CONFIG.format("../../project-remote"))  # the folder moves
        project.publish_bundle(V1, seed=1)
        project.publish_bundle(V2, seed=2)
        project.tag("landcover#staging#1", f"{V2}^0")
        project.tag("landcover#production#2", f"{V1}^0")
        project.publish_bundle(SHIPS, seed=3, bands=BANDS_OF_SHIPS, name="ships")
        areas = maps.make_bundle(folder / "areas", name="areas")
        project.publish(AREAS, contents(areas))
        harbour = harbours.make_bundle(folder / "harbour")
        project.publish(HARBOUR, contents(harbour))
        project.tag("experiment/12-345")

    return built_once(tmp_path_factory, "named-models", build)


@pytest.fixture(scope="module")
def shared(bundle: Path, registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Worker:
    """A worker for requests that change nothing."""
    return Worker(bundle, registry / "project", tmp_path_factory.mktemp("shared") / "state")


@pytest.fixture
def counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Workers count in this folder, as processes of one service do."""
    folder = tmp_path / "counters"
    folder.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    return folder


@pytest.fixture
def start(bundle: Path, registry: Path, tmp_path: Path, counters: Path) -> Callable[..., Worker]:
    """Start a worker of one replica; settings in lower case."""

    def begin(**settings: object) -> Worker:
        repository = settings.pop("repository", registry / "project")
        return Worker(bundle, repository, tmp_path / "state", **settings)  # type: ignore[arg-type]

    return begin
