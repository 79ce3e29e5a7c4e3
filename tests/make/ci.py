"""The pipeline's files as documents, and the jobs that gitlab-ci-local reads out of the rules."""

import atexit
import csv
import functools
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.conftest import ROOT, run

RUNNER = ROOT / "tests" / "e2e" / "tools" / "node_modules" / ".bin" / "gitlab-ci-local"
HEAD = "name;description;stage;when;allowFailure;needs"


class Loader(yaml.SafeLoader):
    """Keeps GitLab's `!reference [job, key]` as what it is."""


def _reference(loader: Loader, node: yaml.SequenceNode) -> tuple[str, ...]:
    return tuple(loader.construct_sequence(node))


Loader.add_constructor("!reference", _reference)


def read_component(path: Path) -> dict[str, Any]:
    """A component as it is with the defaults of its inputs."""
    spec, _, text = path.read_text(encoding="utf-8").partition("\n---\n")
    for name, about in yaml.safe_load(spec)["spec"]["inputs"].items():
        default = about["default"]
        shown = json.dumps(default) if about.get("type") == "array" else str(default)
        text = text.replace(f"$[[ inputs.{name} ]]", shown)
    assert "$[[" not in text, f"{path.name}: an input that is not declared"
    document: dict[str, Any] = yaml.load(text, Loader)
    return document


BASE = ROOT / "templates" / "base.yml"
COMPONENTS = sorted((ROOT / "templates").glob("*.yml"))
FILES = (ROOT / ".gitlab-ci.yml", *COMPONENTS)
MAIN = read_component(BASE)
JOBS = {
    name: job for path in COMPONENTS if path != BASE for name, job in read_component(path).items()
}
TEMPLATES = JOBS | {name: job for name, job in MAIN.items() if name.startswith(".")}


def value(job: str, key: str) -> Any:
    """What a job has for a key: its own, else that of what it extends, else the default's."""
    found = TEMPLATES[job]
    if key in found:
        return found[key]
    if "extends" in found:
        return value(found["extends"], key)
    return MAIN["default"].get(key)


def seconds(text: str) -> int:
    """A time limit of GitLab: `90 minutes`, `1 hour 30 minutes`."""
    units = {"hour": 3600, "minute": 60}
    return sum(
        int(number) * units[unit] for number, unit in re.findall(r"(\d+) (hour|minute)s?", text)
    )


class Job(NamedTuple):
    """A job of a pipeline."""

    when: str
    may_fail: bool


def checkout(folder: Path) -> None:
    """Make a repository of the pipeline's files, with a job that has the rules of the workflow.

    gitlab-ci-local passes the workflow over; so the job `admitted` shows whether there would be a
    pipeline.
    """
    shutil.copytree(ROOT / "templates", folder / "templates")
    shutil.copy(ROOT / "search.yaml", folder)
    job = {"stage": "check", "script": ["true"], "rules": MAIN["workflow"]["rules"]}
    text = (ROOT / ".gitlab-ci.yml").read_text(encoding="utf-8")
    text += f"\n{yaml.safe_dump({'admitted': job})}"
    (folder / ".gitlab-ci.yml").write_text(text, encoding="utf-8")
    run("git", "init", "--quiet", cwd=folder)
    run("git", "add", "--all", cwd=folder)
    author = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    run("git", *author, "commit", "--quiet", "--message=start", cwd=folder)
    run("git", "update-ref", "refs/remotes/origin/main", "HEAD", cwd=folder)


@functools.cache
def _reader() -> subprocess.Popen[str]:
    """A process that answers which jobs there are; starting one takes a second each time."""
    tools = ROOT / "tests" / "e2e" / "tools" / "node_modules" / "gitlab-ci-local"
    line = ("node", str(Path(__file__).with_name("ci_jobs.mjs")), str(tools))
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.kill)
    return process


def jobs(folder: Path, variables: Mapping[str, str | None]) -> dict[str, Job]:
    """The jobs that these variables let in; None unsets one that gitlab-ci-local has by itself.

    Rules about changed files compare the working tree with origin/main.
    """
    asked = {
        "cwd": str(folder),
        "variable": [f"{name}={text}" for name, text in variables.items() if text is not None],
        "unsetVariable": [name for name, text in variables.items() if text is None],
    }
    reader = _reader()
    assert reader.stdin and reader.stdout
    reader.stdin.write(f"{json.dumps(asked)}\n")
    reader.stdin.flush()
    answer = json.loads(reader.stdout.readline())
    assert "error" not in answer, answer["error"]
    _, head, rows = answer["csv"].partition(HEAD)
    table = csv.DictReader(rows.splitlines()[1:], head.split(";"), delimiter=";")
    return {row["name"]: Job(row["when"], row["allowFailure"] == "true") for row in table}
