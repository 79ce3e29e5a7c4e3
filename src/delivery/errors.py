"""What can go wrong, as one tree. A message says what, with which value, and the cure.

DeliveryError
├── GitError         Git refuses, or a revision is not there
├── RemoteError      the DVC remote lacks an object, or holds an altered one
├── TagError         a text is no tag, version or stage of the registry
├── RegistryError    the registry's rules forbid it: order of stages, outdated, still serving
├── TrainingFailed   the pipeline did not produce a model
├── ImageError       the image can not be built, scanned or pushed
├── RolloutError     a stage does not serve what it should
├── GitLabError      GitLab refuses, or can not be reached
└── ToolError        a program that is needed is missing or failed
"""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")


class DeliveryError(Exception):
    """Base of everything that a person can mend; printed as one sentence, not as a stack trace."""


class GitError(DeliveryError):
    """Git refuses, or a revision is not there."""


class RemoteError(DeliveryError):
    """The DVC remote lacks an object, or holds an altered one."""


class TagError(DeliveryError):
    """A text is no tag, version or stage of the registry."""


class RegistryError(DeliveryError):
    """The registry's rules forbid it."""


class TrainingFailed(DeliveryError):
    """The pipeline did not produce a model."""


class ImageError(DeliveryError):
    """The image can not be built, scanned or pushed."""


class RolloutError(DeliveryError):
    """A stage does not serve what it should."""


class GitLabError(DeliveryError):
    """GitLab refuses, or can not be reached."""


class ToolError(DeliveryError):
    """A program that is needed is missing or failed."""


def command(main: Callable[P, None]) -> Callable[P, None]:
    """Turn the errors of a command into one sentence on stderr and exit code 1 (130 for Ctrl-C)."""

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            main(*args, **kwargs)
        except DeliveryError as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            sys.exit(130)

    return run
