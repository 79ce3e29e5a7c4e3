"""The tree of errors. A message has the field, the value and the cure.

JobsError
    Refused          the request, or what it asks for, cannot be accepted
        Denied       the credentials, or the quota, do not allow it
    UnknownJob       no job has this id
    WrongState       the job's state does not allow it
    EngineAway       the engine does not answer now; jobs keep their state
    StateError       the folder of the jobs cannot be read or written
"""

import errno
from typing import ClassVar

from contracts import commands


class JobsError(Exception):
    """Base of all errors that a person can fix."""

    status: ClassVar[int] = 500
    """Of HTTP."""


class Refused(JobsError):
    """The request, or what it asks for, cannot be accepted."""

    status = 422


class Denied(Refused):
    """The credentials, or the quota, do not allow it."""

    status = 403


class UnknownJob(JobsError):
    """No job has this id."""

    status = 404


class WrongState(JobsError):
    """The job's state does not allow it."""

    status = 409


class EngineAway(JobsError):
    """The engine does not answer now; jobs keep their state."""

    status = 503


class StateError(JobsError):
    """The folder of the jobs cannot be read or written."""

    status = 507


command = commands.command(JobsError)


def of_disk(error: OSError) -> StateError:
    """The error of a folder that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StateError("the disk of the jobs' folder is full: free some space, and try again")
    return StateError(f"the jobs' folder cannot be used: {error.strerror}: check JOBS_FOLDER")
