"""The record of a job: what was asked, where it stands, why, and what came of it.

    queued -> launching -> running -> succeeded | failed | timed out
       ^                      |
       +------ retrying <-----+        and from everywhere: cancelled

`queued` waits with us, `launching` was handed to the engine, which may let it wait with a reason.
"""

import time
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from contracts.jobs import Account
from jobs.request import Cause, Request, Scalar


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    LAUNCHING = "launching"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed out"


WAITING = (State.QUEUED, State.RETRYING)
"""With us: the next attempt is not with an engine yet."""
ACTIVE = (State.LAUNCHING, State.RUNNING)
"""With an engine."""
ENDED = (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.TIMED_OUT)


class Part(BaseModel):
    """Tolerant of what a newer version writes."""

    model_config = ConfigDict(extra="ignore", validate_assignment=False)


class Outcome(Part):
    """What an attempt says of itself in the end, or an executor of one that could not."""

    exit_code: int | None = None
    cause: Cause | None = None
    """None for a success."""
    message: str = ""
    ref: str = ""
    """Where the result is: refs/heads/job/train-17."""
    commit: str = ""
    """The result itself."""
    metrics: dict[str, float] = {}
    seconds: float = 0.0
    gpus: int = 0


class Event(Part):
    """A line of the history."""

    at: float
    """Unix time, for people; nothing is ordered by it."""
    state: State
    reason: str = ""


class Job(Part):
    """All that is known of a job."""

    id: str
    sequence: int
    """Counts submissions; the age of a job, whatever the clock says."""
    key: str
    """What two requests for the same work have in common."""
    request: Request
    """As it was asked."""
    current: Request
    """As the rules of on_failure have changed it."""
    commit: str
    """Full hash that the revision of the request meant."""
    submitter: str = ""
    accounts: tuple[Account, ...] = ()
    """The budgets that it draws on, as they stood when it was submitted."""
    state: State = State.QUEUED
    reason: str = ""
    """Why it waits, or how it ended."""
    attempt: int = 0
    """Number of the newest attempt; 0 before the first."""
    retried: int = 0
    """Attempts that failures of the infrastructure have cost."""
    used: tuple[int, ...] = ()
    """Rules of on_failure that were used."""
    handle: str = ""
    """The name of the newest attempt at its engine."""
    cancelling: bool = False
    """A person wants it cancelled; the engine still has it."""
    history: list[Event] = Field(default_factory=list)
    outcome: Outcome | None = None
    """Of the newest attempt that has ended."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.state in ENDED

    @property
    def order(self) -> tuple[int, int]:
        """Sorts waiting jobs: priority, then age."""
        return -self.current.priority, self.sequence

    @property
    def attempt_id(self) -> str:
        """A name for the newest attempt that no other one ever has."""
        return f"{self.id}.{self.attempt}"

    def moved(self, state: State, reason: str = "", **fields: object) -> "Job":
        """A copy in another state, with a line more in its history."""
        event = Event(at=round(time.time(), 3), state=state, reason=reason)
        history = [*self.history, event][-100:]
        return self.model_copy(
            update={"state": state, "reason": reason, "history": history, **fields}
        )

    def began(self, state: State) -> float | None:
        """Unix time at which it first came into a state; None before."""
        return next((event.at for event in self.history if event.state is state), None)


class Attempt(Part):
    """All that a machine has to know to run one attempt; jobs.attempt takes it as JSON."""

    id: str
    job: str
    commit: str
    kind: str
    command: tuple[str, ...]
    parameters: dict[str, Scalar]
    cpus: int
    memory: int
    """Bytes."""
    gpus: int
    nodes: int
    processes: int
    seconds: int
    repository: str
    """Folder or address of the Git repository."""
    work: str = ""
    """Folder for the checkout, which an earlier attempt may have left; empty: where it runs."""
    claim: str = ""
    """File that the attempt creates when it begins: nobody runs the same one twice."""
    outcome: str = ""
    """File for the outcome. The last line of the log has it too."""
    push: str = ""
    """Remote of Git that the result goes to; empty where the repository is this machine's."""
    accounts: tuple[Account, ...] = ()
    grace: float = 10.0
    """Seconds that its processes have to end."""


OUTCOME_LINE = "jobs-outcome: "
"""Begins the last line of an attempt's log, followed by the outcome as JSON."""


def outcome_in(log: str) -> Outcome | None:
    """The outcome in the log of an attempt; None if it did not come to say it."""
    for line in reversed(log.splitlines()[-20:]):
        if line.startswith(OUTCOME_LINE):
            try:
                return Outcome.model_validate_json(line.removeprefix(OUTCOME_LINE))
            except ValueError:
                return None
    return None
