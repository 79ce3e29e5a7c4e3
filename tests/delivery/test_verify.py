"""Verify: dvc.lock, the commit and the remote agree, or nothing is released."""

from pathlib import Path

import pytest
import yaml

from delivery.dvc import require_own_remote
from delivery.errors import RemoteError
from delivery.verify import require_current, require_remote
from tests.conftest import run

STAGES = """\
stages:
  load:
    cmd: echo loaded
    deps: [data]
  train:
    cmd: mkdir model && cp code.py model/model.onnx && echo {} > model/model.json
    deps: [code.py]
    params: [train]
    outs: [model]
"""


@pytest.fixture
def remote(repository: Path, tmp_path: Path) -> Path:
    """The working directory is a trained project, pushed to a remote of its own."""
    folder = tmp_path / "remote"
    run("dvc", "remote", "add", "--default", "team", str(folder), cwd=repository)
    Path("code.py").write_text("print(1)\n", encoding="utf-8")
    Path("dvc.yaml").write_text(STAGES, encoding="utf-8")
    Path("data").mkdir()
    for name in "ab":
        Path("data", name).write_text(name, encoding="utf-8")
    run("dvc", "add", "--quiet", "data", cwd=repository)
    run("dvc", "repro", "--quiet", cwd=repository)
    run("dvc", "push", "--quiet", cwd=repository)
    return folder


def objects(remote: Path, text: bytes) -> list[Path]:
    files = [path for path in remote.rglob("*") if path.is_file()]
    return [path for path in files if path.read_bytes() == text]


def test_what_was_pushed_is_verified(remote: Path) -> None:
    require_current()
    assert require_remote(["model", "data"]) == (6, 6)
    assert require_remote(["model"]) == (6, 3)


@pytest.mark.parametrize("text", [b"print(1)\n", b"a"], ids=["model", "data"])
def test_an_object_that_is_missing_is_named(remote: Path, text: bytes) -> None:
    (path,) = objects(remote, text)
    path.unlink()
    with pytest.raises(RemoteError, match=f"missing in the DVC remote.*{path.name[:8]}"):
        require_remote(["model"])


def test_a_flipped_byte_is_found(remote: Path) -> None:
    (path,) = objects(remote, b"print(1)\n")
    path.chmod(0o644)
    path.write_bytes(b"print(2)\n")
    with pytest.raises(RemoteError, match="1 objects of model were altered"):
        require_remote(["model"])


def test_a_list_of_files_that_is_broken_is_found(remote: Path) -> None:
    (path,) = [path for path in remote.rglob("*.dir") if b"model.onnx" in path.read_bytes()]
    path.chmod(0o644)
    path.write_bytes(b"[")
    with pytest.raises(RemoteError, match="were altered"):
        require_remote(["model"])


@pytest.mark.parametrize("change", ["code", "parameter", "data"])
def test_a_lock_of_another_commit_is_refused_with_what_changed(remote: Path, change: str) -> None:
    if change == "code":
        Path("code.py").write_text("print(3)\n", encoding="utf-8")
    elif change == "parameter":
        document = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
        document["train"]["epochs"] = 99
        Path("params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    else:
        document = yaml.safe_load(Path("data.dvc").read_text(encoding="utf-8"))
        document["outs"][0]["md5"] = "0" * 32 + ".dir"
        Path("data.dvc").write_text(yaml.safe_dump(document), encoding="utf-8")
    said = {"code": "code.py has changed", "parameter": "train", "data": "another version"}
    with pytest.raises(RemoteError, match=f"not current.*{said[change]}.*dvc repro"):
        require_current()


def test_a_project_without_a_lock_is_told(repository: Path) -> None:
    with pytest.raises(RemoteError, match=r"dvc\.lock is missing or broken"):
        require_current()


def test_a_remote_inside_the_repository_is_refused(repository: Path) -> None:
    with pytest.raises(RemoteError, match="no default remote"):
        require_own_remote()
    run("dvc", "remote", "add", "--default", "sample", "sample", cwd=repository)
    with pytest.raises(RemoteError, match="'sample' lies in this repository"):
        require_own_remote()
    run("dvc", "remote", "add", "--force", "--default", "sample", "../out", cwd=repository)
    require_own_remote()
