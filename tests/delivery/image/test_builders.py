"""What is asked of buildah, skopeo, Docker and trivy."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from delivery.errors import ImageError, ToolError
from delivery.image import image
from delivery.image.builders import (
    TIME,
    Buildah,
    Buildkit,
    Built,
    Docker,
    Found,
    Recipe,
    choose_builder,
    is_local,
    stream,
)
from delivery.image.image import Image
from tests.make.versions import GRAPH_SHA256, V1

NAME = "registry.example.org/group/landcover"
DIGEST = "sha256:" + "d" * 64


WRITE_ID = (
    'for word in "$@"; do case "$word" in --iidfile=*) printf sha256:made > '
    '"${word#--iidfile=}";; esac; done'
)
"""What buildah and docker do with the id of an image."""


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
    monkeypatch.delenv("BUILDKIT_HOST", raising=False)
    return folder


def built(name: str = NAME, **changes: Any) -> Image:
    return Image(name, V1.tag, "c" * 40, GRAPH_SHA256, 1, "sha256:built", **changes)


def test_a_missing_scanner_is_an_error_and_never_a_pass(path: Path, tmp_path: Path) -> None:
    program(path, "buildah", "")
    with pytest.raises(ToolError, match="trivy is not installed: see https://trivy.dev"):
        image.scan(built(), tmp_path)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0, ""),
        (1, "trivy image failed with 1"),
        (2, "trivy image failed with 2"),
        (9, "trivy found known vulnerabilities that updates fix"),
    ],
)
def test_a_scan_passes_only_when_the_scanner_does(
    path: Path, tmp_path: Path, code: int, said: str
) -> None:
    saved = program(path, "buildah", "touch() { :; }; : > ${4#docker-archive:}")
    scanned = program(path, "trivy", f"exit {code}")
    if code:
        with pytest.raises(ImageError, match=said):
            image.scan(built(), tmp_path)
    else:
        image.scan(built(), tmp_path)
    archive = tmp_path / "image.tar"
    assert f"push --quiet sha256:built docker-archive:{archive}" in saved.read_text()
    words = scanned.read_text().splitlines()[-1].split()
    assert {"--exit-code=9", "--severity=HIGH,CRITICAL", "--ignore-unfixed"} <= set(words)
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


def test_a_runner_that_forbids_namespaces_is_named_before_the_build(path: Path) -> None:
    """As Docker's default profile does, under which the runner of the docs was registered."""
    program(path, "unshare", "echo 'unshare: unshare failed: Operation not permitted' >&2; exit 1")
    calls = program(path, "buildah", "")
    with pytest.raises(ToolError) as error:
        Buildah().build(Recipe("serve", {}))
    assert "buildah may not create namespaces here (unshare --" in str(error.value)
    assert "Operation not permitted" in str(error.value)
    for cure in ("privileged = true", "seccomp:unconfined", "BUILD_RUNNER_TAG", "BUILDKIT_HOST"):
        assert cure in str(error.value)
    assert "build" not in calls.read_text()


@pytest.mark.parametrize("allowed", ["--mount true", "--map-root-user --mount true"])
def test_namespaces_by_either_way_let_buildah_build(path: Path, allowed: str) -> None:
    """A capability lets root mount; without one, buildah takes a namespace of users first."""
    program(path, "unshare", f"[ \"$*\" = '{allowed}' ]")
    program(path, "buildah", WRITE_ID)
    assert Buildah().build(Recipe("serve", {})) == "sha256:made"


@pytest.mark.parametrize("builder", ["buildah", "docker", "buildctl"])
def test_a_fresh_build_takes_no_layer_of_an_earlier_one(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, builder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if builder == "buildctl":
        monkeypatch.setenv("BUILDKIT_HOST", "tcp://buildkitd:1234")
    program(path, "unshare", "")
    calls = program(path, builder, WRITE_ID)
    for fresh in (False, True):
        choose_builder().build(Recipe("serve", {}, fresh))
    cached, anew = [line for line in calls.read_text().splitlines() if line.startswith("build ")]
    assert "--no-cache" not in cached and "--no-cache" in anew


def test_buildkit_gets_one_timestamp_for_all_files(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What buildctl is asked was written from its documentation; it has met no real BuildKit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BUILDKIT_HOST", "tcp://buildkitd:1234")
    calls = program(path, "buildctl", "")
    built = choose_builder().build(Recipe("serve", {"VERSION": V1.tag}))
    assert built == "oci-archive:artifacts/image/serve.tar"
    assert calls.read_text().splitlines()[-1].split() == [
        "build",
        "--frontend=dockerfile.v0",
        "--local=context=.",
        "--local=dockerfile=.",
        "--opt=target=serve",
        f"--opt=build-arg:VERSION={V1.tag}",
        f"--opt=build-arg:SOURCE_DATE_EPOCH={TIME}",
        "--output=type=oci,dest=artifacts/image/serve.tar,rewrite-timestamp=true",
    ]


def test_buildkit_goes_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(path, "buildah", "")
    monkeypatch.setenv("BUILDKIT_HOST", "tcp://buildkitd:1234")
    assert isinstance(choose_builder(), Buildkit)
    with pytest.raises(ToolError, match="buildctl is not installed: ci/install buildctl"):
        choose_builder().build(Recipe("serve", {}))


def test_an_unreachable_registry_is_an_error_and_not_a_missing_image(path: Path) -> None:
    program(path, "skopeo", "echo 'level=fatal msg=\"connection refused\"' >&2; exit 1")
    with pytest.raises(ImageError, match="skopeo inspect: .*connection refused"):
        Buildah().lookup(NAME, "v1.0.0")


def test_a_build_that_fails_names_the_cause_that_it_printed_on_the_way(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = (
        "echo STEP 1; echo 'Error: writing blob: no space left on device' >&2; echo done; exit 125"
    )
    program(path, "buildah", said)
    with pytest.raises(ImageError, match="buildah build failed with 125: .*no space.*prune --all"):
        stream("buildah", "build")
    assert capfd.readouterr().err.splitlines()[0] == "STEP 1"
    program(path, "trivy", "echo 'libgpg-error0 CVE-1 HIGH'; exit 1")
    with pytest.raises(ImageError, match="trivy image failed with 1: see above"):
        stream("trivy", "image")


@pytest.mark.parametrize("said", ["manifest unknown: manifest unknown", "name unknown: not known"])
def test_looking_up_a_missing_image_returns_none(path: Path, said: str) -> None:
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


def test_docker_builds_pushes_and_looks_up_like_buildah(path: Path, tmp_path: Path) -> None:
    answer = [{"Size": 7, "Config": {"Labels": {"a": "b"}}, "RepoDigests": [f"{NAME}@{DIGEST}"]}]
    script = f"{WRITE_ID}\n[ \"$1 $2\" != 'image inspect' ] || echo '{json.dumps(answer)}'"
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


def test_buildkit_finds_the_password_where_docker_keeps_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    calls = program(path, "skopeo", "")
    Buildkit().login("registry.example.org", "ci", "secret")
    assert f"login --authfile={tmp_path}/config.json --username=ci" in calls.read_text()


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("landcover", True),
        ("localhost/landcover", True),
        ("localhost:5000/x", False),
        (NAME, False),
    ],
)
def test_names_without_a_registry_are_local(name: str, local: bool) -> None:
    assert is_local(name) is local
