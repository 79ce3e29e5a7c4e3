"""The acceptance on GitLab, against a fake with a real repository and the jobs of a runner."""

import os
from collections.abc import Iterator

import pytest
import yaml

from delivery.acceptance import gitlab as acceptance
from delivery.acceptance.report import FOLDER
from delivery.gitlab.desired import SETTINGS
from tests.conftest import ROOT, run
from tests.delivery.conftest import Project
from tests.fakes.gitlab.server import PATH, FakeGitLab, serving
from tests.fakes.gitlab.state import Request


class Runner:
    """GitLab and its runner, before each request: takes pushes in, and runs what is waiting."""

    def __init__(self, api: FakeGitLab) -> None:
        self.api = api
        self.commits = True  # whether the bot has a token
        self.judges = True  # whether the gate does its work
        self.tracks = True  # whether the bot may write runs
        self.works = True

    def __call__(self, request: Request) -> None:
        for row in self.api.merge_requests:
            head = self.api.git("for-each-ref", "--format=%(objectname)", self._ref(row))
            if row["state"] == "opened" and head:
                options = self.api.git("log", "-1", "--format=%s", head) == "Skip the pipeline"
                self.api.receive_push(row["source_branch"], head, skip=options)
                pipeline = self.api.head_pipeline(row["iid"])
                if self.works and pipeline and pipeline["status"] == "created":
                    self._run(row, pipeline, head)

    def _ref(self, row: dict[str, object]) -> str:
        return f"refs/heads/{row['source_branch']}"

    def _run(self, row: dict[str, object], pipeline: dict[str, object], head: str) -> None:
        title = f"Experiment of merge request {row['iid']}"
        if self.commits and self.api.git("log", "-1", "--format=%s", head) != title:
            commit = self.api.git("commit-tree", f"{head}^{{tree}}", "-p", head, "-m", title)
            self.api.git("tag", "-m", title, f"experiment/{row['iid']}-{pipeline['id']}", commit)
            if self.tracks:
                self._track(f"experiment/{row['iid']}-{pipeline['id']}")
            self.api.git("update-ref", self._ref(row), commit)
            pipeline["status"] = "running"  # until the new pipeline cancels it
            return
        params = yaml.safe_load(self.api.git("show", f"{head}:params.yaml"))
        passes = params["gate"]["min_accuracy"] < 0.9 or not self.judges
        pipeline["status"] = "success" if passes else "failed"
        number = pipeline["id"]
        assert isinstance(number, int)
        status = "success" if passes else "failed"
        self.api.jobs[number] = [{"id": 1, "name": "gate", "status": status}]
        verdict = "open" if passes else "closed"
        picture = "![confusion](/uploads/0123/confusion.png)"
        body = f"the gate is {verdict}\n{picture}\n{acceptance.MARK}"
        iid = row["iid"]
        assert isinstance(iid, int)
        notes = self.api.notes[iid]
        notes[:] = []
        self.api.add_note(iid, body)

    def _track(self, name: str) -> None:
        self.api.experiments[:] = [{"experiment_id": "1", "name": "landcover"}]
        info = {"run_id": name, "run_name": name, "experiment_id": "1"}
        metrics = [{"key": "accuracy", "value": 0.9, "timestamp": 0}]
        self.api.runs.append({"info": info, "data": {"metrics": metrics, "tags": []}})


@pytest.fixture
def api(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGitLab]:
    """A project on GitLab, set up, whose clone is the working directory."""
    project.write("params.yaml", (ROOT / "params.yaml").read_text(encoding="utf-8"))
    project.commit("Begin")
    with serving() as fake:
        fake.repository = project.origin
        fake.project |= {row.field: row.value for row in SETTINGS}
        fake.project["http_url_to_repo"] = str(project.origin)
        fake.meanwhile = Runner(fake)
        monkeypatch.chdir(project.folder)
        monkeypatch.setattr(acceptance, "POLL", 0.01)
        monkeypatch.setenv("GITLAB_TOKEN", fake.admit(user="ana"))
        for name in ("BOT_TOKEN", "PUSH_URL", "RELEASE_TOKEN"):  # what the story sets
            monkeypatch.setenv(name, "")
        yield fake


def play(api: FakeGitLab, monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """Run the command; returns its report."""
    monkeypatch.setattr("sys.argv", ["gitlab", f"{api.url}/{PATH}", *words])
    acceptance.main()
    return acceptance.REPORT.read_text(encoding="utf-8")


def failing(api: FakeGitLab, monkeypatch: pytest.MonkeyPatch, *words: str) -> set[str]:
    """Run the command on a project that does not pass; returns the checks that fail."""
    with pytest.raises(SystemExit) as ended:
        play(api, monkeypatch, *words)
    assert ended.value.code == 1
    rows = acceptance.REPORT.read_text(encoding="utf-8").splitlines()
    return {row.split("|")[2].strip() for row in rows if row.startswith("| ❌")}


def refs(project: Project) -> str:
    return run("git", "-C", str(project.origin), "show-ref").stdout


def test_a_project_that_is_set_up_passes_and_nothing_is_left(
    api: FakeGitLab, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("notes.txt", "mine")
    before, status = refs(project), project.git("status", "--porcelain")
    report = play(api, monkeypatch)
    assert "# Acceptance on GitLab: all 14 passed" in report
    assert "Not checked here" in report
    assert refs(project) == before
    assert [row["state"] for row in api.merge_requests] == ["closed", "closed"]
    assert project.git("status", "--porcelain").replace("?? artifacts/\n", "") == status
    assert project.git("worktree", "list").count("\n") == 0


def test_what_does_not_hold_is_named(
    api: FakeGitLab, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = api.meanwhile
    assert isinstance(runner, Runner)
    before = refs(project)
    api.project["allow_merge_on_skipped_pipeline"] = True
    assert failing(api, monkeypatch) == {
        "setting allow_merge_on_skipped_pipeline",
        "a push that skips its pipeline cannot be merged",
    }
    api.project["allow_merge_on_skipped_pipeline"] = False
    runner.judges = False
    assert failing(api, monkeypatch) == {
        "a closed gate fails the pipeline",
        "the comment says so",
        "a closed gate cannot be merged",
    }
    runner.judges, runner.tracks = True, False
    assert failing(api, monkeypatch) == {"the training is a run of the model experiments"}
    runner.commits = False
    assert failing(api, monkeypatch) == {"the bot commits the model", "the commit has a tag"}
    assert refs(project) == before


def test_the_newest_version_is_looked_for_on_gitlabs_pages(
    api: FakeGitLab, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in ("v1.9.0", "v1.10.0"):
        api.git("tag", f"landcover@{number}", "main")
    pages = {"the newest version is in the model registry", "the newest version has a release"}
    assert failing(api, monkeypatch) == pages
    tags: list[dict[str, str]] = []
    version = {"name": "landcover", "aliases": ["1.10.0"], "run_id": "v"}
    info = {"run_id": "v", "experiment_id": "2"}
    api.runs.insert(0, {"info": info, "data": {"metrics": [], "tags": tags}})
    api.model_versions.append(version)
    api.releases.append({"tag_name": "landcover@v1.10.0"})
    assert failing(api, monkeypatch) == {"the newest version is in the model registry"}
    assert "its upload ended early" in acceptance.REPORT.read_text(encoding="utf-8")
    tags.append({"key": "bundle", "value": "md5"})
    assert "all 16 passed" in play(api, monkeypatch)


def test_a_page_of_gitlab_that_is_switched_off_is_not_looked_at(
    api: FakeGitLab, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.git("tag", "landcover@v1.0.0", "main")
    for page in ("model_experiments", "model_registry", "releases"):
        api.project[f"{page}_access_level"] = "disabled"
    assert "all 13 passed" in play(api, monkeypatch)


def test_a_project_without_runners_ends_with_the_cure_and_is_cleaned(
    api: FakeGitLab, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, before = api.meanwhile, refs(project)
    assert isinstance(runner, Runner)
    runner.works = False
    assert failing(api, monkeypatch, "--minutes", "0.001") == {"the story could go on"}
    assert "One that stays pending has no runner" in acceptance.REPORT.read_text()
    assert refs(project) == before and api.merge_requests[0]["state"] == "closed"


@pytest.mark.parametrize(
    ("address", "token", "message"),
    [
        ("gitlab.example.com", None, "is not an address of a project"),
        ("https://gitlab.example.com/team", None, "is not an address of a project"),
        ("{url}/team/landcover", "", "GITLAB_TOKEN: not set: create a token"),
        ("{url}/team/landcover", "wrong", "GitLab does not know the token"),
        ("{url}/team/nothing", None, "not found, or not visible to the token"),
        ("http://127.0.0.1:1/team/landcover", None, "GitLab cannot be reached"),
    ],
)
def test_a_wrong_address_or_token_is_one_sentence(
    api: FakeGitLab,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    token: str | None,
    message: str,
) -> None:
    if token is not None:
        monkeypatch.setenv("GITLAB_TOKEN", token)
    monkeypatch.setattr("sys.argv", ["gitlab", address.format(url=api.url)])
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        acceptance.main()
    assert api.changes() == []


def test_a_token_that_may_not_push_changes_nothing(
    api: FakeGitLab, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.project["http_url_to_repo"] = str(project.origin.parent / "nowhere.git")
    with pytest.raises(SystemExit, match="error: git fetch: .*nowhere.git"):
        play(api, monkeypatch)
    assert api.merge_requests == [] and not os.path.exists(FOLDER / "tree")
