"""Settings: jobs/settings.yaml, and JOBS_FOLDER and JOBS_SETTINGS of the environment.

Every executor has a section with its own name and reads it itself.
"""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from contracts.documents import read_yaml
from contracts.faults import first_fault
from jobs.errors import Denied, Refused
from jobs.request import MEMORY, TIME, Part, Resources, of_memory, of_time

SETTINGS = Path("jobs/settings.yaml")
FOLDER = Path("artifacts/jobs")
M = TypeVar("M", bound=BaseModel)


class Quota(Part):
    """The most that one job may ask for."""

    cpus: int = Field(default=64, ge=1)
    memory: str = Field(default="256GB", pattern=MEMORY)
    gpus: int = Field(default=8, ge=0)
    nodes: int = Field(default=8, ge=1)
    processes: int = Field(default=16, ge=1)
    time: str = Field(default="24h", pattern=TIME)
    unfinished: int = Field(default=2000, ge=1)
    """Jobs of one person that have not ended."""

    def check(self, wanted: Resources) -> None:
        """Refuse what is over the quota.

        Raises:
            Denied: names the first resource, its value and the limit.
        """
        for name in ("cpus", "gpus", "nodes", "processes", "memory", "time"):
            value, limit = getattr(wanted, name), getattr(self, name)
            amount = {"memory": of_memory, "time": of_time}.get(name, int)
            if amount(value) > amount(limit):
                raise Denied(
                    f"resources.{name}: {value} is over the quota of {limit}: ask for less, or "
                    f"raise quota.{name} in {SETTINGS}"
                )


Minutes = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class Limit(Part):
    """An amount, and what happens to a job that may go over it."""

    minutes: Minutes
    """0: nothing on a GPU."""
    action: Literal["ask", "stop"] = "stop"
    """`ask`: it is taken with a reason, which is recorded; `stop`: it is refused."""


class Budgets(Part):
    """The section `budget` of jobs/settings.yaml; what is left out has no limit."""

    month: Limit | None = None
    """Of everybody together."""
    person: Limit | None = None
    """Of each, in a month."""
    people: dict[str, Limit] = {}
    """Of some, instead."""
    merge_request: Limit | None = None
    """Of each, whatever the month."""


class Settings(Part):
    """All of jobs/settings.yaml."""

    quota: Quota = Quota()
    budget: Budgets = Budgets()
    """GPU minutes; jobs.budget keeps account."""
    data: bool = True
    """Whether a job is refused when the version of its data is neither in the cache nor remote."""
    check: tuple[str, ...] = ("python", "-m", "pipeline.params")
    """Judges params.yaml in the folder it runs in, with the code of the commit; empty: nothing."""
    notify: tuple[str, ...] = ()
    """Command that is told what happens: event and text are added, as `job-failed`."""
    push: str = ""
    """Remote of Git that results are pushed to, and their models to the DVC remote; empty: kept."""
    grace: float = Field(default=10.0, gt=0, le=600)
    """Seconds that a cancelled job has to end before it is killed."""
    keep: int = Field(default=1000, ge=1)
    """Jobs that have ended and are remembered, with their logs; the oldest go first."""
    executors: dict[str, dict[str, Any]] = {}
    """Name -> its own settings."""

    def of(self, name: str, model: type[M]) -> M:
        """The settings of an executor.

        Raises:
            Refused: names the first that is wrong.
        """
        return _validated(model, self.executors.get(name, {}), f"{SETTINGS}: executors.{name}")


def folder() -> Path:
    """Where the state of the jobs is: JOBS_FOLDER, or artifacts/jobs."""
    return Path(os.environ.get("JOBS_FOLDER") or FOLDER).absolute()


def read_settings() -> Settings:
    """Read JOBS_SETTINGS, or jobs/settings.yaml; the defaults if there is no file.

    Raises:
        Refused: a setting is wrong.
    """
    named = os.environ.get("JOBS_SETTINGS")
    path = Path(named or SETTINGS)
    try:
        return _validated(Settings, read_yaml(path.read_bytes()) or {}, str(path))
    except FileNotFoundError:
        if named:
            raise Refused(f"JOBS_SETTINGS: {path} does not exist: correct it") from None
        return Settings()
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}: let this user read it") from None
    except yaml.YAMLError:
        raise Refused(f"{path}: it is not YAML: correct it") from None


def _validated(model: type[M], document: object, where: str) -> M:
    try:
        return model.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise Refused(f"{where}: {first_fault(error)}: correct it (docs/jobs.md)") from None
    except (TypeError, ValueError):
        raise Refused(f"{where}: a value is no text, number, list or mapping") from None
