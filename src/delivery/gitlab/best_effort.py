"""What GitLab's own pages show is worth a sentence in the log, and no failed pipeline."""

import signal
from collections.abc import Callable
from types import FrameType

from delivery.errors import DeliveryError, GitLabError

LIMIT = 120.0  # seconds for everything, uploads included


def best_effort(name: str, work: Callable[[], str], seconds: float = LIMIT) -> None:
    """Print the sentence that `work` returns, or that of its error; give up after a time.

    Call it in the main thread: the time limit is a signal.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise GitLabError(f"GitLab has not answered in {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        print(f"{name}: {work()}")
    except DeliveryError as error:
        print(f"{name}: left out: {error}")
    except Exception as error:  # a view must not fail hours of training
        print(f"{name}: left out: {type(error).__name__}: {error}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
