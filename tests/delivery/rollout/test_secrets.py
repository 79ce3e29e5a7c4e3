"""`make secrets`: lines of a file become the Secrets that pods mount, and are shown nowhere."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from delivery.rollout.secrets import KEYS, ROLES, main
from service.auth.roles import Role
from service.secrets import FEEDBACK, PASSWORD, REMOTE, STREAM, USERNAME
from service.secrets import KEYS as API_KEYS
from tests.fakes import secrets_api, sops
from tests.fakes.secrets_api import SecretsApi
from tests.make.commands import run_command

HASH = "0" * 64
LINES = {
    "API_KEYS": '{"%s": ["predict", "view"]}' % HASH,
    "GIT_USERNAME": "gitlab+deploy-token-1",
    "GIT_PASSWORD": "gldt-of-the-pods",
    "FEEDBACK_URL": "postgresql://user:pass$word@host/name",
    "STREAM_CLIENT": '{"sasl.password": "x"}',
    "AWS_ACCESS_KEY_ID": "a-key",
    "AWS_SECRET_ACCESS_KEY": "its/secret+with=signs",
}
MADE = {
    "landcover-staging/landcover-feedback": {"url": LINES["FEEDBACK_URL"]},
    "landcover-staging/landcover-git": {
        "username": LINES["GIT_USERNAME"],
        "password": LINES["GIT_PASSWORD"],
    },
    "landcover-staging/landcover-keys": {"api-keys": LINES["API_KEYS"]},
    "landcover-staging/landcover-remote": {
        "AWS_ACCESS_KEY_ID": LINES["AWS_ACCESS_KEY_ID"],
        "AWS_SECRET_ACCESS_KEY": LINES["AWS_SECRET_ACCESS_KEY"],
    },
    "landcover-staging/landcover-stream": {"client": LINES["STREAM_CLIENT"]},
}

Write = Callable[..., tuple[int, str, str]]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[SecretsApi]:
    with secrets_api.serving(tmp_path / "kubeconfig") as found:
        yield found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A working copy, and beside it the file with the lines."""
    folder = tmp_path / "project"
    (folder / "k8s" / "overlays" / "staging").mkdir(parents=True)
    (folder / "params.yaml").write_text("model: {name: landcover}\n")
    (tmp_path / "secrets.env").write_text(text(LINES))
    (tmp_path / "secrets.env").chmod(0o600)
    return folder


@pytest.fixture
def write(api: SecretsApi, project: Path) -> Write:
    """Run the command with the real kubectl; returns its exit code and what it printed."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed: make setup-e2e")

    def command(*words: str, **variables: str) -> tuple[int, str, str]:
        environment = os.environ | {
            "KUBECONFIG": str(project.parent / "kubeconfig"),
            "KUBE_CONTEXT": "cluster",
            "HOME": str(project.parent),
        }
        done = run_command(main, ["staging", *words], project, environment | variables)
        return done.returncode, done.stdout, done.stderr

    return command


def text(lines: dict[str, str]) -> str:
    return "".join(f"{key}={value}\n" for key, value in lines.items())


def test_the_lines_become_the_secrets_that_pods_mount(
    api: SecretsApi, write: Write, project: Path
) -> None:
    code, said, errors = write("--values", "../secrets.env")
    assert (code, errors) == (0, "") and api.content() == MADE
    assert api.managers == {"conveyor-secrets"}
    assert "secrets: landcover-git has password, username" in said
    assert not [value for value in LINES.values() if value in said + errors]
    # Nothing that kubectl keeps of an apply has a copy of them.
    assert all("annotations" not in item["metadata"] for item in api.documents.values())


def test_a_secret_without_a_line_is_left_alone(
    api: SecretsApi, write: Write, project: Path
) -> None:
    (project.parent / "secrets.env").write_text("API_KEYS={}\nGIT_USERNAME=\n")
    assert write("--values", "../secrets.env")[0] == 0
    assert api.content() == {"landcover-staging/landcover-keys": {"api-keys": "{}"}}


def test_the_names_are_those_that_the_service_reads() -> None:
    assert set(KEYS.values()) == {API_KEYS, USERNAME, PASSWORD, FEEDBACK, STREAM}
    folders = {name.partition("/")[0] for name in KEYS.values()}
    assert {name.rpartition("-")[2] for name in MADE} == {REMOTE, *folders}


def test_a_file_that_sops_encrypted_is_read_from_git(
    api: SecretsApi, write: Write, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sops.install(tmp_path / "bin", monkeypatch, os.environ["PATH"])
    file = project / "k8s" / "overlays" / "staging" / "secrets.sops.env"
    file.write_text(sops.encrypted(LINES))
    refused = write()
    assert refused[0] == 1 and "name the file of your age key in SOPS_AGE_KEY_FILE" in refused[2]
    assert api.documents == {}
    (tmp_path / "landcover.agekey").write_text("AGE-SECRET-KEY-1")
    variables = {"SOPS_AGE_KEY_FILE": str(tmp_path / "landcover.agekey")}
    assert write(**variables)[0] == 0 and api.content() == MADE
    file.write_text(text(LINES))
    plain = write(**variables)
    assert plain[0] == 1 and "encrypt it first" in plain[2] and "gldt-" not in plain[2]


def test_without_a_file_and_without_sops_the_cure_is_named(
    write: Write, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "make secrets STAGE=staging VALUES=~/secrets.env" in write()[2]
    overlay = project / "k8s" / "overlays" / "staging"
    (overlay / "secrets.sops.env").write_text(sops.encrypted(LINES))
    (tmp_path / "empty").mkdir()
    assert "sops: not found: install sops 3.9 or newer" in write(PATH=str(tmp_path / "empty"))[2]


def test_printed_objects_are_those_that_would_be_applied(api: SecretsApi, write: Write) -> None:
    code, said, _ = write("--print", "--values", "../secrets.env")
    assert code == 0 and api.documents == {}
    found = {it["metadata"]["name"]: it["data"].keys() for it in yaml.safe_load_all(said)}
    assert found == {name.split("/")[1]: keys.keys() for name, keys in MADE.items()}


def test_who_may_not_write_secrets_is_told_whose_context_may(api: SecretsApi, write: Write) -> None:
    api.forbidden = True
    code, _, errors = write("--values", "../secrets.env")
    assert code == 1 and "name an administrator's context in KUBE_CONTEXT" in errors
    assert "deployer.yaml" not in errors


def test_a_context_that_does_not_exist_is_one_sentence_with_the_cure(write: Write) -> None:
    code, _, errors = write("--values", "../secrets.env", KUBE_CONTEXT="nowhere")
    assert code == 1 and errors.count("\n") == 1
    assert 'context "nowhere" does not exist: name one of `kubectl config get-contexts`' in errors


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("", "it has no line KEY=VALUE: write API_KEYS"),
        ("API_KEY=gldt-x", "'API_KEY' is no line of it: API_KEYS, GIT_USERNAME"),
        ("PATH=/gldt-x", "'PATH' is no line of it"),
        ("API_KEYS={}\ngldt-x", "secrets.env, line 2: it is no KEY=VALUE: correct it"),
        ("AWS_A=b\nAWS_SECRET_ACCESS_KEY", "secrets.env, line 2: it is no KEY=VALUE"),
        ("FEEDBACK_URL=gldt-x", "FEEDBACK_URL is no address of a database: write postgresql://"),
        ('API_KEYS={"gldt-x": ["view"]}', "API_KEYS has a key that is no hash of 64 digits"),
        ('API_KEYS={"%s": ["gldt-x"]}' % HASH, "a role that is none of predict, view, label"),
        ('API_KEYS={"%s": "view"}' % HASH, "API_KEYS is no JSON such as"),
        ("API_KEYS=gldt-x", "API_KEYS is no JSON such as"),
        ('API_KEYS=["gldt-x"]', "API_KEYS is no JSON such as"),
        ("STREAM_CLIENT=gldt-x", "STREAM_CLIENT is no JSON of texts: write {"),
        ('STREAM_CLIENT=["gldt-x"]', "STREAM_CLIENT is no JSON of texts"),
        ('STREAM_CLIENT={"gldt-x": 5}', "STREAM_CLIENT is no JSON of texts"),
        ("GIT_PASSWORD=gldt-x", "GIT_PASSWORD needs GIT_USERNAME: write both"),
        ("GIT_USERNAME=gldt-x", "GIT_USERNAME needs GIT_PASSWORD: write both"),
    ],
)
def test_a_line_that_cannot_be_right_is_one_sentence_without_its_value(
    api: SecretsApi, write: Write, project: Path, lines: str, reason: str
) -> None:
    (project.parent / "secrets.env").write_text(lines + "\n")
    code, said, errors = write("--values", "../secrets.env")
    assert code == 1 and errors.count("\n") == 1 and errors.startswith("error: ")
    assert reason in errors and "gldt-x" not in said + errors
    assert api.documents == {}


def test_the_keys_are_those_that_the_service_takes() -> None:
    assert set(ROLES) == set(Role)


def test_a_file_that_cannot_be_read_is_one_sentence(write: Write, project: Path) -> None:
    said = write("--values", "../none.env")[2]
    assert said.startswith(
        "error: values: '../none.env' cannot be read (No such file or directory)"
    )
    (project.parent / "secrets.env").write_bytes(b"API_KEYS=\xff\n")
    assert (
        "values: '../secrets.env' is no text: write it in UTF-8"
        in write("--values", "../secrets.env")[2]
    )


def test_a_stage_that_does_not_exist_is_one_sentence(project: Path) -> None:
    done = run_command(main, ["stagin", "--values", "../secrets.env"], project, os.environ)
    assert "stage: 'stagin' is not a stage: write one of staging, production, review" in done.stderr


def test_a_home_that_the_shell_did_not_expand_is_found(api: SecretsApi, write: Write) -> None:
    assert write("--values", "~/secrets.env")[0] == 0 and api.content() == MADE


def test_a_file_that_others_may_read_is_written_with_a_warning(
    api: SecretsApi, write: Write, project: Path
) -> None:
    (project.parent / "secrets.env").chmod(0o644)
    code, _, errors = write("--values", "../secrets.env")
    assert code == 0 and api.content() == MADE
    assert errors == "warning: others may read ../secrets.env: chmod 600 ../secrets.env\n"
