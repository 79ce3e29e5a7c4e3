"""Fixtures of the training side: chips as preprocess leaves them, and a trained project."""

import shutil
from pathlib import Path

import pytest

from pipeline import evaluate, load, preprocess, train
from pipeline.sources.folder import Folder
from tests.conftest import write_images, write_params


@pytest.fixture(scope="session")
def _chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chips")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_params()
        data = write_images(folder / "data", each=20)
        Folder(data).dataset().write(data)
        load.main()
        preprocess.main()
    return folder


@pytest.fixture
def chips(_chips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory in which load and preprocess have run."""
    folder = tmp_path / "chips"
    shutil.copytree(_chips, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def _trained(_chips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "project"
    shutil.copytree(_chips, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train.main()
        evaluate.main()
    return folder


@pytest.fixture
def trained(_trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory in which every stage has run."""
    folder = tmp_path / "trained"
    shutil.copytree(_trained, folder)
    monkeypatch.chdir(folder)
    return folder
