"""A DVC remote on Google Drive: the real client against a fake of the API."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.repo import Repo

from delivery.errors import RemoteError
from delivery.experiment import checkpoints
from delivery.verify import require_remote
from tests.conftest import run
from tests.fakes.drive import ROOT, Drive, serving_drive

pytestmark = [  # of the modules of DVC, and of the connections that Google's client leaves open
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
STAGE = "mkdir model && cp input model/model.onnx && cp input model/model.json"


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drive]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    run("git", "init", "--quiet", str(tmp_path))
    run("dvc", "init", "--quiet")
    with serving_drive(monkeypatch, tmp_path / "key.json") as drive:
        Path(".dvc/config").write_text(
            "[core]\n    remote = team-drive\n"
            f"['remote \"team-drive\"']\n    url = gdrive://{ROOT}\n"
            "    gdrive_use_service_account = true\n    gdrive_acknowledge_abuse = true\n"
            f"    gdrive_service_account_json_file_path = {tmp_path / 'key.json'}\n"
            "    verify = true\n",
            encoding="utf-8",
        )
        yield drive


def test_what_was_pushed_is_verified_and_pulled_byte_for_byte(drive: Drive) -> None:
    Path("dvc.yaml").write_text(
        f"stages: {{train: {{cmd: {STAGE}, deps: [input], outs: [model]}}}}"
    )
    Path("input").write_text("graph")
    with Repo() as repo:
        repo.reproduce()
        repo.push()
    for name in (".dvc/cache", "model"):
        shutil.rmtree(name)
    assert require_remote(["model"]).read == 2
    with Repo() as repo:
        repo.pull()
    assert Path("model/model.onnx").read_text() == "graph"


def test_checkpoints_reach_another_runner_and_are_deleted_at_the_end(
    drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = checkpoints.LOCAL / "0123456789abcdef" / "epoch-00001.pt"
    file.parent.mkdir(parents=True)
    file.write_text("one")
    remote, folder = checkpoints._place()
    checkpoints._copy(remote, folder, set())
    file.unlink()
    with checkpoints.preserved():
        assert file.read_text() == "one"
    checkpoints.delete()
    assert "epoch-00001.pt" not in [entry["title"] for entry in drive.files.values()]


def test_a_key_that_google_refuses_is_named_with_the_setting_to_change(drive: Drive) -> None:
    drive.refusal = "invalid_grant"
    with pytest.raises(RemoteError) as error:
        checkpoints.delete()
    assert "invalid_grant" in str(error.value)
    assert "set GDRIVE_CREDENTIALS_FILE to the key file in the pipeline" in str(error.value)
