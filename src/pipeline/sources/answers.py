"""HTTP client of the service's feedback: pages of labels, and images.

Responses are untrusted: sizes, times and the number of pages are limited, redirects are not
followed, and types are checked. The key is sent to the given address only.
"""

import asyncio
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from types import TracebackType
from typing import Annotated, Self
from urllib.parse import quote, urlsplit

import httpx
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from contracts.faults import first_fault
from contracts.proxies import UNUSABLE, environment_fault, is_loopback
from pipeline.data.boxes import Object
from pipeline.data.dataset import MOST_OBJECTS
from pipeline.errors import SourceError

KEY = "FEEDBACK_KEY"  # variable of the environment; never printed
PAGE = 1000  # labels; the service's limit
MOST_PAGES = 20_000  # more than the service stores
MOST_PAGE_BYTES = 4 * 2**20
TIMEOUT = httpx.Timeout(30, connect=10)  # seconds, between two packets
LONGEST = 120  # seconds from a request to the end of its response
WAITS = (0.5, 1.0, 2.0)  # seconds before another try
PASSING = (429, 500, 502, 503, 504)  # statuses worth another try


class Unreachable(SourceError):
    """The service did not respond, or failed, at every try."""


class TooLarge(SourceError):
    """A response exceeds its limit."""


def _in_utc(time_of: datetime) -> datetime:
    try:
        return time_of.replace(tzinfo=UTC) if time_of.tzinfo is None else time_of.astimezone(UTC)
    except OverflowError:  # the first or last day of the calendar, in another zone
        raise ValueError("not a moment of UTC") from None


class Answer(BaseModel):
    """A label for a prediction."""

    model_config = ConfigDict(frozen=True)

    request_id: str = Field(min_length=1, max_length=200)
    label: str | None
    answered_at: Annotated[datetime, AfterValidator(_in_utc)] | None
    image: bool
    """Whether the service has stored the chip."""
    objects: tuple[Object, ...] | None = Field(None, max_length=MOST_OBJECTS)
    """All that are there, of a model that finds objects."""


class _Page(BaseModel):
    answers: list[Answer] = Field(max_length=PAGE)
    next: str | int | None


class Service:
    """A client of `GET /feedback`.

    Raises:
        SourceError: the address is invalid or not encrypted, or the key is malformed.
    """

    def __init__(self, url: str, key: str) -> None:
        encrypted = _check_url(url)
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise SourceError(f"{KEY} has invalid characters: set it again")
        self._url, self._key = url, key
        headers = {"Accept-Encoding": "identity"}  # no compression: sizes can be limited
        try:
            self._client = httpx.AsyncClient(
                base_url=url,
                headers=headers | ({"Authorization": f"Bearer {key}"} if key else {}),
                timeout=TIMEOUT,
                trust_env=encrypted,  # no proxy between here and loopback
            )
        except UNUSABLE as error:
            raise SourceError(environment_fault(error)) from None
        # Asynchronous inside: waiting for a name, a header or a body can be cancelled.
        self._loop = asyncio.Runner()

    def answers(self) -> Iterator[Answer]:
        """Yield every prediction that has a label.

        Raises:
            SourceError: the service is unreachable, refuses, or responds in another format.
        """
        after: str | int | None = None
        seen: set[str | int] = set()
        for _ in range(MOST_PAGES):
            page = self._page(after)
            yield from page.answers
            if page.next is None:
                return
            if page.next in seen:
                raise SourceError(
                    f"{self._url}/feedback repeats itself: it returned one cursor twice"
                )
            seen.add(page.next)
            after = page.next
        raise SourceError(f"{self._url}/feedback does not end: stopped after {MOST_PAGES} pages")

    def image(self, request_id: str, most: int) -> bytes | None:
        """Fetch a chip as NPY; None when the service has deleted it.

        Raises:
            TooLarge: the chip has more than `most` bytes.
            SourceError: as `answers`.
        """
        return self._get(f"feedback/{quote(request_id, safe='')}.npy", {}, most)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.run(self._client.aclose())
        self._loop.close()

    def _page(self, after: str | int | None) -> _Page:
        query = {"labelled": "true", "limit": str(PAGE)}
        if after is not None:
            query["after"] = str(after)
        content = self._get("feedback", query, MOST_PAGE_BYTES)
        if content is None:
            raise SourceError(
                f"{self._url}/feedback is not there (HTTP 404): check --url, and that "
                f"SERVICE_FEEDBACK is not off there"
            )
        try:
            return _Page.model_validate_json(content)
        except ValidationError as error:
            raise SourceError(
                f"{self._url}/feedback: {first_fault(error, 'the answer')}: is --url a service "
                f"of this version?"
            ) from None

    def _get(self, path: str, query: dict[str, str], most: int) -> bytes | None:
        """Fetch, with more tries after temporary failures; None for 404."""
        problem = ""
        for wait in (0.0, *WAITS):
            time.sleep(wait)
            try:
                status, content = self._loop.run(self._exchange(path, query, most))
            except TimeoutError:
                problem = f"no end after {LONGEST} seconds"
            except httpx.TransportError as error:
                problem = str(error) or type(error).__name__
            else:
                if status not in PASSING:
                    return None if status == HTTPStatus.NOT_FOUND else content
                problem = f"HTTP {status}"
        raise Unreachable(
            f"{self._url} cannot be reached ({problem}, {1 + len(WAITS)} tries): check --url, the "
            f"network and the service's log, and run it again"
        )

    async def _exchange(self, path: str, query: dict[str, str], most: int) -> tuple[int, bytes]:
        """Send one request; return the status, with the body of a success."""
        async with (
            asyncio.timeout(LONGEST),
            self._client.stream("GET", path, params=query) as response,
        ):
            if response.status_code in (HTTPStatus.NOT_FOUND, *PASSING):
                return response.status_code, b""
            self._refuse(response)
            content = bytearray()
            async for part in response.aiter_raw():
                content += part
                if len(content) > most:
                    raise TooLarge(f"{self._url} sends more than {most} bytes, the limit")
            return response.status_code, bytes(content)

    def _refuse(self, response: httpx.Response) -> None:
        status = response.status_code
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            state = "is refused" if self._key else "is not set"
            raise SourceError(
                f"{self._url}/feedback: HTTP {status}: {KEY} {state}: "
                f"set it to a key with role `label` (`python -m service key` makes one)"
            )
        if response.is_redirect:
            target = ascii(response.headers.get("location", ""))[:200]
            raise SourceError(
                f"{self._url} redirects to {target}, and the key must not follow: give --url the "
                f"address of the service itself"
            )
        if status != HTTPStatus.OK or response.headers.get("content-encoding"):
            raise SourceError(
                f"{self._url}/feedback has an unknown format (HTTP {status}): is --url a service "
                f"of this version?"
            )


def key_from_environment() -> str:
    """Return the key; empty for a service without keys."""
    return os.environ.get(KEY, "").strip()


def _check_url(url: str) -> bool:
    """Return whether `url` is encrypted; refuse addresses that would expose the key."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        raise SourceError("--url is not an address: write https://landcover.example.com") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise SourceError(
            f"--url has more than an address: the key goes into {KEY}, remove the rest"
        )
    if not host or not (parts.scheme == "https" or parts.scheme == "http" and is_loopback(url)):
        raise SourceError(f"--url {url!r} is not encrypted: use https:// (or http on loopback)")
    return parts.scheme == "https"
