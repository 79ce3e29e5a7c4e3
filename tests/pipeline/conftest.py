"""Fixtures of the training side: chips as preprocess leaves them, and a trained project."""

import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess
from warnings import catch_warnings

import pytest
import torch

from dvc.cli import main as dvc_main

from pipeline import evaluate, load, preprocess, train
from pipeline.ingest import ingest
from pipeline.sources.folder import Folder
from tests.conftest import built_once, write_images, write_params
from tests.make.trained import train_on_outlines, train_on_ports, train_on_scenes


def call(main: Callable[[list[str]], None], *arguments: str) -> CompletedProcess[str]:
    """Run a command in this process: exit code and output, as `run` has them."""
    out, error = io.StringIO(), io.StringIO()
    code = 0
    with redirect_stdout(out), redirect_stderr(error):
        try:
            main(list(arguments))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
            error.write("" if isinstance(end.code, int) else str(end.code))
    return CompletedProcess(arguments, code, out.getvalue(), error.getvalue())


def dvc(*arguments: str) -> None:
    """Run DVC in this process; as a program it takes a second to start."""
    with catch_warnings(action="ignore"):
        assert dvc_main([*arguments, "--quiet"]) == 0, arguments


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch with two threads, although `OMP_NUM_THREADS` is 1 in all tests."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


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
def copy_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Copy a project that tests share, and change into the copy."""

    def copy(project: Path) -> Path:
        folder = tmp_path / "copy"
        shutil.copytree(project, folder)
        monkeypatch.chdir(folder)
        return folder

    return copy


@pytest.fixture
def chips(_chips: Path, copy_of: Callable[[Path], Path]) -> Path:
    """Working directory in which load and preprocess have run."""
    return copy_of(_chips)


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
def trained(_trained: Path, copy_of: Callable[[Path], Path]) -> Path:
    """Working directory in which every stage has run."""
    return copy_of(_trained)


@pytest.fixture(scope="session")
def _ingested(_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def build(folder: Path) -> None:
        shutil.copytree(_repository, folder / "project")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder / "project")
            write_params()
            ingest(Folder(write_images(folder / "images")))

    return built_once(tmp_path_factory, "ingested", build)


@pytest.fixture
def ingested(
    _ingested: Path, copy_of: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Repository whose data are 36 images, as the working directory; `../images` has them too."""
    project = copy_of(_ingested) / "project"
    monkeypatch.chdir(project)
    return project


@pytest.fixture(scope="session")
def _found(_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_once(tmp_path_factory, "found", lambda folder: train_on_ports(folder, _repository))


@pytest.fixture
def found(_found: Path, copy_of: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory in which every stage has found bright boxes in five ports."""
    project = copy_of(_found) / "project"
    monkeypatch.chdir(project)
    return project


@pytest.fixture(scope="session")
def _outlined(_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_once(
        tmp_path_factory, "outlined", lambda folder: train_on_outlines(folder, _repository)
    )


@pytest.fixture
def outlined(
    _outlined: Path, copy_of: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Working directory in which every stage has outlined bright angles in five ports."""
    project = copy_of(_outlined) / "project"
    monkeypatch.chdir(project)
    return project


@pytest.fixture(scope="session")
def _mapped(_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_once(
        tmp_path_factory, "mapped", lambda folder: train_on_scenes(folder, _repository)
    )


@pytest.fixture
def mapped(_mapped: Path, copy_of: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory in which every stage has mapped two dates of a place."""
    project = copy_of(_mapped) / "project"
    monkeypatch.chdir(project)
    return project
