"""What a person types: a target that lacks something says so in the words of make."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, run


def make(*words: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return run("make", "NO_SETUP=1", *words, cwd=folder, check=False)


@pytest.mark.parametrize(
    ("words", "missing", "example"),
    [
        ("promote", "VERSION", "VERSION=v1.2.0 STAGE=production"),
        ("promote VERSION=v1.2.0", "STAGE", "VERSION=v1.2.0 STAGE=production"),
        ("rollback", "STAGE", "STAGE=production"),
        ("retire VERSION=", "VERSION", "VERSION=v1.2.0"),
        ("lineage", "VERSION", "VERSION=v1.2.0"),
        ("image", "VERSION", "VERSION=landcover@v1.2.0"),
        ("publish", "VERSION", "VERSION=landcover@v1.2.0"),
        ("deploy", "STAGE", "STAGE=staging VERSION=landcover@v1.2.0"),
        ("deploy STAGE=staging", "VERSION", "STAGE=staging VERSION=landcover@v1.2.0"),
        ("notify", "EVENT", "EVENT=released"),
        ("submit", "JOB", "JOB=jobs/train.yaml"),
        ("job-status", "ID", "ID=17"),
        ("job-cancel ID=", "ID", "ID=17"),
        ("acceptance-gitlab", "URL", "URL=https://gitlab.example.com/team/name"),
        ("acceptance-cluster", "CONTEXT", "CONTEXT=kind-kind VERSION=v1.2.0"),
        ("acceptance-grafana", "URL", "URL=https://grafana.example.com"),
    ],
)
def test_a_missing_variable_is_named_with_an_example(
    words: str, missing: str, example: str
) -> None:
    done = make(*words.split())
    assert done.returncode != 0 and done.stdout == ""
    said = f"error: {missing} is missing: make {words.split()[0]} {example}"
    assert done.stderr.splitlines()[0] == said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("image VERSION=x", "version: 'x' is not a version: write v1.2.0"),
        ("publish VERSION=x", "version: 'x' is not a version: write v1.2.0"),
        ("render STAGE=staging VERSION=x", "version: 'x' is not a version: write v1.2.0"),
        ("render STAGE=x", "stage: 'x' is not a stage: write one of staging, production, setup"),
        ("argo-enter STAGE=x", "stage: 'x' is not a stage: write one of staging, production"),
        ("argo-leave STAGE=x", "stage: 'x' is not a stage: write one of staging, production"),
        ("deploy STAGE=x VERSION=v1.2.0", "stage: 'x' is not a stage: write one of staging"),
        ("deploy TAG=x", "tag: 'x' assigns nothing: write landcover#staging#3"),
        ("acceptance-cluster CONTEXT=x", "VERSION: not set: write v1.2.0, of an image that was"),
        ("acceptance-cluster CONTEXT=x VERSION=x", "version: 'x' is not a version: write v1.2.0"),
        ("acceptance-grafana URL=x", "URL: 'x' is not the address of a Grafana: write https://gr"),
        ("notify EVENT=x", "event: 'x' is not one: use pipeline-failed"),
        ("demo SERVICE_PORT=99999", "SERVICE_PORT is '99999', wanted at most 65535"),
        ("retrain COOL_DOWN=x", "'x' is not a number of hours from 0 to 8760 (COOL_DOWN)"),
    ],
)
def test_a_wrong_value_is_refused_in_a_sentence_before_anything_is_done(
    words: str, said: str
) -> None:
    done = make(*words.split())
    assert done.returncode != 0 and done.stdout == ""
    assert said in done.stderr.splitlines()[0] and "usage" not in done.stderr


def test_a_gitlab_that_is_not_origin_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITLAB_TOKEN", raising=False)
    done = make("gitlab-setup", "URL=http://127.0.0.1:1", "PROJECT=team/landcover")
    assert "access token with the scope api at http://127.0.0.1:1/-/user_settings" in done.stderr


def test_the_demo_shows_no_advice_of_dvc(tmp_path: Path) -> None:
    """To push is no advice for who tries the sample; DVC's own errors and stages are shown."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    real = f'PATH="{os.path.dirname(sys.executable)}:$PATH" exec dvc "$@"'
    scripts = {"dvc": f'test "$1" != repro || {real}', "python": "exit 0"}
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    stage = "stages:\n  one:\n    cmd: {}\n    outs: [made]\n"
    (tmp_path / "dvc.yaml").write_text(stage.format("echo trained > made"), encoding="utf-8")
    run("git", "init", "--quiet", cwd=tmp_path)
    run("dvc", "init", "--quiet", cwd=tmp_path)

    done = make("train-sample", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Running stage 'one'" in done.stdout
    assert "push" not in done.stdout and "git add" not in done.stdout

    (tmp_path / "dvc.yaml").write_text(stage.format("exit 3"), encoding="utf-8")
    failed = make("train-sample", folder=tmp_path)
    assert failed.returncode != 0 and "failed to reproduce 'one'" in failed.stderr


@pytest.mark.parametrize("task", ["segmentation", "detection", "instances"])
def test_the_demo_of_a_task_trains_it(task: str) -> None:
    shown = run("make", "NO_SETUP=1", "--dry-run", "train-sample", f"TASK={task}", cwd=ROOT).stdout
    assert f"--set-param model.task={task} " in shown
    assert ("synthetic-harbour --masks" in shown) is (task == "instances")


def test_a_user_without_a_name_has_one_for_dvc() -> None:
    """As in a container that runs as a number; DVC would end with a stack trace."""
    nobody = {"PATH": os.environ["PATH"]}
    words = ("make", "--silent", "--eval=show: ; @echo $$LOGNAME", "show")
    shown = subprocess.run(words, cwd=ROOT, env=nobody, capture_output=True, text=True, check=True)
    assert shown.stdout.strip()
    named = nobody | {"LOGNAME": "ada"}
    shown = subprocess.run(words, cwd=ROOT, env=named, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "ada"


def test_a_file_of_certificates_that_does_not_exist_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CERT", str(tmp_path))
    assert "certificates" not in make("help").stderr
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "nowhere.pem"))
    done = make("help")
    assert "that PIP_CERT names does not exist: correct it, or unset it" in done.stderr
    assert done.returncode == 0
