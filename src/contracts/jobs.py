"""reports/job.json: which job trained a model, how long, and what it drew on.

An attempt of a job (`jobs.attempt`) writes it, the report of a merge request reads it. It travels
in Git, as the documents of `contracts.reports` do.
"""

from pathlib import Path

from pydantic import Field

from contracts.reports import Part, Text

JOB = Path("reports/job.json")


class Account(Part):
    """A budget of GPU minutes, as it stood when the job was submitted."""

    scope: Text
    """month | person | merge_request"""
    name: Text
    used: float = Field(ge=0)
    held: float = Field(ge=0)
    """What other jobs may still use."""
    limit: float | None = None


class JobReport(Part):
    """All of job.json."""

    job: Text
    attempt: Text
    model: Text
    """SHA-256 of the bundle that it trained."""
    seconds: float = Field(ge=0)
    """Of the last attempt."""
    gpus: int = Field(ge=0)
    """Of all nodes."""
    accounts: tuple[Account, ...] = ()

    @property
    def gpu_minutes(self) -> float:
        """GPUs times minutes."""
        return self.gpus * self.seconds / 60
