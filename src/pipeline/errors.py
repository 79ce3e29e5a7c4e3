"""What can go wrong, as one tree. A message says what, with which value, and the cure.

PipelineError
├── ParameterError    params.yaml holds a key, type or value that cannot be used
├── DataError         the data cannot be used as they are
│   └── SourceError   a source cannot be read or fetched
├── TrainingError     training cannot start, or cannot go on
├── BundleError       a model bundle is incomplete, altered or of another schema
├── RevisionError     a Git revision, or a file in it, is not there
├── OwnershipError    Git refuses a repository that belongs to another user
└── GateError         the model misses a floor; it must not be merged
"""

import errno
import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

from contracts.commands import print_anything

P = ParamSpec("P")


class PipelineError(Exception):
    """Base of everything that a person can mend; printed as one sentence, not as a stack trace."""


class ParameterError(PipelineError):
    """params.yaml holds a key, type or value that cannot be used."""


class DataError(PipelineError):
    """The data cannot be used as they are."""


class SourceError(DataError):
    """A source cannot be read or fetched."""


class TrainingError(PipelineError):
    """Training cannot start, or cannot go on."""


class BundleError(PipelineError):
    """A model bundle is incomplete, altered or of another schema."""


class RevisionError(PipelineError):
    """A Git revision, or a file in it, is not there."""


class OwnershipError(PipelineError):
    """Git refuses a repository that belongs to another user."""


class GateError(PipelineError):
    """The model misses a floor; it must not be merged."""


DISK_CURES = {
    errno.ENOSPC: "the disk is full; free some space and run it again",
    errno.EDQUOT: "the disk quota is used up; free some space and run it again",
    errno.EROFS: "the file system is read-only; run it where it can write",
    errno.EACCES: "permission denied; give this user the right to write there",
    errno.EPERM: "permission denied; give this user the right to write there",
}


def command(main: Callable[P, None]) -> Callable[P, None]:
    """Turn the errors of a command into one sentence on stderr and exit code 1 (130 for Ctrl-C)."""

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        print_anything()
        try:
            main(*args, **kwargs)
        except PipelineError as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            sys.exit(130)
        except OSError as error:
            if error.errno not in DISK_CURES:
                raise
            sys.exit(f"error: {error.filename or 'output'}: {DISK_CURES[error.errno]}")

    return run
