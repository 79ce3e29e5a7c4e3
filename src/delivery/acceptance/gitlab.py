"""Command: play the story of a merge request on your own GitLab project, and report what it did.

    GITLAB_TOKEN=... python -m delivery.acceptance.gitlab https://gitlab.example.com/team/landcover

Opens two merge requests from throw-away branches of main: one with a model that passes the gate,
one with a model that does not. It waits for their pipelines, checks commit, tag, run, comment, if
GitLab would let them be merged, merges nothing, and deletes branches and tags again; the runs under
Model experiments stay. It also looks for the newest version in the model registry and among the
releases. Your working copy is left alone. The report is artifacts/acceptance/gitlab.md; the exit
code is 1 if a check failed.

The token needs the scopes api and write_repository, and the role Developer.
"""

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import yaml

from contracts import commands
from contracts.documents import read_yaml
from contracts.tags import Version, match_tag
from delivery import comment
from delivery.acceptance.report import FOLDER, Report
from delivery.errors import DeliveryError, GitLabError, command
from delivery.experiment.experiment import TITLE as EXPERIMENT
from delivery.git import Repository
from delivery.gitlab.address import locate, split
from delivery.gitlab.client import Refused, asking, connect
from delivery.gitlab.mlflow import MLflow
from delivery.tags import model_name
from delivery.tracking import COMPLETE

REPORT = FOLDER / "gitlab.md"
TOKEN = "GITLAB_TOKEN"
MARK = f"CML watermark {comment.TITLE}"
ENDED = ("success", "failed", "canceled", "skipped", "manual")
POLL = 10.0  # seconds between two looks at a pipeline
UNTESTED = "Not checked here: a merge and what main does after it, runners with a GPU, the cluster."
PUBLISH = "run the job `publish` of its pipeline again, and read its log"


class Story(Report):
    """One run. Names of branches begin with `acceptance/` and the time."""

    def __init__(self, url: str, path: str, token: str, minutes: float) -> None:
        super().__init__()
        self.url, self.minutes = url, minutes
        self.client = connect(url, token, TOKEN)
        self.branches: dict[str, int] = {}
        """Branches that were pushed -> number of the merge request, 0 before it is open."""
        self.base = ""
        """Hash of the newest commit of the project's main."""
        self.begun = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        with asking(f"opening the project {path!a}"):
            self.project = self.client.projects.get(path)
            answer = self.client.http_get("/version")
        self.pages = MLflow(url, path, token, TOKEN)
        self.version = str(answer.get("version")) if isinstance(answer, dict) else "unknown"
        # Git gets the token from a credential helper, not from an argument.
        os.environ |= {"BOT_TOKEN": token, "PUSH_URL": self.project.http_url_to_repo}
        os.environ.pop("RELEASE_TOKEN", None)

    def play(self) -> None:
        """Play all of it; what was made is deleted also when something fails."""
        self.check_settings()
        with self._worktree() as repository:
            try:
                self.check_version(repository)
                self.check_good(repository)
                self.check_bad(repository)
            except DeliveryError as error:
                self.check("the story could go on", False, error)
            finally:
                self.clean(repository)

    def check_settings(self) -> None:
        """The two settings without which a gate blocks nothing."""
        for field, wanted in (
            ("only_allow_merge_if_pipeline_succeeds", True),
            ("allow_merge_on_skipped_pipeline", False),
        ):
            found = bool(self.project.attributes.get(field))
            cure = "" if found == wanted else ": make gitlab-setup APPLY=1"
            self.check(f"setting {field}", found == wanted, f"{found}{cure}")

    def check_version(self, repository: Repository) -> None:
        """GitLab's pages show main's newest version, if there is one."""
        name = model_name(repository.folder)
        with asking("listing tags"):
            tags = self.project.tags.list(search=f"^{name}@v", get_all=True)
        found = (match_tag(tag.name) for tag in tags)
        version = max((it for it in found if isinstance(it, Version)), default=None)
        if version is None:
            return
        if self._shows("model_registry"):
            there = self.pages.find_version(name, version.text.removeprefix("v"))
            done = there and there[1].has_tag(COMPLETE)
            seen = "its upload ended early" if there else "missing"
            evidence = version.tag if done else f"{version.tag}: {seen}: {PUBLISH}"
            self.check("the newest version is in the model registry", done, evidence)
        if self._shows("releases"):
            done = self._has_release(version.tag)
            evidence = version.tag if done else f"{version.tag}: missing: {PUBLISH}"
            self.check("the newest version has a release", done, evidence)

    def _shows(self, page: str) -> bool:
        """Whether the project has switched a page of GitLab on."""
        return bool(self.project.attributes.get(f"{page}_access_level") != "disabled")

    def _has_release(self, tag: str) -> bool:
        try:
            with asking(f"reading the release {tag}"):
                self.project.releases.get(tag)
        except Refused as refused:
            if refused.status != 404:
                raise
            return False
        return True

    def check_good(self, repository: Repository) -> None:
        """A model that passes is committed, tagged, reported once, and could be merged."""
        number = self.propose(repository, "good", "Acceptance: a model that passes", floor=False)
        first = repository.commit("HEAD")
        request = self.wait(number)
        self.check(
            "the pipeline passes", request.head_pipeline["status"] == "success", shown(request)
        )
        commit = self._commit(request.sha)
        title = f"{EXPERIMENT} {number}"
        self.check("the bot commits the model", commit == (title, [first]), commit[0])
        mine = self._tags(number, request.sha)
        self.check("the commit has a tag", len(mine) == 1, ", ".join(mine) or "none")
        if mine and self._shows("model_experiments"):
            run = self.pages.find_run(model_name(repository.folder), mine[0])
            numbers = len(run.data.metrics) if run else 0
            cure = "" if numbers else ": read the last lines of the job `train`"
            evidence = f"{numbers} metrics in {mine[0]}{cure}"
            self.check("the training is a run of the model experiments", numbers, evidence)
        notes = self._notes(number)
        pictures = len(re.findall(r"!\[[^]]*\]\(\S*/uploads/", notes[-1])) if notes else 0
        self.check("there is one comment", len(notes) == 1, f"{len(notes)}")
        self.check("the comment shows pictures", pictures > 0, f"{pictures}")
        status = request.detailed_merge_status
        self.check("it could be merged", status == "mergeable", status)
        self._push(repository, "good", "Skip the pipeline", "--push-option=ci.skip")
        request = self.wait(number, repository.commit("HEAD"))
        self.check(
            "a push that skips its pipeline cannot be merged",
            request.detailed_merge_status != "mergeable",
            request.detailed_merge_status,
        )

    def check_bad(self, repository: Repository) -> None:
        """A model that misses its floor is reported, and cannot be merged."""
        number = self.propose(repository, "bad", "Acceptance: a model that does not", floor=True)
        request = self.wait(number)
        self.check(
            "a closed gate fails the pipeline",
            request.head_pipeline["status"] == "failed" and "gate" in self._failed(request),
            f"{shown(request)}, failed: {', '.join(self._failed(request)) or 'no job'}",
        )
        notes = self._notes(number)
        closed = any("the gate is closed" in note for note in notes)
        self.check("the comment says so", closed, "closed" if closed else "no such comment")
        status = request.detailed_merge_status
        self.check("a closed gate cannot be merged", status != "mergeable", status)

    def propose(self, repository: Repository, name: str, title: str, floor: bool) -> int:
        """Push a branch of main with a short training, and open its merge request."""
        repository.git("checkout", "--quiet", "--detach", self.base)
        path = repository.folder / "params.yaml"
        params = read_yaml(path.read_text(encoding="utf-8"))
        params["train"]["epochs"] = 1 if floor else 2
        params["train"]["seed"] = int(time.time()) % 10**6  # no model of an earlier run fits
        params["gate"] |= {key: float(floor) for key in params["gate"] if key.startswith("min_")}
        params["gate"] |= {key: 1.0 for key in params["gate"] if key == "max_calibration_error"}
        params["gate"]["compare"] = False
        path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
        branch = self._push(repository, name, title)
        with asking("opening a merge request"):
            request = self.project.mergerequests.create(
                {
                    "source_branch": branch,
                    "target_branch": self.project.default_branch,
                    "title": title,
                    "remove_source_branch": True,
                }
            )
        self.branches[branch] = int(request.iid)
        print(f"acceptance: {request.web_url}", flush=True)
        return int(request.iid)

    def _push(self, repository: Repository, name: str, message: str, *options: str) -> str:
        branch = f"acceptance/{self.begun}-{name}"
        if branch in self.branches:
            repository.git("fetch", "--quiet", "--", os.environ["PUSH_URL"], f"refs/heads/{branch}")
            repository.git("checkout", "--quiet", "--detach", "FETCH_HEAD")
        repository.git("commit", "--quiet", "--all", "--allow-empty", "--no-verify", "-m", message)
        refs = f"HEAD:refs/heads/{branch}"
        repository.git(
            "push", "--quiet", *options, "--end-of-options", os.environ["PUSH_URL"], refs
        )
        self.branches.setdefault(branch, 0)
        return branch

    def merge_request(self, number: int) -> Any:
        """The merge request as it is now."""
        with asking(f"reading merge request !{number}"):
            return self.project.mergerequests.get(number)

    def wait(self, number: int, sha: str = "") -> Any:
        """Wait until the pipeline of the newest commit, or of this one, has ended.

        Raises:
            GitLabError: it did not in time.
        """
        deadline, before = time.monotonic() + 60 * self.minutes, ""
        while True:
            request = self.merge_request(number)
            pipeline = request.attributes.get("head_pipeline") or {}
            now = shown(request)
            if now != before:
                print(f"acceptance: !{number} {now}", flush=True)
            current = pipeline.get("sha") == request.sha and sha in ("", request.sha)
            checked = request.detailed_merge_status not in ("checking", "unchecked", "preparing")
            if current and checked and pipeline["status"] in ENDED:
                return request
            if time.monotonic() > deadline:
                raise GitLabError(
                    f"merge request !{number}: {now} after {self.minutes:g} minutes. One that "
                    "stays pending has no runner (docs/gitlab-setup.md); --minutes waits longer"
                )
            before = now
            time.sleep(POLL)

    def _commit(self, sha: str) -> tuple[str, list[str]]:
        with asking(f"reading commit {sha[:12]}"):
            commit = self.project.commits.get(sha)
        return commit.title, list(commit.parent_ids)

    def _notes(self, number: int) -> list[str]:
        with asking(f"listing the comments of !{number}"):
            request = self.project.mergerequests.get(number, lazy=True)
            notes = request.notes.list(get_all=True)
        return [note.body for note in notes if MARK in note.body]

    def _failed(self, request: Any) -> list[str]:
        with asking("listing the jobs of a pipeline"):
            pipeline = self.project.pipelines.get(request.head_pipeline["id"], lazy=True)
            jobs = pipeline.jobs.list(get_all=True)
        return [job.name for job in jobs if job.status == "failed"]

    @contextmanager
    def _worktree(self) -> Iterator[Repository]:
        """A working tree of the project's main beside the user's own."""
        folder = FOLDER / "tree"
        shutil.rmtree(folder, ignore_errors=True)
        here = Repository()
        here.git("worktree", "prune")
        here.git("fetch", "--quiet", "--", os.environ["PUSH_URL"], self.project.default_branch)
        self.base = here.commit("FETCH_HEAD")
        here.git("worktree", "add", "--quiet", "--detach", str(folder), self.base)
        try:
            yield Repository(folder)
        finally:
            here.git("worktree", "remove", "--force", str(folder))

    def clean(self, repository: Repository) -> None:
        """Close the merge requests, and delete branches and tags; report what is left."""
        left = []
        for branch, number in self.branches.items():
            try:
                tags = self._close(number) if number else []
                refs = (f"refs/heads/{branch}", *tags)
                target = os.environ["PUSH_URL"]
                repository.git("push", "--quiet", "--delete", "--end-of-options", target, *refs)
            except DeliveryError as error:
                left.append(f"{branch} ({error})")
        self.check("nothing is left", not left, "; ".join(left) or "branches and tags are deleted")

    def _close(self, number: int) -> list[str]:
        """Close a merge request; returns the refs of its experiments' tags."""
        with asking(f"closing !{number}"):
            request = self.project.mergerequests.get(number)
            request.state_event = "close"
            request.save()
        return [f"refs/tags/{name}" for name in self._tags(number)]

    def _tags(self, number: int, commit: str = "") -> list[str]:
        with asking("listing tags"):
            tags = self.project.tags.list(search=f"^experiment/{number}-", get_all=True)
        return [tag.name for tag in tags if commit in ("", tag.commit["id"])]


def shown(request: Any) -> str:
    """State of the newest pipeline of a merge request."""
    pipeline = request.attributes.get("head_pipeline")
    if not pipeline:
        return "no pipeline yet"
    of = "" if pipeline["sha"] == request.sha else ", of an older commit"
    return f"pipeline {pipeline['id']} is {pipeline['status']}{of}"


@command
def main() -> None:
    """Play the story, and write its report."""
    parser = commands.parser("delivery.acceptance.gitlab", __doc__)
    parser.add_argument("url", help="address of the project: https://gitlab.example.com/team/name")
    parser.add_argument("--minutes", type=float, default=60.0, help="for each pipeline (60)")
    arguments = parser.parse_args()
    url, path = locate(*split(arguments.url))
    token = os.environ.get(TOKEN, "")
    if not token:
        raise GitLabError(
            f"{TOKEN}: not set: create a token with the scopes api and write_repository at "
            f"{url}/-/user_settings/personal_access_tokens"
        )
    story = Story(url, path, token, arguments.minutes)
    story.play()
    about = f"{story.project.web_url}, GitLab {story.version}, {story.begun} UTC."
    story.write(REPORT, "GitLab", [about], UNTESTED)
    if not story.passed:
        sys.exit(1)


if __name__ == "__main__":
    main()
