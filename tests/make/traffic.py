"""What a busy day does to a service, in seconds: answers, refusals, swaps, and what people say."""

import io
import itertools
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np
import pytest

from delivery.metrics import pipeline
from delivery.metrics.pipeline import ABOUT, PIPELINES, TOKENS, VARIABLE
from tests.make.monitored_bundles import watched_bundle
from tests.make.projects import Published, contents
from tests.make.server import Server

TAG, ABSENT = "landcover@v1.0.0", "landcover@v9.9.9"
BANDS = 4
TRAINING = {
    "finished": "2026-11-01T12:00:00+00:00",
    "seconds": 9.0,
    "hardware": "2 cores",
    "git_revision": "0" * 40,
    "data_version": "0123456789abcdef0123456789abcdef.dir",
    "params": {"gate": {"min_accuracy": 0.8}},
    "libraries": {},
}


def publish(folder: Path, chips: Sequence[Path]) -> tuple[Path, Path]:
    """Make a bundle, and a repository with another one under TAG; returns both folders.

    The other one lacks the reference of one signal, so that a signal cannot be measured.
    """
    first = watched_bundle(folder / "first", list(chips), training=TRAINING)
    second = watched_bundle(folder / "second", list(chips), seed=1, training=TRAINING)
    manifest = json.loads((second / "model.json").read_bytes())
    del manifest["reference"]["signals"]["roughness/B08"]
    (second / "model.json").write_text(json.dumps(manifest), encoding="utf-8")
    project = Published(folder / "project")
    project.publish(TAG, contents(second))
    return first, project.folder


def push(gateway: str) -> None:
    """Give the Pushgateway what a pipeline gives it after a training on a machine without a GPU."""
    trained = [
        name for name in ABOUT if name.startswith("conveyor_training_") and "gpu" not in name
    ]
    now = time.time()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, gateway)
        pipeline.push(dict.fromkeys(trained, now), {})
        pipeline.push({"conveyor_pipeline_seconds": 480}, {"pipeline": PIPELINES[0]})
        expires = {"conveyor_token_expires_timestamp_seconds": now + 30 * 86400}
        pipeline.push(expires, {"token": TOKENS[0]})


class Life:
    """Asks all the time, until the block ends; what goes wrong is in `wrong`."""

    def __init__(self, server: Server, chips: Sequence[Path]) -> None:
        self._server = server
        self._bodies = [path.read_bytes() for path in chips]
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._live) for _ in range(2)]  # a worker each
        self.wrong: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def swap(self) -> None:
        """Swap to TAG, fail to swap, three times as a machine would, and go back and forth."""
        with self._server.client() as client:
            for tag, status in ((TAG, 200), *[(ABSENT, 404)] * 3):
                answer = client.post("/replace_ml_model", json={"tag": tag})
                assert answer.status_code == status, answer.text
            for _ in range(2):
                assert client.post("/rollback_ml_model").status_code == 200

    def _live(self) -> None:
        with self._server.client() as client:
            for number in itertools.count():
                if self._stop.wait(0.02):
                    return
                try:
                    self._turn(client, number)
                except Exception as error:
                    self.wrong.append(f"{type(error).__name__}: {error}")
                    return

    def _turn(self, client: httpx.Client, number: int) -> None:
        found = _predict(client, self._bodies[number % len(self._bodies)], 200)
        if number % 2 == 0:
            _answer(client, found, right=number % 8 != 0)
        if number % 10 == 0:
            _predict(client, b"no image", 415)
            _predict(client, _other_size(), 422)
        if number % 20 == 0:
            for path in ("/version", "/healthz", "/samples", "/nowhere"):
                client.get(path)


def _predict(client: httpx.Client, body: bytes, status: int) -> Any:
    headers = {"content-type": "application/octet-stream"}
    answer = client.post("/predict", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


def _answer(client: httpx.Client, found: Any, right: bool) -> None:
    label = (
        found["class"] if right else next(n for n in found["probabilities"] if n != found["class"])
    )
    body = {"request_id": found["request_id"], "label": label}
    answer = client.post("/feedback", json=body)
    assert answer.status_code == 200, answer.text


def _other_size() -> bytes:
    content = io.BytesIO()
    np.save(content, np.zeros((BANDS, 8, 8), np.uint16))
    return content.getvalue()
