"""Errors that a person can fix, printed as one sentence: field, value, cure."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")


class MonitoringError(Exception):
    """A file, program, setting or service is missing, in use, or wrong."""


def command(main: Callable[P, None]) -> Callable[P, None]:
    """Turn the errors of a command into one sentence on stderr and exit code 1 (130 for Ctrl-C)."""

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            main(*args, **kwargs)
        except MonitoringError as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            sys.exit(130)

    return run
