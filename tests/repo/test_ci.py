"""The pipeline's files: jobs call commands that a person types, secrets stay where they belong."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.repo.test_readme import TARGETS


class Loader(yaml.SafeLoader):
    """Keeps GitLab's `!reference [job, key]` as what it is."""


def reference(loader: Loader, node: yaml.SequenceNode) -> tuple[str, ...]:
    return tuple(loader.construct_sequence(node))


Loader.add_constructor("!reference", reference)

FILES = (ROOT / ".gitlab-ci.yml", *sorted((ROOT / "ci").glob("*.yml")))
DOCUMENTS: dict[Path, dict[str, Any]] = {
    path: yaml.load(path.read_text(encoding="utf-8"), Loader) for path in FILES
}
MAIN = DOCUMENTS[FILES[0]]
JOBS = {name: job for path in FILES[1:] for name, job in DOCUMENTS[path].items()}


def lines(job: dict[str, Any]) -> list[str]:
    return [*job.get("before_script", []), *job.get("script", [])]


@pytest.mark.parametrize("name", JOBS)
def test_a_job_calls_what_a_person_types(name: str) -> None:
    for line in lines(JOBS[name]):
        first, *rest = line.split()
        if first == "make":
            targets = [word for word in rest if "=" not in word]
            assert set(targets) <= TARGETS, line
        else:
            assert first in ("ci/install", "ci/credentials", "gitleaks", "command"), line


@pytest.mark.parametrize("name", JOBS)
def test_texts_of_others_stand_in_quotes(name: str) -> None:
    for line in lines(JOBS[name]):
        assert re.sub(r'"\$[A-Z_]+"|="?[a-z/]*\$[A-Z_]+"', "", line).count("$") == 0, line


def test_nothing_that_fails_is_passed_over() -> None:
    for path in (*FILES, ROOT / "ci" / "install", ROOT / "ci" / "credentials", ROOT / "Makefile"):
        content = path.read_text(encoding="utf-8")
        assert "|| true" not in content and "|| :" not in content, path
    failing = {name for name, job in JOBS.items() if job.get("allow_failure")}
    assert failing <= {".review"}


def test_images_are_pinned_and_the_base_is_the_one_of_the_dockerfile() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    base = re.search(r"(?m)^ARG PYTHON_BASE=(?:docker\.io/)?(?:library/)?(\S+)", dockerfile)
    assert base and base[1] == MAIN["variables"]["PYTHON_IMAGE"]
    assert "@sha256:" in base[1]
    images = [job["image"]["name"] for job in JOBS.values() if "image" in job]
    assert all(re.search(r"(:v?\d+\.\d+\.\d+|@sha256:[0-9a-f]{64})$", name) for name in images)


def test_a_merge_request_reaches_no_stage() -> None:
    """Jobs that deploy run for main and for tags of the registry; review apps have their own."""
    for name in ("staging", "production", "register", "build-image", "verify"):
        rules = JOBS[name].get("rules") or JOBS[".rollout"].get("rules") or MAIN[".main"]["rules"]
        text = str([rule if isinstance(rule, tuple) else rule["if"] for rule in rules])
        assert "merge_request_event" not in text
        assert ".merge-request" not in text


def test_only_releases_can_not_be_interrupted() -> None:
    assert MAIN["default"]["interruptible"] is True
    assert MAIN[".main"]["interruptible"] is False
    assert JOBS[".rollout"]["interruptible"] is False
    for name in ("staging", "production"):
        assert JOBS[name]["resource_group"] == name
