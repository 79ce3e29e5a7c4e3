"""A request: what a person writes into jobs/train.yaml, checked field by field.

A rule of `on_failure` names a cause and what the next attempt changes. Each rule is used once, so
that a job cannot go round in circles.
"""

import hashlib
import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contracts.documents import read_yaml
from contracts.faults import first_fault
from jobs.errors import Refused

LARGEST = 2**16  # bytes of a request
NAME = r"^[a-z][a-z0-9-]{0,39}$"
PARAMETER = r"^[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*$"
REVISION = r"^[A-Za-z0-9_][A-Za-z0-9_./#@~^-]{0,199}$"
MEMORY = r"^[1-9][0-9]{0,5}(KB|MB|GB|KiB|MiB|GiB)$"
TIME = r"^[1-9][0-9]{0,5}[smhd]$"
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

Scalar = bool | int | float | str
Parameter = Annotated[str, Field(pattern=PARAMETER)]
FACTOR = re.compile(r"([*/]) ?(?!0+(?:\.0+)?$)(\d{1,6}(?:\.\d{1,6})?)")
"""`/2` or `*0.1`: a change of the value that the failed attempt had."""


class Cause(StrEnum):
    """Why an attempt ended, or does not start."""

    OUT_OF_MEMORY = "out_of_memory"
    NAN = "nan"
    NO_GPU = "no_gpu"
    TIMED_OUT = "timed_out"
    WAITING = "waiting"
    """It has waited for longer than `after`."""
    INFRASTRUCTURE = "infrastructure"
    """Lost with its machine or killed from outside: the same attempt again, up to `retries`."""
    INCOMPLETE = "incomplete"
    """It ended well, and left no complete model."""
    BROKEN = "broken"
    """Everything else: code or data."""


class Part(BaseModel):
    """Frozen; an unknown key and a silent conversion are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Resources(Part):
    """What an attempt may use. A quota of the settings limits each."""

    cpus: int = Field(default=1, ge=1)
    """Of each node."""
    memory: str = Field(default="4GB", pattern=MEMORY)
    """Of each node."""
    gpus: int = Field(default=0, ge=0)
    """Of each node."""
    nodes: int = Field(default=1, ge=1)
    processes: int = Field(default=1, ge=1)
    """Of each node."""
    time: str = Field(default="1h", pattern=TIME)
    """After which an attempt is ended."""

    @property
    def bytes(self) -> int:
        """Memory in bytes."""
        return of_memory(self.memory)

    @property
    def seconds(self) -> int:
        """Time limit in seconds."""
        return of_time(self.time)


class Rule(Part):
    """What another attempt changes after a failure of one cause."""

    when: Cause
    after: str = Field(default="", pattern=f"{TIME}|^$")
    """How long it may wait, for `when: waiting`."""
    parameters: dict[Parameter, Scalar] = {}
    """New values; `/2` and `*0.1` change a number that is there."""
    queue: str | None = Field(default=None, pattern=NAME)
    executor: str | None = Field(default=None, pattern=NAME)
    gpus: int | None = Field(default=None, ge=0)
    memory: str | None = Field(default=None, pattern=MEMORY)

    @model_validator(mode="after")
    def _changes_something(self) -> "Rule":
        if not self.model_dump(exclude={"when", "after"}, exclude_defaults=True):
            raise ValueError("it changes nothing: set parameters, queue, executor, gpus or memory")
        if (self.when is Cause.WAITING) != bool(self.after):
            raise ValueError("`after` belongs to `when: waiting`, which needs it: after: 30m")
        return self


class Request(Part):
    """All of jobs/train.yaml."""

    name: str = Field(pattern=NAME)
    kind: str = Field(default="train", pattern=NAME)
    """A row of jobs.kinds; `command` runs `command`."""
    command: tuple[str, ...] = Field(default=(), max_length=64)
    """Program and arguments; no shell reads them."""
    commit: str = Field(default="HEAD", pattern=REVISION)
    """Revision whose files the job works on."""
    parameters: dict[Parameter, Scalar] = {}
    """Changes of params.yaml, as `train.epochs: 12`."""
    resources: Resources = Resources()
    executor: str = Field(default="local", pattern=NAME)
    queue: str = Field(default="", pattern=f"{NAME}|^$")
    """Partition of Slurm, local queue of Kueue, tag of GitLab's runners."""
    priority: int = Field(default=0, ge=-1000, le=1000)
    """The larger one starts first; of equal ones the older."""
    retries: int = Field(default=1, ge=0, le=10)
    """New attempts after failures of the infrastructure."""
    on_failure: tuple[Rule, ...] = Field(default=(), max_length=10)
    merge_request: int | None = Field(default=None, ge=1)
    """Number of the merge request whose budget it draws on."""
    over_budget: str = Field(default="", max_length=200)
    """Why it may go over a budget that asks for a reason."""

    @model_validator(mode="after")
    def _command_where_it_belongs(self) -> "Request":
        if (self.kind == "command") != bool(self.command):
            raise ValueError("`command` belongs to `kind: command`, which needs it")
        return self

    @model_validator(mode="after")
    def _tests_what_is_there(self) -> "Request":
        if self.kind == "test" and (self.parameters or any(r.parameters for r in self.on_failure)):
            raise ValueError("`kind: test` tests the model of its commit: take `parameters` away")
        return self

    def digest(self) -> str:
        """What two requests for the same work have in common."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def read(path: Path) -> Request:
    """Read a file.

    Raises:
        Refused: it cannot be read, or is no request.
    """
    try:
        return parse(path.read_bytes(), str(path))
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}: name a request, as jobs/train.yaml") from None


def parse(content: bytes, whole: str = "the request") -> Request:
    """Check a request in YAML or JSON.

    Raises:
        Refused: names the first field that is wrong.
    """
    if len(content) > LARGEST:
        raise Refused(f"{whole}: {len(content)} bytes, at most {LARGEST}")
    try:
        # Through JSON, where a list is a tuple and nothing else is converted.
        return Request.model_validate_json(json.dumps(read_yaml(content), allow_nan=False))
    except ValidationError as error:
        raise Refused(f"{whole}: {first_fault(error)}: see docs/jobs.md") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise Refused(f"{whole}: it is not YAML: see jobs/train.yaml") from None
    except (TypeError, ValueError):
        raise Refused(f"{whole}: a value is no text, number, list or mapping") from None


def of_memory(text: str) -> int:
    """Bytes of `4GB`."""
    digits = text.rstrip("BKMGi")
    return int(digits) * UNITS[text.removeprefix(digits)]


def of_time(text: str) -> int:
    """Seconds of `30m`."""
    return int(text[:-1]) * SECONDS[text[-1]]


def changed(value: Scalar, change: Scalar) -> Scalar:
    """A parameter after a rule: `/2` and `*0.1` change a number, everything else replaces it.

    Raises:
        Refused: the change is a factor, and the value is no number.
    """
    factor = FACTOR.fullmatch(change) if isinstance(change, str) else None
    if factor is None:
        return change
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused(f"on_failure: {change} changes a number, and the value is {value!r}")
    by = float(factor[2]) if factor[1] == "*" else 1 / float(factor[2])
    return max(1, int(value * by)) if isinstance(value, int) else value * by
