"""Images of a folder, as they are or changed, sent at a steady pace over several connections."""

import io
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from monitoring.errors import MonitoringError

SUFFIXES = (".tif", ".tiff", ".jpg", ".jpeg", ".png", ".npy")
MOST_FILES = 2000  # of a folder that are sent; enough that no window sees one twice too often
HEADERS = {"content-type": "application/octet-stream"}
CONNECTIONS = 4  # so that every worker has one
OVERLOADED = (429, 503)  # the service is busy, not broken: the next one may go well
PATIENCE = 30.0  # seconds that one answer may take

Array = npt.NDArray[Any]


class Input(NamedTuple):
    """What the model wants, as `/version` says it."""

    bands: int
    nodata: int | None
    """Value of a pixel that holds nothing; it stays as it is."""
    valid_max: int
    """The largest value that a pixel can have."""


def find_images(folder: Path) -> list[Path]:
    """Images below a folder, of every class, in an order that is mixed and always the same.

    Raises:
        MonitoringError: there are none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise MonitoringError(
            f"data: there are no images in {folder}: `dvc pull data.dvc` brings the sample, "
            "--data names another folder"
        )
    return random.Random(0).sample(found, min(len(found), MOST_FILES))


def brighter(path: Path, wanted: Input, factor: float) -> bytes:
    """The image of a file, `factor` times as bright, as NPY (bands, height, width).

    As if the scale of the sensor had changed: what would be more than it can say is cut off.
    """
    pixels = _bands_first(_read(path), wanted.bands)  # (B, H, W)
    limit = min(wanted.valid_max, int(np.iinfo(pixels.dtype).max))
    changed = (pixels * factor).clip(0, limit).astype(pixels.dtype)
    if wanted.nodata is not None:
        changed[pixels == wanted.nodata] = wanted.nodata
    content = io.BytesIO()
    np.save(content, changed, allow_pickle=False)
    return content.getvalue()


def _read(path: Path) -> Array:
    suffix = path.suffix.lower()
    content = io.BytesIO(path.read_bytes())
    if suffix == ".npy":
        return np.asarray(np.load(content, allow_pickle=False))
    if suffix in (".tif", ".tiff"):
        return np.asarray(tifffile.imread(content))
    with Image.open(content) as picture:
        return np.asarray(picture)


def _bands_first(pixels: Array, bands: int) -> Array:
    if pixels.ndim == 2:
        return pixels[None]
    return pixels if pixels.shape[0] == bands else np.moveaxis(pixels, -1, 0)


class Traffic:
    """Sends bodies to `/predict` from the beginning of the block to its end."""

    def __init__(
        self,
        url: str,
        files: Sequence[Path],
        body: Callable[[Path], bytes],
        rate: float,
        headers: Mapping[str, str],
    ) -> None:
        """Send what `body` makes of the files, round and round, `rate` a second."""
        self.answers: Counter[int] = Counter()  # status -> how many
        self._url = url
        self._files = files
        self._body = body
        self._rate = rate
        self._headers = dict(headers) | HEADERS
        self._numbers = itertools.count()  # its next() is atomic
        self._started = time.monotonic()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._error: MonitoringError | None = None
        self._threads = [threading.Thread(target=self._send_all) for _ in range(CONNECTIONS)]

    @property
    def sent(self) -> int:
        """Images that were predicted."""
        return self.answers[200]

    def __enter__(self) -> Self:
        """Start."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and wait for the last answers."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        """Look how it goes.

        Raises:
            MonitoringError: the service refuses what it is sent, or has gone.
        """
        if self._error is not None:
            raise self._error

    def _send_all(self) -> None:
        # Nothing between us and the service: a proxy of the environment is for elsewhere.
        with httpx.Client(timeout=PATIENCE, headers=self._headers, trust_env=False) as client:
            while not self._stop.is_set():
                number = next(self._numbers)
                due = self._started + number / self._rate
                if self._stop.wait(max(0.0, due - time.monotonic())):
                    return
                try:
                    self._send(client, self._files[number % len(self._files)])
                except MonitoringError as error:
                    self._error = error
                    return

    def _send(self, client: httpx.Client, file: Path) -> None:
        try:
            answer = client.post(f"{self._url}/predict", content=self._body(file))
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise MonitoringError(f"the service at {self._url} has gone: {reason}") from None
        except (OSError, ValueError) as error:
            raise MonitoringError(f"data: {file} can not be read: {error}") from None
        with self._lock:
            self.answers[answer.status_code] += 1
        if answer.status_code in (401, 403):
            raise MonitoringError(
                f"the service at {self._url} wants a key with the role `predict`: DEMO_KEY=..."
            )
        if answer.status_code != 200 and answer.status_code not in OVERLOADED:
            raise MonitoringError(
                f"the service refuses {file} ({answer.status_code}): {_detail(answer)}; "
                "the images have to be those of the model: --data names another folder"
            )


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])[:300]
    except (ValueError, KeyError, TypeError):
        return answer.text[:300]
