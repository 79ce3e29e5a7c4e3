"""What is asked of buildah, skopeo, Docker and trivy."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from delivery.errors import ImageError, ToolError
from delivery.image import image
from delivery.image.builders import Buildah, Built, Docker, Found, Recipe, choose_builder, is_local
from delivery.image.image import Image
from tests.make.versions import GRAPH_SHA256, V1

NAME = "registry.example.org/group/landcover"
DIGEST = "sha256:" + "d" * 64


def program(folder: Path, name: str, script: str) -> Path:
    """Put a program on PATH that writes its arguments down."""
    file = folder / name
    file.write_text(f'#!/bin/bash\nprintf "%s\\n" "$*" >> {folder}/calls\n{script}\n')
    file.chmod(0o755)
    return folder / "calls"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is all of PATH, but for the shell."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "cat", "git"):
        (folder / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(folder))
    return folder


def built(name: str = NAME, **changes: Any) -> Image:
    return Image(name, V1.tag, "c" * 40, GRAPH_SHA256, 1, "sha256:built", **changes)


def test_a_missing_scanner_is_an_error_and_never_a_pass(path: Path, tmp_path: Path) -> None:
    program(path, "buildah", "")
    with pytest.raises(ToolError, match="trivy is not installed: see https://trivy.dev"):
        image.scan(built(), tmp_path)


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_scan_passes_only_when_the_scanner_does(path: Path, tmp_path: Path, code: int) -> None:
    saved = program(path, "buildah", "touch() { :; }; : > ${4#docker-archive:}")
    scanned = program(path, "trivy", f"exit {code}")
    if code:
        with pytest.raises(ImageError, match=f"trivy image failed with {code}"):
            image.scan(built(), tmp_path)
    else:
        image.scan(built(), tmp_path)
    archive = tmp_path / "image.tar"
    assert f"push --quiet sha256:built docker-archive:{archive}" in saved.read_text()
    words = scanned.read_text().splitlines()[-1].split()
    assert {"--exit-code=1", "--severity=HIGH,CRITICAL", "--ignore-unfixed"} <= set(words)
    assert f"--input={archive}" in words
    assert not archive.exists()


def test_an_image_from_the_registry_is_scanned_there(path: Path, tmp_path: Path) -> None:
    calls = program(path, "trivy", "")
    image.scan(Image(NAME, V1.tag, "c", "b", 1, digest=DIGEST), tmp_path)
    assert calls.read_text().split()[-1] == f"{NAME}@{DIGEST}"


def test_without_a_builder_the_error_names_one(path: Path) -> None:
    with pytest.raises(ToolError, match="apt-get install buildah skopeo"):
        choose_builder()


def test_docker_builds_without_buildah(path: Path) -> None:
    program(path, "docker", "")
    assert isinstance(choose_builder(), Docker)
    program(path, "buildah", "")
    assert isinstance(choose_builder(), Buildah)


def test_a_registry_that_is_down_is_not_one_without_the_image(path: Path) -> None:
    program(path, "skopeo", "echo 'level=fatal msg=\"connection refused\"' >&2; exit 1")
    with pytest.raises(ImageError, match="skopeo inspect: .*connection refused"):
        Buildah().lookup(NAME, "v1.0.0")


@pytest.mark.parametrize("said", ["manifest unknown: manifest unknown", "name unknown: not known"])
def test_an_image_missing_in_the_registry_is_none(path: Path, said: str) -> None:
    program(path, "skopeo", f"echo 'reading manifest v1.0.0: {said}' >&2; exit 1")
    assert Buildah().lookup(NAME, "v1.0.0") is None


@pytest.mark.parametrize(
    ("name", "plain"),
    [("127.0.0.1:5000/x", True), ("localhost:5000/x", True), ("localhost.evil.net:1/x", False)],
)
def test_only_a_registry_on_loopback_goes_without_tls(path: Path, name: str, plain: bool) -> None:
    answer = json.dumps({"Digest": DIGEST, "Labels": None})
    calls = program(path, "skopeo", f"echo '{answer}'")
    assert Buildah().lookup(name, "v1.0.0") == Found(DIGEST, {}, 0)
    assert ("--tls-verify=false" in calls.read_text()) is plain


def test_docker_does_the_same(path: Path, tmp_path: Path) -> None:
    answer = [{"Size": 7, "Config": {"Labels": {"a": "b"}}, "RepoDigests": [f"{NAME}@{DIGEST}"]}]
    script = (
        'for word in "$@"; do case "$word" in --iidfile=*) printf sha256:made > '
        '"${word#--iidfile=}";; esac; done\n'
        f"[ \"$1 $2\" != 'image inspect' ] || echo '{json.dumps(answer)}'"
    )
    calls = program(path, "docker", script)
    docker = Docker()
    assert docker.build(Recipe("serve", {"VERSION": V1.tag})) == "sha256:made"
    assert docker.inspect("sha256:made") == Built({"a": "b"}, 7)
    assert docker.push("sha256:made", NAME, ("one", "two")) == DIGEST
    assert docker.lookup(NAME, "two") == Found(DIGEST, {"a": "b"}, 7)
    docker.save("sha256:made", tmp_path / "image.tar")
    made = calls.read_text()
    assert "build --build-arg=SOURCE_DATE_EPOCH=315532800 --build-arg=VERSION=" in made
    assert f"push --quiet {NAME}:one\n" in made and f"push --quiet {NAME}:two\n" in made


def test_a_password_is_never_an_argument(path: Path) -> None:
    calls = program(path, "skopeo", f"cat > {path}/given")
    Buildah().login("registry.example.org", "ci", "secret")
    assert "secret" not in calls.read_text()
    assert (path / "given").read_text() == "secret"


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("landcover", True),
        ("localhost/landcover", True),
        ("localhost:5000/x", False),
        (NAME, False),
    ],
)
def test_a_name_says_whether_it_leaves_the_machine(name: str, local: bool) -> None:
    assert is_local(name) is local
