"""API keys of a file, which may change while the service runs."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from service.auth.roles import SHA256, Role

LOOK_SECONDS = 1.0  # between two looks at the file

log = logging.getLogger(__name__)

Keys = Mapping[str, frozenset[Role]]
"""SHA-256 of a key -> its roles."""


def parse_keys(text: str) -> Keys:
    """Read the JSON of API keys.

    Raises:
        ValueError: it is something else. The message has no part of it, which may be a key.
    """
    example = 'write JSON such as {"SHA-256 of a key": ["predict", "view"]}'
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"it is not JSON: {example}") from None
    if not isinstance(document, dict) or not all(isinstance(it, list) for it in document.values()):
        raise ValueError(f"it has no lists of roles: {example}")
    if not all(map(SHA256.fullmatch, document)):
        raise ValueError(
            "a key is given as its SHA-256, 64 hexadecimal digits: make one with "
            "`python -m service key`"
        )
    try:
        return {digest: frozenset(map(Role, roles)) for digest, roles in document.items()}
    except (ValueError, TypeError):
        raise ValueError(f"a role is not one of {', '.join(Role)}: correct it") from None


class KeyFile:
    """The keys in a file, read again when it changes.

    One that cannot be read, or goes, leaves the keys as they were: an edit that went wrong locks no
    one out.
    """

    def __init__(self, path: Path, keys: Keys, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with these keys; the file is looked at LOOK_SECONDS later."""
        self._path = path
        self._keys = keys
        self._clock = clock
        self._looked = clock()
        self._seen: tuple[int, ...] | None = None

    def __call__(self) -> Keys:
        """Return the keys, at most LOOK_SECONDS old."""
        if (now := self._clock()) - self._looked >= LOOK_SECONDS:
            self._looked = now
            if (signature := self._signature()) != self._seen:
                self._seen = signature
                if signature is not None:
                    self._read_again()
        return self._keys

    def _read_again(self) -> None:
        try:
            keys = parse_keys(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            log.error("API keys not read, those before stay", extra={"detail": why})
            return
        if keys != self._keys:
            self._keys = keys
            log.info("API keys changed", extra={"keys": len(keys)})

    def _signature(self) -> tuple[int, ...] | None:
        """What changes with the file; a mounted Secret is replaced by another file."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
