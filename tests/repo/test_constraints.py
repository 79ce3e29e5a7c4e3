"""pyproject.toml, poetry.lock and constraints.txt agree."""

import re
import tomllib

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

LEFT_OUT = re.compile(r"(nvidia-(cu|nccl|nv)|triton|cuda-)")  # torch pins its CUDA libraries itself
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK_TEXT = (ROOT / "poetry.lock").read_text(encoding="utf-8")
LOCK = tomllib.loads(LOCK_TEXT)
LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
CONSTRAINTS = [Requirement(line) for line in LINES if line and not line.startswith("#")]


def locked() -> set[tuple[str, str]]:
    return {
        (canonicalize_name(package["name"]), package["version"])
        for package in LOCK["package"]
        if not LEFT_OUT.match(package["name"])
    }


def test_the_constraints_are_the_lock() -> None:
    constrained = {
        (canonicalize_name(item.name), str(item.specifier).removeprefix("=="))
        for item in CONSTRAINTS
    }
    assert constrained == locked(), "run `make lock`"


def test_every_requirement_is_locked_within_its_range() -> None:
    versions: dict[str, list[str]] = {}
    for name, version in locked():
        versions.setdefault(name, []).append(version)
    extras = PROJECT["optional-dependencies"].values()
    for text in (*PROJECT["dependencies"], *(item for extra in extras for item in extra)):
        requirement = Requirement(text)
        found = versions[canonicalize_name(requirement.name)]
        assert all(requirement.specifier.contains(version) for version in found), text


def test_torch_is_pinned_and_in_train_alone() -> None:
    assert "torch==2.13.0" in PROJECT["optional-dependencies"]["train"]
    assert not any(item.startswith("torch") for item in PROJECT["dependencies"])


def test_one_version_a_package_holds_on_one_machine() -> None:
    environment = {"python_version": "3.11", "platform_system": "Linux", "sys_platform": "linux"}
    seen: set[str] = set()
    for item in CONSTRAINTS:
        marker = item.marker or Marker("python_version > '3'")
        if marker.evaluate(environment):
            assert item.name not in seen, item.name
            seen.add(item.name)


def test_the_lock_names_no_address() -> None:
    assert not re.search(r"https?://(?!\S*(python-poetry|github))\S+\.whl", LOCK_TEXT)
    assert "[package.source]" not in LOCK_TEXT
