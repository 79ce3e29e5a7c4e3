"""A failure of DVC reaches people with its cause and the setting to change."""

import shutil
from pathlib import Path

import pytest

from delivery.dvc import dvc
from delivery.errors import ToolError
from tests.conftest import ROOT, run


@pytest.fixture(scope="module")
def unpulled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the remotes that ship, whose data are in none of them."""
    folder = tmp_path_factory.mktemp("unpulled")
    run("git", "init", "--quiet", cwd=folder)
    run("dvc", "init", "--quiet", cwd=folder)
    (folder / "data").write_text("an image")
    run("dvc", "add", "--quiet", "data", cwd=folder)
    shutil.rmtree(folder / ".dvc/cache")
    (folder / "data").unlink()
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
    return folder


@pytest.mark.parametrize(
    ("remote", "options", "cause", "cure"),
    [
        ("team-drive", {}, "To use service account", "set GDRIVE_CREDENTIALS_FILE"),
        ("team-s3", {}, "Unable to locate credentials", "set AWS_ACCESS_KEY_ID"),
        (
            "team-s3",
            {"access_key_id": "a", "secret_access_key": "b", "endpointurl": "http://127.0.0.1:9"},
            "Could not connect to the endpoint URL",
            "check url and endpointurl",
        ),
    ],
)
def test_a_pull_from_an_unusable_remote_names_cause_and_setting(
    unpulled: Path,
    monkeypatch: pytest.MonkeyPatch,
    remote: str,
    options: dict[str, str],
    cause: str,
    cure: str,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(unpulled))
    monkeypatch.chdir(unpulled)
    lines = [
        f"['remote \"{remote}\"']",
        *(f"    {key} = {value}" for key, value in options.items()),
    ]
    Path(".dvc/config.local").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(ToolError) as error:
        dvc("pull", "--remote", remote)
    assert cause in str(error.value)
    assert cure in str(error.value)
    assert "Having any troubles" not in str(error.value)


def test_a_failed_command_without_output_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("delivery.dvc.subprocess.run", lambda *_, **__: Silent())
    with pytest.raises(ToolError, match="dvc pull: failed without a message"):
        dvc("pull")


class Silent:
    returncode, stdout, stderr = 1, "", ""


def test_a_target_that_cannot_be_pulled_ends_a_job_with_one_sentence(unpulled: Path) -> None:
    words = ("python", "-m", "delivery.dvc", "pull", "nothing")
    failed = run(*words, cwd=unpulled, check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: dvc pull: ") and failed.stderr.count("\n") == 1
