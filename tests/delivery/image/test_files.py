"""Dockerfile, .dockerignore, compose.yaml and what they name."""

import re
import shutil
import subprocess

import pytest

from tests.conftest import ROOT
from tests.make import ci


def test_the_dockerfile_passes_the_linter() -> None:
    linter = ROOT / ".venv-checks" / "bin" / "hadolint"
    program = str(linter) if linter.exists() else shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed: make setup-e2e")
    done = subprocess.run(
        [program, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_bases_are_pinned_by_digest_and_in_one_place() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    pins = re.findall(r"^ARG \w+_BASE=(\S+)$", text, re.MULTILINE)
    assert len(pins) == 2
    pattern = r"\$\{IMAGE_PREFIX\}[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}"
    assert all(re.fullmatch(pattern, pin) for pin in pins)
    assert "\nARG IMAGE_PREFIX=docker.io/\n" in text
    bases = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE))
    stages = {"system", "packages", "train-on-${TORCH}"}
    assert bases == {"${PYTHON_BASE}", "${CUDA_BASE}", *stages}
    assert {"train-on-cpu", "train-on-cuda"} <= set(re.findall(r"(?m)^FROM .* AS (\S+)$", text))


def test_the_image_of_jobs_is_built_again_when_a_file_of_it_changes() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").partition(" AS train\n")[2]
    copied = {
        name for line in text.splitlines() if line.startswith("COPY") for name in line.split()[1:-1]
    }
    changes = ci.JOBS["job-image"]["rules"][2]["changes"]
    assert {name.removesuffix("/*") for name in changes} == copied | {"Dockerfile", ".dockerignore"}
    assert ci.JOBS["job-image-cuda"]["rules"][2]["changes"] == changes


def test_jobs_run_on_the_python_that_serves() -> None:
    variables = ci.MAIN["variables"]
    pin = variables["PYTHON_IMAGE"]
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f"\nARG PYTHON_BASE={pin}\n" in dockerfile
    assert variables["IMAGE_PREFIX"] == "docker.io/"


def test_every_image_of_docker_hub_has_the_prefix() -> None:
    """A mirror or GitLab's dependency proxy then serves all of them."""
    files = [ROOT / "Dockerfile", *ci.FILES]
    pattern = r"(?m)(?:_BASE=|_IMAGE: |^ +default: |^ +name: |^ +image: )(\S+[:@]\S+)$"
    images = [match for file in files for match in re.findall(pattern, file.read_text())]
    assert len(images) >= 4
    assert [image for image in images if not image.startswith("${IMAGE_PREFIX}")] == []


def test_only_listed_files_enter_the_build_context() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert not any(name in rule for rule in rules for name in (".git", ".dvc", "data", ".env"))


def test_the_settings_in_the_images_exist() -> None:
    from service.settings import PREFIX, Settings

    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    for name in ("Dockerfile", "compose.yaml"):
        used = set(re.findall(r"\bSERVICE_[A-Z_]+\b", (ROOT / name).read_text(encoding="utf-8")))
        assert used <= known, name
