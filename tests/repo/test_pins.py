"""Pinned programs and images: what is downloaded is checked, and what ages is renewed."""

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, run
from tests.fakes.http import Handler, serving
from tests.make import ci

INSTALL = ROOT / "ci" / "install"
PROGRAMS = ("bash", "curl", "sha256sum", "mktemp", "rm", "install", "tar", "gzip", "cat")
SCRIPT = b"#!/bin/sh\necho runs\n"


class Mirror(Handler[dict[str, bytes]]):
    """Serves the files of a mirror by their paths."""

    def do_GET(self) -> None:
        content = self.state.get(self.path)
        self.reply(404 if content is None else 200, content or b"")


@pytest.fixture
def files() -> dict[str, bytes]:
    """What the mirror has: path -> content."""
    return {}


@pytest.fixture
def mirror(files: dict[str, bytes]) -> Iterator[str]:
    with serving(Mirror, files) as address:
        yield address


def archive(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(SCRIPT), 0o755
        tar.addfile(member, io.BytesIO(SCRIPT))
    return buffer.getvalue()


def install(
    folder: Path,
    program: str,
    mirror: str,
    machine: str,
    sums: Mapping[str, bytes] = {},
    pins: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run ci/install on a machine without the program; `sums` are files that stand for pinned ones.

    The real files cannot be downloaded where tests run, so a copy has their sums.
    """
    commands = folder / "commands"
    commands.mkdir()
    for name in PROGRAMS:
        (commands / name).symlink_to(str(shutil.which(name)))
    (commands / "uname").write_text(f"#!/bin/sh\necho {machine}\n")
    (commands / "uname").chmod(0o755)
    script = INSTALL.read_text(encoding="utf-8")
    for name, content in sums.items():
        digest = hashlib.sha256(content).hexdigest()
        script, found = re.subn(rf"(?m)^{name}=.*$", f"{name}={digest}", script)
        assert found == 1, name
    (folder / "install").write_text(script, encoding="utf-8")
    settings = {"PATH": str(commands), "INSTALL_FOLDER": str(folder), "INSTALL_PINS": pins}
    mirrors = {f"{name}_MIRROR": mirror for name in PIN_OF.values()}
    return subprocess.run(
        ["bash", str(folder / "install"), program],
        env=settings | mirrors,
        capture_output=True,
        text=True,
        check=False,
    )


def pin(name: str) -> str:
    found = re.search(rf"(?m)^{name}=(\S+)$", INSTALL.read_text(encoding="utf-8"))
    assert found, name
    return found[1]


BUILDKIT = archive("bin/buildctl")
PIN_OF = {"kubectl": "KUBECTL", "trivy": "TRIVY", "buildctl": "BUILDKIT"}


@pytest.mark.parametrize(
    ("program", "machine", "architecture", "path", "content"),
    [
        ("kubectl", "x86_64", "amd64", "/{v}/bin/linux/amd64/kubectl", SCRIPT),
        ("kubectl", "aarch64", "arm64", "/{v}/bin/linux/arm64/kubectl", SCRIPT),
        ("trivy", "x86_64", "amd64", "/{v}/trivy_{n}_Linux-64bit.tar.gz", archive("trivy")),
        ("trivy", "aarch64", "arm64", "/{v}/trivy_{n}_Linux-ARM64.tar.gz", archive("trivy")),
        ("buildctl", "x86_64", "amd64", "/{v}/buildkit-{v}.linux-amd64.tar.gz", BUILDKIT),
        ("buildctl", "aarch64", "arm64", "/{v}/buildkit-{v}.linux-arm64.tar.gz", BUILDKIT),
    ],
)
def test_a_program_comes_from_a_mirror_and_is_checked_by_the_sum_in_the_file(
    tmp_path: Path,
    mirror: str,
    files: dict[str, bytes],
    program: str,
    machine: str,
    architecture: str,
    path: str,
    content: bytes,
) -> None:
    version = pin(PIN_OF[program])
    files[path.format(v=version, n=version[1:])] = content
    sums = {f"{PIN_OF[program]}_{architecture}": content}
    done = install(tmp_path, program, mirror, machine, sums)
    assert done.returncode == 0, done.stderr
    assert subprocess.check_output([str(tmp_path / program)], text=True) == "runs\n"


def test_a_file_that_was_altered_is_not_installed(
    tmp_path: Path, mirror: str, files: dict[str, bytes]
) -> None:
    files[f"/{pin('KUBECTL')}/bin/linux/amd64/kubectl"] = SCRIPT
    done = install(tmp_path, "kubectl", mirror, "x86_64")
    assert done.returncode == 1
    assert "is not the file whose SHA-256 stands in ci/install" in done.stderr
    assert not (tmp_path / "kubectl").exists()


def test_a_component_brings_newer_pins(
    tmp_path: Path, mirror: str, files: dict[str, bytes]
) -> None:
    files["/v9.9.9/bin/linux/amd64/kubectl"] = SCRIPT
    digest = hashlib.sha256(SCRIPT).hexdigest()
    pins = f"KUBECTL=v9.9.9 KUBECTL_amd64={digest}"
    done = install(tmp_path, "kubectl", mirror, "x86_64", pins=pins)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "kubectl").read_bytes() == SCRIPT


@pytest.mark.parametrize("pins", ["PATH=/tmp", "KUBECTL=$(id)", "KUBECTL", "BASH_ENV=x"])
def test_what_is_no_pin_is_refused_and_sets_nothing(
    tmp_path: Path, mirror: str, files: dict[str, bytes], pins: str
) -> None:
    done = install(tmp_path, "kubectl", mirror, "x86_64", pins=pins)
    assert done.returncode == 1
    assert f"INSTALL_PINS: {pins} is not a pin: write KUBECTL=" in done.stderr
    assert not (tmp_path / "kubectl").exists()


def test_a_version_that_was_deleted_names_the_address_and_the_mirror(
    tmp_path: Path, mirror: str, files: dict[str, bytes]
) -> None:
    done = install(tmp_path, "trivy", mirror, "x86_64")
    assert done.returncode == 1
    assert f"/{pin('TRIVY')}/trivy_" in done.stderr
    assert "cannot be downloaded: set TRIVY_MIRROR to a mirror" in done.stderr


def test_another_architecture_is_named_before_anything_is_downloaded(
    tmp_path: Path, mirror: str, files: dict[str, bytes]
) -> None:
    done = install(tmp_path, "kubectl", mirror, "riscv64")
    assert done.returncode == 1
    assert "KUBECTL: no file is pinned for riscv64" in done.stderr


@pytest.mark.parametrize(("host", "program"), [("", "buildah"), ("tcp://x:1", "buildctl")])
def test_the_builder_is_buildctl_where_buildkit_builds(
    tmp_path: Path, host: str, program: str
) -> None:
    """The other one is missing, and would have to be installed."""
    (tmp_path / program).symlink_to("/bin/true")
    for name in ("bash", "uname"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    settings = {"PATH": str(tmp_path), "BUILDKIT_HOST": host}
    words = ["bash", str(INSTALL), "builder", "bash"]
    done = subprocess.run(words, env=settings, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_trivy_is_one_that_exists_and_not_the_one_of_an_attacker() -> None:
    """0.27 to 0.69.1 were deleted, 0.69.4 was published by an attacker."""
    version = tuple(map(int, pin("TRIVY").removeprefix("v").split(".")))
    assert version >= (0, 71, 0)


def test_kubectl_is_within_one_minor_version_of_the_clusters() -> None:
    major, minor, _ = map(int, pin("KUBECTL").removeprefix("v").split("."))
    assert major == 1 and minor >= 35


# Renovate's managers, each a regular expression over some files.

RENOVATE = json.loads((ROOT / "renovate.json").read_text(encoding="utf-8"))
MANAGED = ("ci/install", "Dockerfile", *(f"templates/{path.name}" for path in ci.COMPONENTS))


def renewed(name: str) -> list[str]:
    """The parts of a file that a manager reads, whole matches."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return [
        match[0]
        for manager in RENOVATE["customManagers"]
        if any(re.search(pattern.strip("/"), name) for pattern in manager["managerFilePatterns"])
        for pattern in manager["matchStrings"]
        for match in re.finditer(pattern.replace("(?<", "(?P<"), text)
    ]


def test_each_pin_is_renewed_by_one_manager() -> None:
    pins = {
        "ci/install": [pin(name) for name in PIN_OF.values()],
        "Dockerfile": ["python:3.11", "nvidia/cuda"],
        "templates/base.yml": ["python:3.11"],
        "templates/quality.yml": ["gitleaks"],
    }
    offenders = [
        f"{name}: {found}"
        for name, wanted in pins.items()
        for found in wanted
        if sum(found in match for match in renewed(name)) != 1
    ]
    assert offenders == []


def test_no_digest_stands_outside_of_what_is_renewed() -> None:
    offenders = []
    for name in MANAGED:
        matched = "".join(renewed(name))
        digests = re.findall(r"sha256:[0-9a-f]{64}", (ROOT / name).read_text(encoding="utf-8"))
        offenders += [f"{name}: {digest}" for digest in digests if digest not in matched]
    assert offenders == []


# Images of compose.yaml, which Renovate's own manager reads.

LEAST = {
    "apache/kafka": (4, 0),
    "prom/prometheus": (3, 13),  # long-term support until July 2027
    "prom/alertmanager": (0, 34),
    "prom/pushgateway": (1, 11),
    "prom/node-exporter": (1, 12),
    "prom/blackbox-exporter": (0, 28),
    "grafana/grafana": (13, 2),  # a minor release of Grafana is supported for nine months
}
"""The oldest releases that were not out of support in November 2026."""


def test_images_of_compose_are_renewed_and_not_of_releases_out_of_support() -> None:
    document = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    pinned = [item["image"].split(":") for item in document["services"].values() if "image" in item]
    assert {name for name, _ in pinned} == LEAST.keys()
    for name, version in pinned:
        found = tuple(map(int, version.removeprefix("v").split(".")))
        assert len(found) == 3 and found >= LEAST[name], f"{name}:{version}"
    assert "docker-compose" in RENOVATE["enabledManagers"]


# CML, whose lock belongs to npm.

PACKAGE, LOCK = (
    json.loads((ROOT / "ci" / "cml" / name).read_text(encoding="utf-8"))
    for name in ("package.json", "package-lock.json")
)


def test_cml_and_its_picture_library_are_locked_at_versions_that_run_on_node_18_to_22() -> None:
    """@npcz/magic 1.3.12, of CML's own lock, ends with the first picture on every Node since 18."""
    packages = LOCK["packages"]
    assert packages[""]["dependencies"] == PACKAGE["dependencies"]
    locked = {name: packages[f"node_modules/{name}"]["version"] for name in PACKAGE["dependencies"]}
    assert locked == PACKAGE["dependencies"]
    magic = packages["node_modules/@npcz/magic"]["version"]
    assert magic == PACKAGE["overrides"]["@npcz/magic"]
    assert tuple(map(int, magic.split("."))) >= (1, 3, 16)
    assert "npm" in RENOVATE["enabledManagers"]


def test_the_lock_names_no_host_and_has_a_sum_for_every_package_but_cml() -> None:
    packages = {name: row for name, row in LOCK["packages"].items() if name}
    assert [name for name, row in packages.items() if "resolved" in row] == []
    unsummed = [name for name, row in packages.items() if "integrity" not in row]
    assert unsummed == ["node_modules/@dvcorg/cml"], "docs/decisions.md says why"


def test_every_text_names_the_version_of_cml_that_is_installed() -> None:
    version = PACKAGE["dependencies"]["@dvcorg/cml"]
    names = run("git", "ls-files", "*.md", "*.py", "*.yml", "Dockerfile", cwd=ROOT).stdout.split()
    texts = {name: (ROOT / name).read_text("utf-8") for name in (*names, "tests/e2e/bin/cml")}
    found = {
        (name, match)
        for name, text in texts.items()
        if name != "docs/decisions.md"  # what was true on a day
        for match in re.findall(r"(?:CML |@dvcorg/cml@)(\d+\.\d+\.\d+)", text)
    }
    assert len(found) >= 4
    assert {(name, match) for name, match in found if match != version} == set()


def test_a_newer_version_of_a_program_waits_for_its_sums() -> None:
    """Renovate knows no sum: the request says what is missing, and is not merged by itself."""
    (rule,) = [rule for rule in RENOVATE["packageRules"] if "prBodyNotes" in rule]
    assert set(rule["matchFileNames"]) == {"ci/install"} and rule["automerge"] is False
    assert "SHA-256" in rule["prBodyNotes"][0]
