"""A DVC remote on S3, met by the real client, from `dvc push` to the fetch of the service."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from delivery.dvc import dvc
from delivery.errors import RemoteError, ToolError
from delivery.experiment import checkpoints
from delivery.verify import require_remote
from service.errors import RegistryUnavailable
from tests.conftest import run
from tests.fakes import s3
from tests.make.mounts import mount
from tests.make.processes import until
from tests.make.repositories import METRICS, PARAMS, V1, Project, fetch

BUCKET = "team"
URL = f"s3://{BUCKET}/landcover"
OWNER = {"authorization": "AWS testing:unchecked"}
STAGE = "mkdir model && cp input model/model.onnx && cp input model/model.json"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with s3.serving(BUCKET) as address:
        yield address


@pytest.fixture(scope="module")
def pushed(address: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a version whose model was pushed to S3, and nothing of it here."""
    project = Project(tmp_path_factory.mktemp("s3") / "project")
    with pytest.MonkeyPatch.context() as patch:
        s3.forget_environment(patch, project.folder.parent)
        for name, value in s3.KEYS.items():
            patch.setenv(name, value)
        patch.chdir(project.folder)
        dvc("init", "--quiet", "--force")
        configure(project, address)
        project.write(
            "dvc.yaml", f"stages: {{train: {{cmd: {STAGE}, deps: [input], outs: [model]}}}}"
        )
        project.write("input", "graph")
        project.write("reports/metrics.json", json.dumps(METRICS))
        project.write("params.yaml", json.dumps(PARAMS))
        dvc("repro", "--quiet")
        dvc("push", "--run-cache")
        project.commit()
        project.tag(V1.tag)
    for name in (".dvc/cache", "model"):
        shutil.rmtree(project.folder / name)
    return project.folder


def configure(project: Project, address: str, url: str = URL) -> None:
    project.write(
        ".dvc/config",
        f"[core]\n    remote = team-s3\n['remote \"team-s3\"']\n    url = {url}\n"
        f"    endpointurl = {address}\n    verify = true\n",
    )


@pytest.fixture
def clone(
    pushed: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A copy of the project as the working directory of a job that has the keys."""
    s3.forget_environment(monkeypatch, tmp_path)
    for name, value in s3.KEYS.items():
        monkeypatch.setenv(name, value)
    folder = shutil.copytree(pushed, tmp_path / "clone")
    monkeypatch.chdir(folder)
    yield folder
    s3.demand_known_keys(address, demanded=False)


def test_what_was_pushed_is_pulled_byte_for_byte(clone: Path) -> None:
    dvc("pull")
    assert (clone / "model/model.onnx").read_text() == "graph"


def test_verify_reads_the_model_in_the_bucket_and_finds_altered_and_missing_objects(
    clone: Path, address: str
) -> None:
    assert require_remote(["model"]).read == 2  # the folder, and one content for both files
    name = run("md5sum", "input", cwd=clone).stdout.split()[0]
    place = f"{address}/{BUCKET}/landcover/files/md5/{name[:2]}/{name[2:]}"
    for change, said in ((b"GRAPH", "were altered in"), (None, "are missing in")):
        content = httpx.get(place, headers=OWNER).raise_for_status().content
        if change:
            httpx.put(place, content=change, headers=OWNER).raise_for_status()
        else:
            httpx.delete(place, headers=OWNER).raise_for_status()
        with pytest.raises(RemoteError, match=f"1 objects of model {said} the DVC remote"):
            require_remote(["model"])
        httpx.put(place, content=content, headers=OWNER).raise_for_status()
    assert require_remote(["model"]).read == 2


def test_checkpoints_reach_another_runner_and_are_deleted_at_the_end(
    clone: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "try/$(id)")
    monkeypatch.setattr(checkpoints, "MINUTES", 0.0005)
    file = checkpoints.LOCAL / "0123456789abcdef" / "epoch-00001.pt"
    file.parent.mkdir(parents=True)

    def copies() -> str:
        return httpx.get(f"{address}/{BUCKET}?prefix=landcover/checkpoints").text

    with checkpoints.preserved():
        file.write_text("one")
        until(lambda: "epoch-00001.pt" in copies())
        newer = file.with_name("epoch-00002.pt")
        newer.write_text("two")
        file.unlink()  # the pipeline keeps few
        until(lambda: "epoch-00002.pt" in copies() and "epoch-00001.pt" not in copies())
    newer.unlink()  # another runner, another disk
    with checkpoints.preserved():
        assert newer.read_text() == "two"
    checkpoints.delete()
    assert "epoch-" not in copies()


def test_the_service_fetches_an_experiment_from_the_bucket(clone: Path, tmp_path: Path) -> None:
    folder = fetch(clone, tmp_path / "state")
    assert (folder / "model.onnx").read_text() == "graph"


def test_the_service_takes_keys_of_a_mounted_secret_as_soon_as_they_are_there(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    secrets = tmp_path / "secrets"
    with pytest.raises(RegistryUnavailable, match="check its address and credentials"):
        fetch(clone, tmp_path / "state", secrets=secrets)
    mount(secrets, "remote", s3.KEYS)
    folder = fetch(clone, tmp_path / "state", secrets=secrets)
    assert (folder / "model.onnx").read_text() == "graph"


def test_a_role_taken_by_the_token_of_the_job_is_enough(
    clone: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (clone / "token").write_text("a token of GitLab")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/landcover")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(clone / "token"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", address)
    dvc("pull")
    assert (clone / "model/model.onnx").read_text() == "graph"


def test_a_key_that_nobody_has_is_named_with_the_setting_to_change(
    clone: Path, address: str
) -> None:
    s3.demand_known_keys(address, demanded=True)
    with pytest.raises(ToolError) as error:
        dvc("pull")
    assert "Access Key Id you provided does not exist" in str(error.value) or "Forbidden" in str(
        error.value
    )
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_ROLE_ARN" in str(error.value)


def test_a_key_that_nobody_has_is_named_where_no_command_of_dvc_runs(
    clone: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """verify and the checkpoints ask the remote themselves."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-nobody")
    s3.demand_known_keys(address, demanded=True)
    for ask in (lambda: require_remote(["model"]), checkpoints.delete):
        with pytest.raises(RemoteError) as error:
            ask()
        assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_ROLE_ARN" in str(
            error.value
        )


def test_a_bucket_that_does_not_exist_is_named_with_the_setting_to_change(
    clone: Path, address: str
) -> None:
    config = clone / ".dvc/config"
    config.write_text(config.read_text().replace(URL, "s3://gone/landcover"))
    (clone / "model").mkdir()
    (clone / "model/model.onnx").write_text("graph")
    (clone / "model/model.json").write_text("graph")
    dvc("commit", "--force")
    with pytest.raises(ToolError) as error:
        dvc("push")
    assert "bucket does not exist" in str(error.value)
    assert "check url and endpointurl of the remote in .dvc/config" in str(error.value)
