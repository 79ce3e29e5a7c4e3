"""DVC in this process, which keeps the versions of `data/`; as a program it takes a second to start."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from warnings import catch_warnings

from pipeline.errors import DISK_CURES, PipelineError


@contextmanager
def silent_dvc(action: str) -> Iterator[ModuleType]:
    """Give the module `dvc.repo`, imported when it is needed; its errors become sentences.

    Raises:
        PipelineError: DVC failed in the block; the message names `action`.
    """
    from dvc import repo
    from dvc.logger import set_loggers_level

    try:
        # As --quiet does: no progress, no hints; and what its libraries warn of is not for the user.
        with set_loggers_level(logging.CRITICAL), catch_warnings(action="ignore"):
            yield repo
    except OSError as error:
        cure = DISK_CURES.get(error.errno or 0, error.strerror or str(error))
        raise PipelineError(f"dvc {action} failed: {error.filename or 'output'}: {cure}") from None
    except Exception as error:  # DVC lets errors of its libraries through
        raise PipelineError(f"dvc {action} failed: {error}") from None
