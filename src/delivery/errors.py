"""The tree of errors. A message has the field, the value and the cure."""

import errno
import functools
import os
import re
import shutil
import sys
from collections.abc import Mapping

from contracts import commands

ERROR = re.compile(r"(error|fatal)\b", re.IGNORECASE)
PREFIX = re.compile(r"(error|fatal): ", re.IGNORECASE)
# As skopeo and trivy log them.
LOGGED = re.compile(r'(?:level=(?:error|fatal) msg=|\t(?:ERROR|FATAL)\t)"?(.*?)"?$')
LONGEST = 600  # characters of a reason
ROOM = 64  # MB; with less, a full disk is what failed, whatever the programs say
FREE_SPACE = "free some space (on a runner: docker system prune), and run it again"


class DeliveryError(Exception):
    """Base of all errors that a person can fix; printed as one sentence, not as a stack trace."""


class GitError(DeliveryError):
    """Git refuses, or a revision does not exist."""


class RemoteError(DeliveryError):
    """The DVC remote lacks an object, or holds an altered one."""


class TagError(DeliveryError):
    """A text is not a tag, version or stage of the registry."""


class RegistryError(DeliveryError):
    """The registry's policy forbids it."""


class LeftOut(RegistryError):
    """Nothing is to be done for this commit or version; for a pipeline that is no failure."""


class Outdated(LeftOut):
    """A newer commit or version came first."""


class TakenBack(LeftOut):
    """A person has rolled a stage back from the version, or has retired it."""


class TrainingFailed(DeliveryError):
    """The pipeline did not produce a model."""


class ImageError(DeliveryError):
    """The image cannot be built, scanned or pushed."""


class VulnerableError(ImageError):
    """The scan found holes that updates fix."""


class ValuesError(DeliveryError):
    """A file of values has a line that cannot be used."""


class RolloutError(DeliveryError):
    """A stage does not serve the requested version."""


class GitLabError(DeliveryError):
    """GitLab refuses, or cannot be reached."""


class GrafanaError(DeliveryError):
    """Grafana refuses, or cannot be reached."""


class ToolError(DeliveryError):
    """A required program is missing or failed."""


def command(main: commands.Main) -> commands.Main:
    """Turn errors into one sentence and exit code 1; in a pipeline, `LeftOut` is no failure.

    A full disk is named: DVC reports it as a cache that is not up to date.
    """

    @functools.wraps(main)
    def run() -> None:
        try:
            main()
        except LeftOut as reason:
            if "CI_PIPELINE_ID" not in os.environ:
                raise
            print(f"left out: {reason}", file=sys.stderr)
        except DeliveryError as error:
            if (free := shutil.disk_usage(".").free // 10**6) >= ROOM:
                raise
            text = str(error).rstrip(":")
            raise DeliveryError(f"{text}; {free} MB are left on this disk: {FREE_SPACE}") from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            name = error.filename or "output"
            raise DeliveryError(f"{name}: the disk is full: {FREE_SPACE}") from None

    return commands.command(DeliveryError)(run)


def explain(output: str, cures: Mapping[str, str], otherwise: str = "") -> str:
    """The cause in what a program printed, and the cure of the first of `cures` that matches it.

    `otherwise` stands for the cause if the program printed no error.
    """
    cure = next((cure for signs, cure in cures.items() if re.search(signs, output)), "")
    text = reason(output, otherwise)
    return f"{text.rstrip('.')}: {cure}" if cure else text


def reason(output: str, otherwise: str = "", longest: int = LONGEST) -> str:
    """The cause in what a program printed: its errors. The last line is often advice."""
    lines = [line.strip() for line in output.splitlines() if re.search(r"\w", line)]
    lines = [f"error: {found[1]}" if (found := LOGGED.search(line)) else line for line in lines]
    errors = [PREFIX.sub("", line) for line in lines if ERROR.match(line)]
    last = [otherwise] if otherwise else lines[-1:]
    text = "; ".join(dict.fromkeys(errors or last)) or "failed without a message"
    return "".join(letter if letter.isprintable() else " " for letter in text)[:longest]
