"""What long commands say: how far they are, and a sentence where they end early."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import ServiceError, UnsafeSettings

EVERY = 10  # percent, where there is no terminal
STOPPED = 130  # exit code of a shell for Ctrl-C


class Progress:
    """Percent, rate and time left on one line; in a log a line each EVERY percent."""

    def __init__(self, unit: str) -> None:
        """Begin now; `unit` names what is counted, in the plural."""
        self._unit = unit
        self._began: tuple[float, int] | None = None
        self._said = -EVERY

    def __call__(self, done: int, total: int) -> None:
        """Say it if it is worth a line."""
        now = time.monotonic()
        if self._began is None:
            self._began = (now, done)
            if done:
                print(f"{done} of {total} {self._unit} were finished before", file=sys.stderr)
        began, before = self._began
        share = 100 * done // max(1, total)
        text = f"{share:3d} %, {done} of {total} {self._unit}"
        if done > before and now > began:
            rate = (done - before) / (now - began)
            text += f", {rate:,.0f} a second, {(total - done) / rate:.0f} s left"
        if sys.stderr.isatty():
            print(f"\r{text}   ", end="\n" if done == total else "", file=sys.stderr, flush=True)
        elif share >= self._said + EVERY or done == total:
            self._said = share
            print(text, file=sys.stderr, flush=True)


@contextmanager
def ends_with_a_sentence() -> Iterator[None]:
    """End the command where the block is refused or interrupted; it can be started again."""
    try:
        yield
    except UnsafeSettings as error:
        sys.exit(f"error: {error}")
    except ServiceError as error:
        sys.exit(f"error: {error.detail}")
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        sys.exit(STOPPED)
