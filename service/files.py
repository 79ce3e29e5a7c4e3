"""Files that processes share: those of contracts, and what a full disk or an error says here."""

import errno
import os

from contracts.files import StillLocked, birth, is_alive, locked, replace_file
from service.errors import ServiceError, StorageFull

__all__ = [
    "DISK_FULL",
    "FULL",
    "StillLocked",
    "birth",
    "disk_error",
    "is_alive",
    "is_full",
    "locked",
    "reason",
    "replace_file",
]

FULL = (errno.ENOSPC, errno.EDQUOT)
DISK_FULL = "the server's disk is full: free some space, then try again"


def is_full(error: OSError) -> bool:
    """Whether the disk, or the quota of its user, is full."""
    return error.errno in FULL


def disk_error(error: OSError, otherwise: ServiceError) -> ServiceError:
    """Return StorageFull for a full disk, else the other error."""
    return StorageFull(DISK_FULL) if is_full(error) else otherwise


def reason(error: OSError) -> str:
    """Return the reason of an error, without a path."""
    return os.strerror(error.errno) if error.errno else "no reason was given"
