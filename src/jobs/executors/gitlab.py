"""GitLab: an attempt is a pipeline with one job, on a branch of its own that holds the commit.

The branch is `job/train-17-3fa2`, where the result goes, too. GitLab has no priority between jobs
and no memory of ours: the branch and the pipeline's name find what was handed over.
"""

import base64
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import Field

from jobs import attempts
from jobs.errors import EngineAway, Refused
from jobs.executors import Phase, Seen
from jobs.record import Job, Outcome, outcome_in
from jobs.repository import RESULTS
from jobs.request import Cause, Part, Request
from jobs.settings import Settings
from jobs.store import Store

Document = dict[str, Any]
JOB = "attempt"
"""The job of templates/train.yml."""
VARIABLE = "JOBS_ATTEMPT"
SECONDS = 15.0
WAITS = {
    "created": "it is being created",
    "preparing": "GitLab prepares it",
    "waiting_for_resource": "another job holds its resource group",
    "waiting_for_callback": "GitLab waits for an answer from outside",
    "scheduled": "it is delayed",
    "manual": "a person has to start it",
}
LOST = (
    *("runner_system_failure", "api_failure", "scheduler_failure", "data_integrity_failure"),
    *("runner_unsupported", "unknown_failure", "stuck_or_timeout_failure"),
)
CAUSES = {"job_execution_timeout": Cause.TIMED_OUT, **dict.fromkeys(LOST, Cause.INFRASTRUCTURE)}
"""`failure_reason` of a job -> cause, of an attempt that has said nothing."""
SECTIONS = re.compile(rb"section_(start|end):\d+:[^\r\n]*\r?|\x1b\[[0-9;]*[A-Za-z]")
"""What runners put into traces for GitLab's page."""
STAMPS = re.compile(rb"(?m)^\d{4}-\d\d-\d\dT[\d:.]+Z \d\d[OE][ +]?")
"""Times before lines of traces (FF_TIMESTAMPS, the default since GitLab 17.1)."""


class GitLabSettings(Part):
    """The section `gitlab`. The token is in JOBS_GITLAB_TOKEN: scope api, role Maintainer."""

    url: str = Field(pattern=r"^https?://\S+$")
    project: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)*$")
    """Its path."""
    interval: float = Field(default=5.0, gt=0, le=600)
    """Seconds between two looks at GitLab."""


class Executor:
    """Starts pipelines by the API, and asks for each."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        own = settings.of("gitlab", GitLabSettings)
        self.interval = own.interval
        self._store = store
        self._base = f"{own.url.rstrip('/')}/api/v4/projects/{quote(own.project, safe='')}"
        self._repository = f"{own.url.rstrip('/')}/{own.project}.git"
        self._token = os.environ.get("JOBS_GITLAB_TOKEN", "")
        self._not_before = 0.0

    def check(self, request: Request) -> None:
        """Refuse what GitLab has not: priorities, several nodes; and a commit that is not there."""
        if request.priority:
            raise Refused(
                f"priority: {request.priority}, and GitLab has no priority of jobs: leave it at 0, "
                "or name a queue (a tag of runners) that has room"
            )
        if request.resources.nodes > 1:
            raise Refused(f"resources.nodes: {request.resources.nodes}, and a runner is one")
        if not self._token:
            raise Refused("executor: gitlab needs a token with the scope api in JOBS_GITLAB_TOKEN")
        if self._call("GET", f"repository/commits/{request.commit}").status_code == 404:
            raise Refused(f"commit: {request.commit[:12]} is not in GitLab's project: git push")

    def room(self, active: int) -> int:
        """All of them: the runners take them one after the other."""
        return 10**6

    def launch(self, job: Job) -> str:
        """Start a pipeline, unless the branch has the one of this attempt."""
        attempt = attempts.described(job, self._settings, "")
        attempt.push = self._repository
        branch = {"branch": _branch(job), "ref": job.commit}
        made = self._call("POST", "repository/branches", branch)
        if made.status_code != 400 or "already exists" not in made.text:
            _require(made)
        elif found := self._started(job):
            return found
        # GitLab expands what begins with a dollar, so nothing does.
        text = base64.b64encode(attempt.model_dump_json().encode()).decode()
        variables = {VARIABLE: text, "JOBS_ID": job.attempt_id}
        if job.current.queue:
            variables["TRAIN_RUNNER_TAG"] = job.current.queue
        rows = [{"key": key, "value": value} for key, value in variables.items()]
        body = {"ref": _branch(job), "variables": rows}
        return str(_document(self._call("POST", "pipeline", body))["id"])

    def look(self, jobs: Sequence[Job]) -> Mapping[str, Seen]:
        """The job of each pipeline; an outcome is kept here."""
        return {job.id: self._look(job) for job in jobs if job.handle}

    def cancel(self, job: Job, *, kill: bool) -> None:
        """Cancel the pipeline; a runner that does not hear it is not asked twice."""
        _require(self._call("POST", f"pipelines/{job.handle}/cancel"), 404)
        if kill and (found := self._find(job)):  # GitLab 16.10 and newer; older ones end by itself
            _require(self._call("POST", f"jobs/{found['id']}/cancel?force=true"), 404, 400)

    def collect(self, job: Job, log: Path) -> None:
        """Bring the trace here: what a running job has added; of one that has ended, all."""
        found = self._find(job) if job.handle else None
        if found:
            answer = self._call("GET", f"jobs/{found['id']}/trace")
            if answer.status_code == 200:
                self._write(_plain(answer.content), job, log)
        said = attempts.outcome(job, self._store)
        if said and said.cause is not None:  # nothing is on the branch that the commit has not
            self._call("DELETE", f"repository/branches/{quote(_branch(job), safe='')}")

    def _write(self, content: bytes, job: Job, log: Path) -> None:
        """Write the trace over what of this attempt is there."""
        note = attempts.note(job, self._store)
        with log.open("ab") as file:
            end = file.tell()
        if not note.exists():
            note.write_text(str(end), encoding="ascii")
        with log.open("r+b") as file:
            file.seek(int(note.read_text(encoding="ascii") or end))
            file.write(content)
            file.truncate()

    def _look(self, job: Job) -> Seen:
        if said := attempts.outcome(job, self._store):
            return Seen(Phase.ENDED, outcome=said)
        pipeline = self._call("GET", f"pipelines/{job.handle}")
        if pipeline.status_code == 404:
            return Seen(Phase.ENDED)
        row, at = self._find(job), f"as pipeline {job.handle}"
        if row is None:
            errors = _document(pipeline).get("yaml_errors")
            why = errors or f"it has no job {JOB}: is templates/train.yml of the commit too old?"
            outcome = Outcome(cause=Cause.BROKEN, message=f"pipeline {job.handle}: {why}")
        elif row["status"] in ("running", "canceling"):
            runner = (row.get("runner") or {}).get("description") or "a runner"
            return Seen(Phase.RUNNING, f"on {runner} {at}")
        elif row["status"] == "pending" or row["status"] in WAITS:
            return Seen(Phase.WAITING, f"waits at GitLab {at}: {_reason(row)}")
        else:
            outcome = self._outcome(job, row)
        attempts.keep(job, self._store, outcome)
        return Seen(Phase.ENDED, outcome=outcome)

    def _outcome(self, job: Job, row: Document) -> Outcome:
        trace = self._call("GET", f"jobs/{row['id']}/trace").content
        said = outcome_in(_plain(trace).decode(errors="replace"))
        if said and not (said.cause is None and row["status"] != "success"):
            return said
        seconds = float(row.get("duration") or 0)
        if row["status"] == "success":
            return Outcome(ref=f"{RESULTS}{job.id}", exit_code=0, seconds=seconds)
        reason = str(row.get("failure_reason") or row["status"])
        cause = CAUSES.get(reason, Cause.BROKEN)
        if row["status"] in ("canceled", "skipped"):  # by a person in GitLab, or a newer pipeline
            cause = Cause.INFRASTRUCTURE
        return Outcome(cause=cause, message=f"GitLab says {reason}", seconds=seconds)

    def _find(self, job: Job) -> Document | None:
        """The newest job of the attempt's pipeline: a person may have retried it in GitLab."""
        rows = _list(self._call("GET", f"pipelines/{job.handle}/jobs?per_page=100"))
        mine = [row for row in rows if row["name"] == JOB]
        return max(mine, key=lambda row: int(row["id"])) if mine else None

    def _started(self, job: Job) -> str:
        """The pipeline of this very attempt; older ones of the job have other variables."""
        for row in _list(self._call("GET", f"pipelines?ref={quote(_branch(job), safe='')}")):
            answer = self._call("GET", f"pipelines/{row['id']}/variables")
            given = {item["key"]: item["value"] for item in _list(answer)}
            if given.get("JOBS_ID") == job.attempt_id:
                return str(row["id"])
        return ""

    def _call(self, method: str, path: str, body: Document | None = None) -> httpx.Response:
        if (left := self._not_before - time.monotonic()) > 0:
            raise EngineAway(f"GitLab wants no request for {left:.0f} s more")
        try:
            answer = httpx.request(
                method,
                f"{self._base}/{path}",
                json=body,
                headers={"private-token": self._token},
                timeout=SECONDS,
            )
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
            raise EngineAway(f"GitLab cannot be reached ({type(error).__name__})") from None
        if answer.status_code == 429 or answer.status_code >= 500:
            wait = answer.headers.get("retry-after", "1")
            self._not_before = time.monotonic() + (min(int(wait), 60) if wait.isdecimal() else 1)
            raise EngineAway(f"GitLab answered {answer.status_code}")
        if answer.status_code == 401:
            raise EngineAway("GitLab does not take the token (401): renew JOBS_GITLAB_TOKEN")
        return answer


def _branch(job: Job) -> str:
    return f"{RESULTS}{job.id}".removeprefix("refs/heads/")


def _reason(row: Document) -> str:
    """Why a job of GitLab has not begun."""
    if row["status"] != "pending":
        return WAITS[row["status"]]
    tags = ", ".join(row.get("tag_list") or []) or "none"
    return f"no runner has taken it; it needs one with the tags: {tags}"


def _plain(trace: bytes) -> bytes:
    return STAMPS.sub(b"", SECTIONS.sub(b"", trace)).replace(b"\r", b"")


def _require(answer: httpx.Response, *allowed: int) -> None:
    if answer.status_code < 400 or answer.status_code in allowed:
        return
    try:
        document = answer.json()
        said = document.get("message") or document.get("error")
    except (ValueError, AttributeError):
        said = answer.text
    cure = ": the token needs the scope api and the role Maintainer" * (answer.status_code == 403)
    raise Refused(f"GitLab: {' '.join(str(said).split())[:300]}{cure}")


def _document(answer: httpx.Response) -> Document:
    _require(answer)
    try:
        found: Document = answer.json()
        if isinstance(found, dict):
            return found
    except ValueError:
        pass
    raise EngineAway("executors.gitlab.url: no GitLab answers there")


def _list(answer: httpx.Response) -> list[Document]:
    _require(answer)
    try:
        found: list[Document] = answer.json()
        if isinstance(found, list):
            return found
    except ValueError:
        pass
    raise EngineAway("executors.gitlab.url: no GitLab answers there")
