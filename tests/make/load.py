"""Clients that send chips all the time and check every answer against the model that it names."""

import http.client
import io
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from tests.make.bundles import CLASSES, expected, make_chip
from tests.make.projects import digest_of

CLIENTS = 4
CHIPS = [make_chip(40 + client) for client in range(CLIENTS)]
HEADERS = {"content-type": "application/octet-stream"}
PAUSE = 0.002  # seconds between two requests of a client; the cores are shared
ROUNDING = 2e-6  # six digits in the answer

Label = tuple[str, str]  # tag, SHA-256
Truth = dict[Label, list[npt.NDArray[np.float32]]]  # label -> an answer a chip


def npy(chip: npt.NDArray[Any]) -> bytes:
    """A chip as a file."""
    content = io.BytesIO()
    np.save(content, chip)
    return content.getvalue()


BODIES = [npy(chip) for chip in CHIPS]


def truth(bundles: Mapping[str, Path]) -> Truth:
    """What the model of each tag says about each chip, from the runtime itself."""
    return {
        (tag, digest_of(bundle)): [expected(bundle, chip) for chip in CHIPS]
        for tag, bundle in bundles.items()
    }


class Client:
    """One connection that is kept, and made anew when the server says that it closes it."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self.connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)

    def predict(self, chip: int) -> tuple[int, dict[str, Any]]:
        """Send a chip; the status and the body."""
        self.connection.request("POST", "/predict", BODIES[chip], HEADERS)
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read())

    def close(self) -> None:
        """Give the connection up."""
        self.connection.close()


def check(known: Truth, chip: int, status: int, body: Mapping[str, Any]) -> Label:
    """Which model gave an answer. AssertionError unless it is exactly what that model gives."""
    assert status == 200, body
    label = (body["model"]["tag"], body["model"]["sha256"])
    assert label in known, f"nobody knows {label}"
    assert tuple(body["probabilities"]) == CLASSES
    found = np.array(list(body["probabilities"].values()))
    error = np.abs(found - known[label][chip]).max()
    assert error < ROUNDING, f"{label} does not answer like this: {error} off"
    return label


class Load:
    """Threads that ask, round and round the given replicas, until the block ends."""

    def __init__(self, urls: str | Sequence[str], known: Truth, clients: int = CLIENTS) -> None:
        self.urls = [urls] if isinstance(urls, str) else list(urls)
        self.known = known
        self.answers: Counter[Label] = Counter()
        self.wrong: list[str] = []
        self.seconds: list[tuple[float, float]] = []  # when, and how long it took
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(number,)) for number in range(clients)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.wait(len(self._threads))
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait(self, more: int = 20) -> None:
        """Wait until so many more answers have come."""
        goal = self.answers.total() + more
        deadline = time.monotonic() + 60
        while self.answers.total() < goal and not self.wrong:
            assert time.monotonic() < deadline, "no answers"
            time.sleep(0.005)

    def _ask(self, number: int) -> None:
        chip = number % len(CHIPS)
        clients = [Client(url) for url in self.urls]
        for client in itertools.cycle(clients):
            if self._stop.is_set():
                break
            started = time.monotonic()
            try:
                label = check(self.known, chip, *client.predict(chip))
            except Exception as error:
                self.wrong.append(f"{type(error).__name__}: {error}")
                break
            self.seconds.append((started, time.monotonic() - started))
            self.answers[label] += 1
            time.sleep(PAUSE)
        for client in clients:
            client.close()


def percentile(seconds: Sequence[float], share: float) -> float:
    """Milliseconds that this share of requests stays below."""
    return float(np.percentile(seconds, share)) * 1000
