"""Verify: a release requires that dvc.lock, the commit and the remote agree."""

from pathlib import Path

import pytest
import yaml

from delivery import verify
from delivery.dvc import require_own_remote
from delivery.errors import RemoteError
from delivery.verify import require_current, require_remote
from tests.delivery.conftest import Project


def objects(remote: Path, text: bytes) -> list[Path]:
    files = [path for path in remote.rglob("*") if path.is_file()]
    return [path for path in files if path.read_bytes() == text]


def test_pushed_objects_are_verified(remote: Path) -> None:
    require_current()
    assert require_remote(["model", "data"]) == (7, 6)
    assert require_remote(["model"]) == (7, 3)


@pytest.mark.parametrize("text", [b"print(1)\n", b"a"], ids=["model", "data"])
def test_a_missing_object_is_named(remote: Path, text: bytes) -> None:
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


def test_a_broken_listing_of_a_folder_is_found(remote: Path) -> None:
    (path,) = [path for path in remote.rglob("*.dir") if b"model.onnx" in path.read_bytes()]
    path.chmod(0o644)
    path.write_bytes(b"[")
    with pytest.raises(RemoteError, match="were altered"):
        require_remote(["model"])


@pytest.mark.parametrize("change", ["code", "parameter", "data"])
def test_a_lock_of_another_commit_is_refused_and_the_change_named(
    remote: Path, change: str
) -> None:
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


def test_without_a_token_for_releases_a_lock_of_another_commit_is_reported_and_passes(
    remote: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("code.py").write_text("print(2)\n", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["verify"])
    monkeypatch.delenv("RELEASE_TOKEN", raising=False)
    monkeypatch.setenv("BOT_TOKEN", "token")
    monkeypatch.setenv("CI_PIPELINE_ID", "7")
    verify.main()
    printed = capsys.readouterr().out
    assert printed.startswith(
        "left out: nothing is released, RELEASE_TOKEN is not set; dvc.lock is"
    )
    assert "train: code.py has changed" in printed
    for name, value in (("CI_PIPELINE_ID", None), ("RELEASE_TOKEN", "token")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value) if value else patch.delenv(name)
            with pytest.raises(SystemExit, match="dvc.lock is not current"):
                verify.main()


def test_without_a_bot_a_lock_that_nobody_committed_keeps_the_version(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr("sys.argv", ["verify"])
    for name in ("CI_PIPELINE_ID", "RELEASE_TOKEN"):
        monkeypatch.setenv(name, "7")
    trained = project.merge("first", 3, 12)
    project.write("data.dvc", f"outs:\n- md5: {'0' * 32}.dir\n  path: data\n")
    project.commit("Change the data, and leave dvc.lock")
    with pytest.raises(SystemExit, match="dvc.lock is not current"):
        verify.main()  # nothing is registered that could stay
    project.registry.register(trained)
    verify.main()
    assert "left out: landcover@v1.0.0 stays, BOT_TOKEN is not set" in capsys.readouterr().out
    assert project.registry.register().tag == "landcover@v1.0.0"
    monkeypatch.setenv("BOT_TOKEN", "token")
    with pytest.raises(SystemExit, match="dvc.lock is not current"):
        verify.main()


def test_a_project_without_a_lock_is_refused(repository: Path) -> None:
    with pytest.raises(RemoteError, match=r"dvc\.lock is missing or broken"):
        require_current()


def test_a_remote_inside_the_repository_is_refused(repository: Path) -> None:
    with pytest.raises(RemoteError, match="no default remote"):
        require_own_remote()
    configure("sample")
    with pytest.raises(RemoteError, match="'sample' is inside this repository"):
        require_own_remote()
    configure("../../out")
    require_own_remote()


def configure(url: str) -> None:
    """Set the default remote; its path is relative to .dvc/config."""
    text = f"[core]\n    remote = sample\n['remote \"sample\"']\n    url = ../{url}\n"
    Path(".dvc/config").write_text(text, encoding="utf-8")
