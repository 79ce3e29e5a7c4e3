"""Projects whose jobs are short commands, and the commands of a person beside them."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from jobs.admission import Admission
from jobs.record import Job
from jobs.request import read
from jobs.runner import start
from jobs.settings import Settings
from jobs.store import Store
from tests.conftest import ROOT, run
from tests.make.processes import until

PARAMS = "train:  # how\n  batch_size: 64  # chips\n  learning_rate: 0.02\n  device: auto\n"


class JobProject:
    """A Git repository with jobs, in a folder of its own."""

    def __init__(self, folder: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.state = folder / "artifacts" / "jobs"
        folder.mkdir(parents=True)
        self.write("params.yaml", PARAMS)
        self.write(".gitignore", "/artifacts\n")
        self.configure(settings or {})
        for words in (
            ("init", "--quiet", "--initial-branch=main"),
            ("config", "user.name", "Test"),
            ("config", "user.email", "test@example.org"),
        ):
            run("git", *words, cwd=folder)
        self.commit()
        self.store = Store(self.state, folder)
        self.environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}

    def write(self, path: str, content: str) -> Path:
        """Write a file of the project."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
        return file

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Write jobs/settings.yaml; parameters are judged by no code."""
        self.write("jobs/settings.yaml", yaml.safe_dump({"check": [], **settings}))

    def commit(self) -> str:
        """Commit everything; returns the hash."""
        run("git", "add", "--all", ".", cwd=self.folder)
        run("git", "commit", "--quiet", "--allow-empty", "--message", "x", cwd=self.folder)
        return run("git", "rev-parse", "HEAD", cwd=self.folder).stdout.strip()

    @property
    def settings(self) -> Settings:
        """As jobs/settings.yaml has them."""
        content = yaml.safe_load((self.folder / "jobs" / "settings.yaml").read_bytes())
        return Settings.model_validate_json(json.dumps(content))

    def jobs(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run `python -m jobs` as a person would."""
        command = (sys.executable, "-m", "jobs", *words)
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            text=True,
            capture_output=True,
            check=check,
        )

    def request(self, script: str = "echo done", **fields: Any) -> Path:
        """Write a request that runs a script of the shell; returns its file."""
        document = {"name": "job", "kind": "command", "command": ["sh", "-c", script], **fields}
        if document["kind"] != "command":
            del document["command"]
        return self.write(f"artifacts/{document['name']}.yaml", yaml.safe_dump(document))

    def submit(self, script: str = "echo done", *words: str, **fields: Any) -> str:
        """Submit that, by the command if it gets words more; returns the id."""
        file = self.request(script, **fields)
        if words:
            return self.jobs("submit", *words, str(file)).stdout.strip()
        job, _ = Admission(self.store, self.settings).submit(read(file), "test")
        start(self.store)
        return job.id

    def ended(self, name: str) -> Job:
        """The job when it has ended."""
        return until(lambda: job if (job := self.store.find(name)).has_ended else None, name)

    def log(self, name: str) -> str:
        """What its attempts have printed."""
        path = self.store.log(self.store.find(name))
        return path.read_text(encoding="utf-8") if path.exists() else ""
