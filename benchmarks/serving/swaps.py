"""Hot swaps under load: how many requests fail, and what the slowest wait.

A Git repository with DVC is made in a temporary folder, with two model versions under the tags
landcover@v1.0.0 and landcover@v2.0.0 and another model in the bundle that serves first. While
requests come on their timetable, the service is told to replace its model and to roll back, in
turn. After each swap a few requests are checked: the answer must be that of the model wanted.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.serving import load, raw
from benchmarks.serving.bundle import Body, Served, make
from benchmarks.serving.load import Result
from benchmarks.serving.samples import MANY
from benchmarks.serving.servers import (
    CONTENDERS,
    HOST,
    PORT,
    BenchmarkError,
    Contender,
    Launch,
    Server,
    ask,
    check,
    ours,
    started,
)
from pipeline.params import read_params
from service.auth.roles import new_key

TAGS = ("landcover@v1.0.0", "landcover@v2.0.0")
COUNT = 20
PAUSE = 1.0  # seconds between swaps: a fetch takes about a second of a core
LOAD = 0.5  # of saturation; the other half is what fetching takes on two cores
CHECKS = 8  # requests after a swap; connections are new, so that every worker is likely met
FOREVER = 3600  # seconds; wrk is told to stop when the swaps are done
STAGES = """stages:
  train:
    cmd: cp -r {bundle} model
    outs:
      - model
"""


class Swaps(NamedTuple):
    """What was seen."""

    rate: float
    """Requests a second that were sent."""
    calm: Result
    """Without swaps."""
    swapping: Result
    seconds: list[float]
    """Of each swap; replace and rollback in turn."""
    checked: int
    wrong: int
    """Answers after a swap that were not the wanted model's."""

    @property
    def failures(self) -> int:
        """All that should not have happened."""
        return self.calm.errors + self.swapping.errors + self.wrong


class Version(NamedTuple):
    """A model that may serve, with its answer to the chip."""

    served: Served
    expected: npt.NDArray[np.float32]


def measure(network: str, seconds: int) -> Swaps:
    """Swap `COUNT` times under load.

    Raises:
        BenchmarkError: the service does not start, or refuses a swap.
    """
    print("making the models for the swaps", file=sys.stderr, flush=True)
    versions = _versions(network)
    first = versions[0]
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "project"
        make_repository(repository, [version.served.folder for version in versions[1:]])
        key, digest = new_key()
        contender = _with_registry(repository, digest)
        with started(contender, first.served, first.expected) as server:
            return _measure(server, contender.body(first.served), versions, key, seconds)


def make_repository(folder: Path, bundles: list[Path]) -> None:
    """Commit, push and tag each bundle as the model of one version, with Git and DVC themselves."""
    folder.mkdir()
    _run(folder, "git", "init", "--quiet", "--initial-branch=main")
    _run(folder, "git", "config", "user.name", "benchmark")
    _run(folder, "git", "config", "user.email", "benchmark@example.org")
    _run(folder, sys.executable, "-m", "dvc", "init", "--quiet")
    _run(folder, *_dvc("remote", "add", "--quiet", "--default", "store", "../store"))
    for tag, bundle in zip(TAGS, bundles, strict=True):
        (folder / "dvc.yaml").write_text(STAGES.format(bundle=bundle), encoding="utf-8")
        _run(folder, *_dvc("repro", "--quiet"))
        _run(folder, *_dvc("push", "--quiet"))
        _run(folder, "git", "add", "--all")
        _run(folder, "git", "commit", "--quiet", "--message", f"Train {tag}")
        _run(folder, "git", "tag", "--annotate", "--message", tag, tag)


def _versions(network: str) -> list[Version]:
    """Make the model that serves first and those of the tags; all answer the first one's chip."""
    found = [make("tiff", network, read_params(), seed=seed) for seed in range(1 + len(TAGS))]
    return [Version(served, raw.answer(served.folder, found[0].chip)) for served in found]


def _with_registry(repository: Path, digest: str) -> Contender:
    def launch(served: Served, state: Path) -> Launch:
        line, variables = ours(served, state)
        extra = {
            "SERVICE_REPOSITORY": str(repository),
            "SERVICE_API_KEYS": json.dumps({digest: ["deploy"]}),
        }
        return Launch(line, variables | extra)

    return next(item for item in CONTENDERS if item.name == "ours")._replace(launch=launch)


def _measure(server: Server, body: Body, versions: list[Version], key: str, seconds: int) -> Swaps:
    load.saturate(server.url, body, connections=MANY, seconds=2)
    rate = LOAD * load.saturate(server.url, body, connections=MANY, seconds=seconds).rate
    calm = load.paced(server.url, body, rate=rate, seconds=3 * seconds)
    times, wrong = [], 0
    with _background(server.url, body, rate) as client:
        for number in range(COUNT):
            begun = time.perf_counter()
            wanted = _swap(number, versions, key)
            times.append(time.perf_counter() - begun)
            wrong += sum(not _right(body, wanted) for _ in range(CHECKS))
            time.sleep(PAUSE)
        client.send_signal(signal.SIGINT)
        output, _ = client.communicate()
    return Swaps(rate, calm, load.read(output), times, COUNT * CHECKS, wrong)


def _swap(number: int, versions: list[Version], key: str) -> Version:
    """Replace on even numbers, roll back on odd ones; give what must serve then."""
    if number % 2:
        _post("/rollback_ml_model", key, None)
        return versions[0]
    choice = number // 2 % len(TAGS)
    _post("/replace_ml_model", key, {"tag": TAGS[choice]})
    return versions[1 + choice]


def _right(body: Body, version: Version) -> bool:
    status, content = ask(body)
    try:
        check(json.loads(content), version.served, version.expected)
    except (BenchmarkError, ValueError, KeyError):
        return False
    return status == 200


def _post(path: str, key: str, document: dict[str, str] | None) -> None:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    content = b"" if document is None else json.dumps(document).encode()
    request = urllib.request.Request(f"http://{HOST}:{PORT}{path}", content, headers)
    try:
        with urllib.request.urlopen(request, timeout=60):
            pass
    except urllib.error.HTTPError as error:
        raise BenchmarkError(f"{path} answered {error.code}: {error.read()[:500]!r}") from None
    except OSError as error:
        raise BenchmarkError(f"{path} got no answer: {error}") from None


@contextmanager
def _background(url: str, body: Body, rate: float) -> Iterator["subprocess.Popen[str]"]:
    line = load.command(url, body, load.CONNECTIONS, FOREVER, (f"{rate:.3f}",))
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as client:
        try:
            yield client
        finally:
            client.kill()


def _dvc(*words: str) -> list[str]:
    return [sys.executable, "-m", "dvc", *words]


def _run(folder: Path, *line: str) -> None:
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    result = subprocess.run(
        line, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise BenchmarkError(f"{' '.join(line[1:])} failed: {result.stderr[-500:]}")
