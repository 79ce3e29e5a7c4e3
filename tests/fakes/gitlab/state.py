"""What the fake of GitLab keeps: plain attributes that tests look into and disturb."""

import copy
import itertools
import secrets
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Document = dict[str, Any]
GUEST, REPORTER, DEVELOPER, MAINTAINER = 10, 20, 30, 40
PATH, NUMBER = "team/landcover", 42
ACTIVE = ("created", "waiting_for_resource", "preparing", "pending", "running")
"""States of a pipeline that has not ended."""

# What GitLab gives a new project; the fields that nobody here looks at are left out.
NEW_PROJECT: Document = {
    "default_branch": "main",
    "empty_repo": False,
    "visibility": "private",
    "path": "landcover",
    "only_allow_merge_if_pipeline_succeeds": False,
    "allow_merge_on_skipped_pipeline": None,
    "merge_method": "merge",
    "squash_option": "default_off",
    "merge_commit_template": None,
    "remove_source_branch_after_merge": True,
    "auto_cancel_pending_pipelines": "enabled",
    "ci_forward_deployment_enabled": True,
    "ci_forward_deployment_rollback_allowed": True,
    "ci_allow_fork_pipelines_to_run_in_parent_project": True,
    "ci_separated_caches": True,
    "ci_push_repository_for_job_token_allowed": False,
    "ci_pipeline_variables_minimum_override_role": "developer",
    "container_registry_access_level": "disabled",
    "container_expiration_policy": {"enabled": False, "name_regex": ".*", "name_regex_keep": None},
    "public_jobs": True,
    "container_registry_image_prefix": "registry.example.com/team/landcover",
}


@dataclass
class Token:
    """Who a token stands for, and what it may do."""

    user: str
    level: int = MAINTAINER
    scopes: tuple[str, ...] = ("api",)
    personal: bool = True
    expires_at: str | None = None
    job: bool = False  # CI_JOB_TOKEN, with the role of who started the pipeline


@dataclass
class Request:
    """A request as it came; `body` holds the fields of a form or a JSON document."""

    method: str
    path: str  # still encoded, without the query
    query: dict[str, str]
    token: str
    body: Document
    sent: str = "private"  # the header of the token: private | bearer | job


class Refusal(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: Any) -> None:
        self.status = status
        self.document = message if isinstance(message, dict) else {"message": message}


@dataclass
class FakeGitLab:
    """The state, which tests look into and disturb."""

    url: str = ""
    repository: Path | None = None  # the bare repository, for commits and tags
    jobs: dict[int, list[Document]] = field(default_factory=dict)  # pipeline -> its jobs
    traces: dict[int, bytes] = field(default_factory=dict)  # job -> its log
    resource_groups: list[Document] = field(default_factory=list)
    images: dict[str, list[str]] = field(default_factory=dict)  # name below the project's -> tags
    push_rule: Document = field(default_factory=dict)
    prefix: str = ""  # path of a GitLab that does not have the server to itself
    version: str = "18.4.1-ee"
    premium: bool = True
    project: Document = field(default_factory=lambda: copy.deepcopy(NEW_PROJECT))
    tokens: dict[str, Token] = field(default_factory=dict)
    notes: dict[int, list[Document]] = field(default_factory=dict)  # merge request -> oldest first
    uploads: dict[str, bytes] = field(default_factory=dict)  # path as a comment names it -> bytes
    merge_requests: list[Document] = field(default_factory=list)
    variables: list[Document] = field(default_factory=list)  # with values, hidden or not
    protected_branches: list[Document] = field(default_factory=list)
    protected_tags: list[Document] = field(default_factory=list)
    protected_environments: list[Document] = field(default_factory=list)
    pipeline_schedules: list[Document] = field(default_factory=list)
    triggers: list[Document] = field(default_factory=list)
    labels: list[Document] = field(default_factory=list)
    access_tokens: list[Document] = field(default_factory=list)
    deploy_tokens: list[Document] = field(default_factory=list)
    runners: list[Document] = field(default_factory=list)
    pipelines: list[Document] = field(default_factory=list)
    job_token_scope: Document = field(
        default_factory=lambda: {"inbound_enabled": False, "outbound_enabled": False}
    )
    has_machine_learning: bool = True  # the project's model experiments and model registry
    experiments: list[Document] = field(default_factory=list)
    runs: list[Document] = field(default_factory=list)  # oldest first
    models: list[Document] = field(default_factory=list)
    model_versions: list[Document] = field(default_factory=list)
    model_files: dict[tuple[str, str], bytes] = field(default_factory=dict)  # version id, name
    job_ids: set[str] | None = None  # ids of jobs that exist; None: every number
    releases: list[Document] = field(default_factory=list)
    has_tag: Callable[[str], bool] = lambda tag: True  # the Git server has it
    requests: list[Request] = field(default_factory=list)
    # (method, regular expression for the path) -> status and body of every such answer
    broken: dict[tuple[str, str], tuple[int, bytes]] = field(default_factory=dict)
    meanwhile: Callable[[Request], None] = lambda request: None  # before a request is handled
    lock: threading.RLock = field(default_factory=threading.RLock)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1001))

    def __post_init__(self) -> None:
        self.project |= {"id": NUMBER, "path_with_namespace": PATH, "name": "landcover"}
        self.protected_branches.append(protection("main", push=MAINTAINER, merge=MAINTAINER))

    @property
    def web_url(self) -> str:
        """Address of the project for people, and for CML."""
        return f"{self.url}/{PATH}"

    def admit(self, **token: Any) -> str:
        """Make a token; returns its text."""
        text = f"glpat-{secrets.token_hex(10)}"
        self.tokens[text] = Token(**({"user": "ana"} | token))
        return text

    def changes(self) -> list[Request]:
        """The requests that changed something, or tried to."""
        return [request for request in self.requests if request.method != "GET"]

    def variable(self, key: str, scope: str = "*") -> Document:
        """A variable as it is stored."""
        found = [v for v in self.variables if (v["key"], v["environment_scope"]) == (key, scope)]
        assert found, f"no variable {key} for {scope}"
        return found[0]

    def open_merge_request(self, source: str, **fields: Any) -> Document:
        """Store an open merge request as somebody else would."""
        with self.lock:
            iid = len(self.merge_requests) + 1
            self.merge_requests.append(
                {
                    "id": next(self._numbers),
                    "iid": iid,
                    "project_id": NUMBER,
                    "title": source,
                    "description": "",
                    "state": "opened",
                    "source_branch": source,
                    "target_branch": "main",
                    "labels": [],
                    "sha": "0" * 40,
                    "merge_commit_sha": None,
                    "author": {"username": "ana"},
                    "web_url": f"{self.web_url}/-/merge_requests/{iid}",
                }
                | fields
            )
            self.notes.setdefault(iid, [])
            return self.merge_requests[-1]

    def add_note(self, iid: int, body: str, system: bool = False, **fields: Any) -> Document:
        """Store a comment as somebody else would."""
        note = {
            "id": next(self._numbers),
            "body": body,
            "system": system,
            "author": {"username": "ana"},
            "created_at": datetime.now(UTC).isoformat(),
        } | fields
        self.notes.setdefault(iid, []).append(note)
        return note

    def add_pipeline(self, ref: str, status: str = "running", **fields: Any) -> Document:
        """Store a pipeline."""
        number = next(self._numbers)
        self.pipelines.append(
            {
                "id": number,
                "iid": len(self.pipelines) + 1,
                "project_id": NUMBER,
                "ref": ref,
                "sha": "0" * 40,
                "status": status,
                "source": "push",
                "web_url": f"{self.web_url}/-/pipelines/{number}",
            }
            | fields
        )
        return self.pipelines[-1]

    def receive_push(self, branch: str, sha: str, skip: bool = False) -> None:
        """Do what GitLab does at a push to the branch of a merge request.

        The merge request gets a new head and a pipeline, `skipped` by the push option `ci.skip`,
        and jobs of its older pipelines are cancelled (cancel_redundant_pipelines_service.rb; not
        by a skipped pipeline).
        """
        for row in self.merge_requests:
            if (row["source_branch"], row["state"]) != (branch, "opened") or row["sha"] == sha:
                continue
            row["sha"] = sha
            ref = f"refs/merge-requests/{row['iid']}/head"
            for older in self.pipelines:
                if not skip and older["ref"] == ref and older["status"] in ACTIVE:
                    older["status"] = "canceled"
            status, source = "skipped" if skip else "created", "merge_request_event"
            self.add_pipeline(ref, status, sha=sha, source=source)

    def head_pipeline(self, iid: int) -> Document | None:
        """The newest pipeline of the newest commit of a merge request."""
        sha, ref = self.merge_requests[iid - 1]["sha"], f"refs/merge-requests/{iid}/head"
        rows = [row for row in self.pipelines if (row["sha"], row["ref"]) == (sha, ref)]
        return rows[-1] if rows else None

    def merge_status(self, iid: int) -> str:
        """`detailed_merge_status` of a merge request.

        As detailed_merge_status_service.rb and check_ci_status_service.rb of GitLab 18 find it;
        of the other checks, which need a Git server or Premium, only the two of state and draft.
        """
        row, pipeline = self.merge_requests[iid - 1], self.head_pipeline(iid)
        if row["state"] != "opened":
            return "not_open"
        if row["title"].startswith("Draft:"):
            return "draft_status"
        if not self.project["only_allow_merge_if_pipeline_succeeds"]:
            return "mergeable"
        skipped = self.project["allow_merge_on_skipped_pipeline"]
        if pipeline and (
            pipeline["status"] == "success" or (pipeline["status"] == "skipped" and skipped)
        ):
            return "mergeable"
        return "ci_still_running" if pipeline and pipeline["status"] in ACTIVE else "ci_must_pass"

    def mergeable(self, iid: int) -> bool:
        """Whether GitLab lets a maintainer merge."""
        return self.merge_status(iid) == "mergeable"

    def git(self, *words: str) -> str:
        """Git in the repository of the project."""
        assert self.repository, "this fake has no repository"
        command = ["git", "-C", str(self.repository), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def picture(self, link: str) -> bytes | None:
        """What a link in a comment leads to."""
        return self.uploads.get(link)


def protection(name: str, **levels: int) -> Document:
    """Protection of a branch, tag or environment, as GitLab answers it."""
    rows = {
        f"{verb}_access_levels": [{"id": 1, "access_level": level}]
        for verb, level in levels.items()
    }
    return {"name": name, **rows}
