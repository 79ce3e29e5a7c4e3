"""How many files and connections a process may open, and what that leaves for clients."""

import logging
import resource
from contextlib import suppress

RESERVED = 128  # for files, models, child processes, and a batch of connections to be refused

log = logging.getLogger("service.server.descriptors")


def raise_limit() -> None:
    """Take all that the system allows.

    A shell's usual 1,024 descriptors are fewer than the connections that a worker may hold.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # some systems call a limit unlimited that is not
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def most_connections(wanted: int) -> int:
    """How many connections a worker may hold: those of the settings, or fewer."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, allowed - RESERVED))


def warn_of_few(wanted: int) -> None:
    """Log a warning if a worker may hold fewer connections than the settings say."""
    if (most := most_connections(wanted)) < wanted:
        cure = "raise ulimit -Hn, LimitNOFILE= of systemd, or --ulimit nofile= of the container"
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        fields = {"allowed": allowed, "connections": most, "wanted": wanted, "cure": cure}
        log.warning("few descriptors", extra=fields)
