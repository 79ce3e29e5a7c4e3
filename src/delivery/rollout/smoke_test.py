"""The smoke test of an address: readiness, tag and digest of every worker, known answers."""

import base64
import io
import re
import time
import zlib
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import numpy as np

from contracts import bundle
from contracts.bundle import Manifest, parse_manifest
from delivery.errors import RolloutError
from delivery.http import send

LIMIT = 60.0  # seconds until every check must pass
PAUSE = 1.0  # seconds between two attempts
TIMEOUT = 10.0  # seconds of one request
REQUESTS = 6  # for /version, each on a new connection, to reach several replicas
TOLERANCE = 1e-3  # of a probability, or a share of the pixels, as in the service's own self-test
SHA256 = re.compile(r"[0-9a-f]{64}")
TOKEN = re.compile(r"[!-~]*")
UNEXPECTED = (KeyError, TypeError, ValueError, AttributeError)  # fields of another server
LOCAL = re.compile(r"localhost|127(\.[0-9]+){3}|::1|[a-z0-9.-]+\.svc(\.cluster\.local)?")


class Golden(NamedTuple):
    """A chip with its expected answer."""

    chip: bytes
    """NPY, (bands, height, width)."""
    field: str
    """Of the answer: probabilities, or shares of the chip's area."""
    expected: dict[str, float]
    """Class -> value."""


class Expected(NamedTuple):
    """The model that an address should serve."""

    tag: str
    sha256: str = ""
    """Of model.onnx; any if empty."""
    golden: tuple[Golden, ...] = ()


class Refused(RolloutError):
    """Repeating the request would not help."""


class SmokeTest:
    """The checks of one address."""

    def __init__(self, url: str, expected: Expected, token: str = "") -> None:
        """Check address and token.

        Raises:
            Refused: the address is invalid, or the token would be sent unencrypted.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise Refused(
                f"url: {url[:128]!a} is not an address: write https://landcover.example.com"
            )
        if token and parts.scheme == "http" and not LOCAL.fullmatch(parts.hostname):
            raise Refused(
                f"url: {url[:128]} is not encrypted, and SMOKE_TOKEN is a secret: use https"
            )
        if not TOKEN.fullmatch(token):
            raise Refused("SMOKE_TOKEN: has spaces or characters that a header cannot carry")
        self._url = url.rstrip("/")
        self._expected = expected
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    def run(self, limit: float = LIMIT, report: Callable[[str], None] = print) -> list[str]:
        """Repeat the checks until all pass; returns one line per check.

        Raises:
            RolloutError: they did not pass within `limit` seconds; the message is the last reason.
        """
        deadline = time.monotonic() + limit
        last = ""
        while True:
            try:
                found = [f"{check.__name__}: {check()}" for check in self._checks()]
            except Refused:
                raise
            except (RolloutError, *UNEXPECTED) as error:
                if not isinstance(error, RolloutError):
                    error = RolloutError(f"{self._url} does not respond like the service")
                if time.monotonic() > deadline:
                    raise RolloutError(f"{error} (retried for {limit:g} s)") from None
                if str(error) != last:
                    report(f"wait  {error}")
                last = str(error)
                time.sleep(PAUSE)
                continue
            for line in found:
                report(f"ok    {line}")
            return found

    def _checks(self) -> tuple[Callable[[], str], ...]:
        return self.ready, self.version, self.golden if self._expected.golden else self.samples

    def ready(self) -> str:
        """The service is ready."""
        self._request("GET", "/readyz")
        return "200"

    def version(self) -> str:
        """Every worker that answers serves the right tag and digest."""
        most = 0
        for _ in range(REQUESTS):
            found = _json(self._request("GET", "/version"))
            serving = [found.get("model"), *(found.get("workers") or [None])]
            for label in serving:
                self._compare(label or {})
            most = max(most, len(serving) - 1)
        return f"{self._expected.tag} in all of {most} workers, {REQUESTS} requests"

    def golden(self) -> str:
        """The bundle's golden chips get the answers of the bundle."""
        worst = 0.0
        for number, (chip, field, expected) in enumerate(self._expected.golden):
            found = self._predict(chip)[field]
            if set(found) != set(expected):
                raise RolloutError(f"golden: chip {number} got other classes")
            worst = max(worst, *(abs(found[name] - expected[name]) for name in expected))
            if not worst <= TOLERANCE:
                raise RolloutError(f"golden: chip {number} is {worst:.2g} off: another model")
        return f"{len(self._expected.golden)} chips within {TOLERANCE:g}, the worst {worst:.1g} off"

    def samples(self) -> str:
        """The samples of the service get the classes that it lists for them."""
        listed = _json(self._request("GET", "/samples"))
        if not listed:
            raise RolloutError("samples: the service has no sample to predict")
        for sample in listed:
            chip = self._request("GET", f"/samples/{int(sample['index'])}").content
            if (found := _answer(self._predict(chip))) != sample["answer"]:
                raise RolloutError(
                    f"samples: {sample['index']} is {found!a}, expected {sample['answer']!a}"
                )
        return f"{len(listed)} correct"

    def _predict(self, chip: bytes) -> Any:
        response = _json(self._request("POST", "/predict", content=chip))
        self._compare(response["model"])
        return response

    def _compare(self, label: dict[str, Any]) -> None:
        expected = self._expected
        if label.get("tag") != expected.tag:
            raise RolloutError(f"version: {label.get('tag')!a} serves, not {expected.tag}")
        if expected.sha256 and label.get("sha256") != expected.sha256:
            raise RolloutError(
                f"version: {expected.tag} is the model {str(label.get('sha256'))[:12]!a}..., "
                f"not {expected.sha256[:12]}..."
            )

    def _request(self, method: str, path: str, content: bytes | None = None) -> httpx.Response:
        """Send one request on a connection of its own."""
        headers = self._headers
        if content is not None:
            headers = headers | {"content-type": "application/octet-stream"}
        try:
            response = send(
                method, self._url + path, content=content, headers=headers, timeout=TIMEOUT
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise RolloutError(f"{path}: no response from {self._url}: {reason}") from None
        if response.status_code in (401, 403):
            raise Refused(
                f"{path}: the credentials are refused ({response.status_code}): SMOKE_TOKEN "
                "must be a key or token of this stage with the roles predict and view"
            )
        if response.status_code != 200:
            raise RolloutError(f"{path}: {response.status_code} {_detail(response)}".rstrip())
        return response


def read_bundle(tag: str, folder: Path) -> Expected:
    """Expect the bundle in a folder, under `tag`.

    Raises:
        Refused: the bundle is missing, or has another schema.
    """
    path = folder / "model.json"
    try:
        manifest = parse_manifest(path.read_bytes())
        golden = tuple(_golden(item, manifest) for item in manifest.golden)
        return Expected(tag, manifest.sha256, golden)
    except OSError as error:
        raise Refused(f"bundle: {path} cannot be read: {error.strerror}: dvc pull") from None
    except (ValueError, zlib.error):
        raise Refused(f"bundle: {path} is not of schema 1: train it again") from None


def parse_sha256(text: str) -> str:
    """Check a digest.

    Raises:
        Refused: it is malformed.
    """
    if not SHA256.fullmatch(text):
        raise Refused(f"sha256: {text[:80]!a} is not a SHA-256: write 64 hexadecimal digits")
    return text


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that describe the expected model."""
    parser.add_argument("--version", required=True, help="the version, landcover@v1.2.0")
    parser.add_argument("--sha256", default="", help="SHA-256 of its model.onnx")
    parser.add_argument(
        "--bundle", type=Path, help="its bundle: compare digest and golden chips with this folder"
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=LIMIT,
        help="seconds until every check must pass (default: 60)",
    )


def expectation(tag: str, sha256: str, bundle: Path | None) -> Expected:
    """Read these arguments.

    Raises:
        Refused: the digest is malformed, the bundle is missing, or the two differ.
    """
    if bundle is None:
        return Expected(tag, parse_sha256(sha256) if sha256 else "")
    found = read_bundle(tag, bundle)
    if sha256 and found.sha256 != sha256:
        raise Refused(
            f"sha256: the bundle in {bundle} is {found.sha256[:12]}..., not {sha256[:12]}"
        )
    return found


def _answer(response: dict[str, Any]) -> str:
    """The answer as the service's list of samples names it: a class, or how many objects."""
    if "objects" not in response:
        return str(response["class"])
    count = len(response["objects"])
    return f"{count} object" if count == 1 else f"{count} objects"


def _golden(
    item: bundle.Golden | bundle.GoldenMap | bundle.GoldenObjects, manifest: Manifest
) -> Golden:
    dtype = np.dtype(manifest.input.dtype).newbyteorder("<")
    pixels = np.frombuffer(zlib.decompress(base64.b64decode(item.chip)), dtype)
    content = io.BytesIO()
    np.save(content, pixels.reshape(manifest.input.shape), allow_pickle=False)
    if isinstance(item, bundle.Golden):
        probabilities = dict(zip(manifest.classes, item.probabilities, strict=True))
        return Golden(content.getvalue(), "probabilities", probabilities)
    if isinstance(item, bundle.GoldenObjects):
        objects = np.bincount(np.array(item.labels, np.int64), minlength=len(manifest.classes))
        named = dict(zip(manifest.classes, objects.tolist(), strict=True))
        return Golden(content.getvalue(), "counts", named)
    labels = np.frombuffer(zlib.decompress(base64.b64decode(item.labels)), np.uint8)
    counts = np.bincount(labels[labels != bundle.NODATA], minlength=len(manifest.classes))
    shares = (counts / max(1, counts.sum())).tolist()
    return Golden(content.getvalue(), "shares", dict(zip(manifest.classes, shares, strict=True)))


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise RolloutError(
            f"{response.url.path}: the response is not JSON: is this the address of the service?"
        ) from None


def _detail(response: httpx.Response) -> str:
    """The service's own explanation; empty for another server's page."""
    try:
        return str(response.json()["detail"])[:300]
    except (ValueError, KeyError, TypeError):
        return ""
