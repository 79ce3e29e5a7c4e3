"""Command: does an address really serve this version?

    python -m delivery.smoke https://landcover.example.com --version landcover@v1.2.0
    python -m delivery.smoke URL --version landcover@v1.2.0 --bundle model    its golden chips too

Ready, the right tag and digest in every worker, and a right answer to known chips. What does not
hold yet is asked again until the time is over. `SMOKE_TOKEN` is the key or token, with the roles
`predict` and, without --bundle, `view`.
"""

import base64
import io
import json
import os
import re
import time
import zlib
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import numpy as np

from delivery.errors import RolloutError, command
from delivery.tags import parse_version

LIMIT = 60.0  # seconds until it has to hold
PAUSE = 1.0  # seconds between two tries
PATIENCE = 10.0  # seconds that one answer may take
ASKS = 6  # times that /version is asked, each on a new connection: behind a balancer are several
TOLERANCE = 1e-3  # of a probability, as in the service's own self-test
SHA256 = re.compile(r"[0-9a-f]{64}")
TOKEN = re.compile(r"[!-~]*")
NOT_THE_SERVICE = (KeyError, TypeError, ValueError, AttributeError)  # its answers have other fields
LOCAL = re.compile(r"localhost|127(\.[0-9]+){3}|::1|[a-z0-9.-]+\.svc(\.cluster\.local)?")


class Golden(NamedTuple):
    """A chip with its right answer."""

    chip: bytes
    """NPY, (bands, height, width)."""
    probabilities: dict[str, float]


class Expected(NamedTuple):
    """What an address should serve."""

    tag: str
    sha256: str = ""
    """Of model.onnx; any if empty."""
    golden: tuple[Golden, ...] = ()


class Refused(RolloutError):
    """Asking again would not help."""


class Smoke:
    """The checks of one address."""

    def __init__(self, url: str, expected: Expected, token: str = "") -> None:
        """Take what is expected there.

        Raises:
            Refused: it is no address, or the token would travel in the clear.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise Refused(f"url: {url[:128]!a} is none: write https://landcover.example.com")
        if token and parts.scheme == "http" and not LOCAL.fullmatch(parts.hostname):
            raise Refused(f"url: {url[:128]} is not encrypted, and SMOKE_TOKEN a secret: use https")
        if not TOKEN.fullmatch(token):
            raise Refused("SMOKE_TOKEN: it holds spaces or characters that a header can not carry")
        self._url = url.rstrip("/")
        self._expected = expected
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    def run(self, limit: float = LIMIT, say: Callable[[str], None] = print) -> list[str]:
        """Ask until everything holds; one line a check.

        Raises:
            RolloutError: it did not hold within `limit` seconds; the message is the last reason.
        """
        deadline = time.monotonic() + limit
        said = ""
        while True:
            try:
                found = [f"{check.__name__}: {check()}" for check in self._checks()]
            except Refused:
                raise
            except (RolloutError, *NOT_THE_SERVICE) as error:
                if not isinstance(error, RolloutError):
                    error = RolloutError(f"{self._url} does not answer as the service does")
                if time.monotonic() > deadline:
                    raise RolloutError(f"{error} (asked for {limit:g} s)") from None
                if str(error) != said:
                    say(f"wait  {error}")
                said = str(error)
                time.sleep(PAUSE)
                continue
            for line in found:
                say(f"ok    {line}")
            return found

    def _checks(self) -> tuple[Callable[[], str], ...]:
        return self.ready, self.version, self.golden if self._expected.golden else self.samples

    def ready(self) -> str:
        """The service wants requests."""
        self._ask("GET", "/readyz")
        return "200"

    def version(self) -> str:
        """Every worker that can be met serves the right tag and digest."""
        most = 0
        for _ in range(ASKS):
            found = _json(self._ask("GET", "/version"))
            serving = [found.get("model"), *(found.get("workers") or [None])]
            for label in serving:
                self._compare(label or {})
            most = max(most, len(serving) - 1)
        return f"{self._expected.tag} in all of {most} workers, asked {ASKS} times"

    def golden(self) -> str:
        """The bundle's golden chips get the answers that the bundle has for them."""
        worst = 0.0
        for number, (chip, wanted) in enumerate(self._expected.golden):
            found = self._predict(chip)["probabilities"]
            if set(found) != set(wanted):
                raise RolloutError(f"golden: chip {number} is answered with other classes")
            worst = max(worst, *(abs(found[name] - wanted[name]) for name in wanted))
            if not worst <= TOLERANCE:
                raise RolloutError(
                    f"golden: chip {number} is answered {worst:.2g} off: other model"
                )
        return f"{len(self._expected.golden)} chips within {TOLERANCE:g}, the worst {worst:.1g} off"

    def samples(self) -> str:
        """The samples of the service get the answers that it has for them."""
        listed = _json(self._ask("GET", "/samples"))
        if not listed:
            raise RolloutError("samples: the service has none to predict")
        for sample in listed:
            chip = self._ask("GET", f"/samples/{int(sample['index'])}").content
            if (answer := self._predict(chip)["class"]) != sample["answer"]:
                raise RolloutError(
                    f"samples: {sample['index']} is answered {answer!a}, not {sample['answer']!a}"
                )
        return f"{len(listed)} answered right"

    def _predict(self, chip: bytes) -> Any:
        answer = _json(self._ask("POST", "/predict", content=chip))
        self._compare(answer["model"])
        return answer

    def _compare(self, label: dict[str, Any]) -> None:
        wanted = self._expected
        if label.get("tag") != wanted.tag:
            raise RolloutError(f"version: {label.get('tag')!a} serves, not {wanted.tag}")
        if wanted.sha256 and label.get("sha256") != wanted.sha256:
            raise RolloutError(
                f"version: {wanted.tag} is the model {str(label.get('sha256'))[:12]!a}..., "
                f"not {wanted.sha256[:12]}..."
            )

    def _ask(self, method: str, path: str, content: bytes | None = None) -> httpx.Response:
        """One request on a connection of its own."""
        headers = self._headers
        if content is not None:
            headers = headers | {"content-type": "application/octet-stream"}
        try:
            answer = httpx.request(
                method, self._url + path, content=content, headers=headers, timeout=PATIENCE
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise RolloutError(f"{path}: no answer from {self._url}: {reason}") from None
        if answer.status_code in (401, 403):
            raise Refused(
                f"{path}: the credentials are refused ({answer.status_code}): SMOKE_TOKEN has to "
                "be a key or token of this stage with the roles predict and view"
            )
        if answer.status_code != 200:
            raise RolloutError(f"{path}: {answer.status_code} {_detail(answer)}".rstrip())
        return answer


def read_bundle(tag: str, folder: Path) -> Expected:
    """What an address serves that serves this bundle under `tag`.

    Raises:
        Refused: there is no bundle, or one of another schema.
    """
    path = folder / "model.json"
    try:
        manifest = json.loads(path.read_bytes())
        golden = tuple(_golden(item, manifest) for item in manifest["golden"])
        return Expected(tag, parse_sha256(manifest["sha256"]), golden)
    except OSError as error:
        raise Refused(f"bundle: {path} can not be read: {error.strerror}: dvc pull") from None
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise Refused(f"bundle: {path} is not of schema 1 ({error!r}): train it again") from None


def parse_sha256(text: str) -> str:
    """Check a digest.

    Raises:
        Refused: it is none.
    """
    if not SHA256.fullmatch(text):
        raise Refused(f"sha256: {text[:80]!a} is none: write 64 hexadecimal digits")
    return text


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments that say what an address should serve; `delivery.rollout` has them as well."""
    parser.add_argument("--version", required=True, help="the version, landcover@v1.2.0")
    parser.add_argument("--sha256", default="", help="SHA-256 of its model.onnx")
    parser.add_argument(
        "--bundle", type=Path, help="its bundle: compare digest and golden chips with this folder"
    )
    parser.add_argument(
        "--limit", type=float, default=LIMIT, help="seconds until it has to hold (default: 60)"
    )


def expectation(tag: str, sha256: str, bundle: Path | None) -> Expected:
    """Read those arguments.

    Raises:
        Refused: the digest is none, the bundle is not there, or the two differ.
    """
    if bundle is None:
        return Expected(tag, parse_sha256(sha256) if sha256 else "")
    found = read_bundle(tag, bundle)
    if sha256 and found.sha256 != sha256:
        raise Refused(
            f"sha256: the bundle in {bundle} is {found.sha256[:12]}..., not {sha256[:12]}"
        )
    return found


def _golden(item: Any, manifest: Any) -> Golden:
    shape = (
        len(manifest["input"]["bands"]),
        manifest["input"]["height"],
        manifest["input"]["width"],
    )
    dtype = np.dtype(manifest["input"]["dtype"]).newbyteorder("<")
    pixels = np.frombuffer(zlib.decompress(base64.b64decode(item["chip"])), dtype).reshape(shape)
    content = io.BytesIO()
    np.save(content, pixels, allow_pickle=False)
    classes = dict(zip(manifest["classes"], map(float, item["probabilities"]), strict=True))
    return Golden(content.getvalue(), classes)


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        raise RolloutError(
            f"{answer.url.path}: the answer is no JSON: is this the address of the service?"
        ) from None


def _detail(answer: httpx.Response) -> str:
    """What the service says itself; another server's page says nothing."""
    try:
        return str(answer.json()["detail"])[:300]
    except (ValueError, KeyError, TypeError):
        return ""


@command
def main() -> None:
    """Check one address."""
    parser = ArgumentParser(
        prog="python -m delivery.smoke",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", help="where it should be served")
    add_arguments(parser)
    arguments = parser.parse_args()
    tag = parse_version(arguments.version).tag
    expected = expectation(tag, arguments.sha256, arguments.bundle)
    Smoke(arguments.url, expected, os.environ.get("SMOKE_TOKEN", "")).run(arguments.limit)


if __name__ == "__main__":
    main()
