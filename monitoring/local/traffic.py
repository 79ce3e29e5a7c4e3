"""Images of a folder, unchanged or brighter, sent at a steady rate over several connections."""

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
MOST_FILES = 2000  # of a folder; enough that a window holds few images twice
HEADERS = {"content-type": "application/octet-stream"}
CONNECTIONS = 4  # so that every worker has one
OVERLOADED = (429, 503)  # the service is busy, not broken: the next image may succeed
PATIENCE = 30.0  # seconds for one response

Array = npt.NDArray[Any]


class Input(NamedTuple):
    """The input of a model, according to `/version`."""

    bands: int
    nodata: int | None
    """Value of a pixel without data; it is not changed."""
    valid_max: int
    """The largest value of a pixel."""


def find_images(folder: Path) -> list[Path]:
    """Images below a folder, of every class, in a shuffled order that is always the same.

    Raises:
        MonitoringError: the folder has no images.
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

    As if the scale of the sensor had changed: values above its maximum are clipped.
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
    """Sends images to `/predict` until the block ends."""

    def __init__(
        self,
        url: str,
        files: Sequence[Path],
        body: Callable[[Path], bytes],
        rate: float,
        headers: Mapping[str, str],
    ) -> None:
        """Send `body(file)` for the files in turn, again and again, `rate` a second."""
        self.responses: Counter[int] = Counter()  # status -> number
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
        """The number of predicted images."""
        return self.responses[200]

    def __enter__(self) -> Self:
        """Start."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and wait for the last responses."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        """Check that images are still being sent.

        Raises:
            MonitoringError: the service refuses the images, or does not respond any more.
        """
        if self._error is not None:
            raise self._error

    def _send_all(self) -> None:
        # Without the proxy of the environment: the service is on this machine.
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
            response = client.post(f"{self._url}/predict", content=self._body(file))
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise MonitoringError(
                f"the service at {self._url} does not respond any more: {reason}"
            ) from None
        except (OSError, ValueError) as error:
            raise MonitoringError(f"data: {file} cannot be read: {error}") from None
        with self._lock:
            self.responses[response.status_code] += 1
        if response.status_code in (401, 403):
            raise MonitoringError(
                f"the service at {self._url} wants a key with the role `predict`: DEMO_KEY=..."
            )
        if response.status_code != 200 and response.status_code not in OVERLOADED:
            raise MonitoringError(
                f"the service refuses {file} ({response.status_code}): {_detail(response)}; "
                "the images have to be those of the model: --data names another folder"
            )


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])[:300]
    except (ValueError, KeyError, TypeError):
        return response.text[:300]
