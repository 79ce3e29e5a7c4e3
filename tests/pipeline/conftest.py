"""Fixtures of the training side: chips as preprocess leaves them, and a trained project."""

import shutil
from pathlib import Path

import pytest

from pipeline import evaluate, load, preprocess, train
from pipeline.sources.folder import Folder
from tests.conftest import built_once, write_images, write_params


@pytest.fixture(scope="session")
def _chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def build(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            write_params()
            data = write_images(folder / "data", each=20)
            Folder(data).dataset().write(data)
            load.main()
            preprocess.main()

    return built_once(tmp_path_factory, "chips", build)


@pytest.fixture
def chips(_chips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory in which load and preprocess have run."""
    folder = tmp_path / "chips"
    shutil.copytree(_chips, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def _trained(_chips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def build(folder: Path) -> None:
        shutil.copytree(_chips, folder, dirs_exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            train.main()
            evaluate.main()

    return built_once(tmp_path_factory, "trained", build)


@pytest.fixture
def trained(_trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory in which every stage has run."""
    folder = tmp_path / "trained"
    shutil.copytree(_trained, folder)
    monkeypatch.chdir(folder)
    return folder
