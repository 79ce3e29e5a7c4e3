"""A real Chromium, and a real service with tagged experiments in a real Git repository."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.service.repositories import Project, md5

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
KEY = "cvy_only-for-this-test"
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
DEADLINE = 30  # seconds for a server to start

Files = dict[str, bytes]


@contextmanager
def chromium() -> "Iterator[Browser]":
    """Run Debian's Chromium; skips, and says so, where it or Playwright is not installed."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is not installed (Debian: apt install chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def sample_bundle() -> Files:
    """The bundle that belongs to this repository, from the DVC remote that it carries."""
    lock = yaml.safe_load((ROOT / "dvc.lock").read_text(encoding="utf-8"))
    [out] = [item for item in lock["stages"]["train"]["outs"] if item["path"] == "model"]
    listed = json.loads(_stored(out["md5"]))
    return {item["relpath"]: _stored(item["md5"]) for item in listed}


def _stored(digest: str) -> bytes:
    return (ROOT / "sample/files/md5" / digest[:2] / digest[2:]).read_bytes()


def variant(files: Mapping[str, bytes], name: str, golden: bool = True) -> Files:
    """The same model under another digest; without `golden` its self-test fails."""
    # Field 6 of ONNX's ModelProto is its documentation: a text, which changes no answer.
    graph = files["model.onnx"] + b"\x32" + bytes([len(name)]) + name.encode()
    manifest = json.loads(files["model.json"])
    manifest["sha256"] = hashlib.sha256(graph).hexdigest()
    if not golden:
        for item in manifest["golden"]:
            item["probabilities"].reverse()
    return {"model.json": json.dumps(manifest).encode(), "model.onnx": graph}


class Gallery(Project):
    """A repository with experiments that differ in what a person wants to see."""

    def experiment(
        self, tag: str, summary: str, files: Mapping[str, bytes], metrics: Any, changes: Any
    ) -> str:
        """Commit a training with its model and tag it; returns the commit."""
        self.lock(self.push(files))
        document = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        for section, values in changes.items():
            document[section].update(values)
        accuracy, macro_f1, log_loss = metrics
        measured = json.loads((ROOT / "reports/metrics.json").read_text(encoding="utf-8"))
        measured |= {"accuracy": accuracy, "macro_f1": macro_f1, "log_loss": log_loss}
        self.write("reports/metrics.json", json.dumps(measured))
        self.write("params.yaml", yaml.safe_dump(document))
        self.write("data.dvc", f"outs:\n- md5: {md5(b'data')}.dir\n  path: data\n")
        self.minutes += 2000
        commit = self.commit(summary)
        self.tag(tag)
        return commit


def build_gallery(folder: Path, files: Mapping[str, bytes]) -> Gallery:
    """Make a repository with six experiments; one has hostile texts, one a model that fails."""
    made = Gallery(folder)
    first = made.experiment(
        "landcover@v1.0.0", "Start with a small network", variant(files, "1.0.0"),
        (0.91, 0.905, 0.287), {"train": {"epochs": 12}},
    )  # fmt: skip
    made.experiment(
        "experiment/7-101", "Try dropout", variant(files, "7-101"),
        (0.9, 0.893, 0.301), {"train": {"epochs": 12}, "model": {"dropout": 0.2}},
    )  # fmt: skip
    made.experiment(
        "experiment/9-118", f"Hostile {HOSTILE}", variant(files, "9-118", golden=False),
        (0.84, 0.829, 0.522), {"train": {"epochs": 3}, "model": {"network": HOSTILE}},
    )  # fmt: skip
    second = made.experiment(
        "landcover@v1.1.0", "Augment with shifts and brightness", variant(files, "1.1.0"),
        (0.94, 0.937, 0.196), {"train": {"epochs": 30}},
    )  # fmt: skip
    made.experiment(
        "experiment/12-140", "Warm up for longer", variant(files, "12-140"),
        (0.93, 0.926, 0.21), {"train": {"learning_rate": 0.03}},
    )  # fmt: skip
    third = made.experiment(
        "landcover@v1.2.0", "Train on growing chips with Muon", variant(files, "1.2.0"),
        (0.95, 0.948, 0.175), {},
    )  # fmt: skip
    made.tag("landcover#production#1", first)
    made.tag("landcover#production#2", second)
    made.tag("landcover#staging#3", third)
    return made


@dataclass(frozen=True)
class Site:
    """A running service."""

    url: str
    log: Path


@contextmanager
def serve(folder: Path, bundle: Path, repository: Path, **settings: str) -> Iterator[Site]:
    """Run the service on a free port of loopback, with one key that may deploy."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    environment = os.environ | {
        "SERVICE_PORT": "0",
        "SERVICE_WORKERS": "1",
        "SERVICE_BUNDLE": str(bundle),
        "SERVICE_STATE": str(folder / "state"),
        "SERVICE_REPOSITORY": str(repository),
        "SERVICE_API_KEYS": json.dumps({digest: ["deploy", "view", "predict"]}),
        "DVC_NO_ANALYTICS": "1",
        **settings,
    }
    log = folder / "service.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "service"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            yield Site(_address(log, process), log)
        finally:
            process.terminate()
            process.wait(timeout=DEADLINE)


def _address(log: Path, process: "subprocess.Popen[bytes]") -> str:
    """Wait until it listens."""
    found: list[str] = []

    def listens() -> bool:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        found.extend(re.findall(r'"address": *"([^"]+)"', log.read_text(encoding="utf-8")))
        return bool(found)

    wait_for(listens)
    return found[0]


def wait_for(condition: Callable[[], bool]) -> None:
    """Poll until something is true."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


def write_bundle(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write the files of a bundle; returns the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder
