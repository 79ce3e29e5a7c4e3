"""The bot's commit: pushed with its tag, judged by its own pipeline, and never over newer work."""

from pathlib import Path

import pytest

from delivery.errors import GitError, TrainingFailed
from delivery.experiment import experiment as steps
from delivery.experiment.__main__ import main
from delivery.experiment.experiment import COMMITTED, RECORD, TITLE, Committed, Experiment, commit
from tests.delivery.conftest import Project, hook
from tests.fakes.gitlab.server import serving

BRANCH, TAG = "wider", "experiment/7-101"


@pytest.fixture(autouse=True)
def job(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job runs in the checkout of a merge request, whose training has changed dvc.lock."""
    project.train("first")
    project.git("switch", "--quiet", "--create", BRANCH)
    project.commit("Try a wider network")
    project.write_model("second")
    monkeypatch.chdir(project.folder)
    for name, value in {
        "CI": "true",
        "CI_MERGE_REQUEST_IID": "7",
        "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": BRANCH,
        "CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "42",
        "CI_PROJECT_ID": "42",
        "CI_PIPELINE_ID": "101",
    }.items():
        monkeypatch.setenv(name, value)


def committed(project: Project) -> Committed:
    experiment = Experiment(state="done", trained=True, seconds=3, epochs=2, job="https://job/7")
    return commit(project.repository, experiment)


def head(project: Project) -> str:
    return project.repository.head_of(BRANCH)


def test_the_results_are_pushed_with_their_tag_and_start_a_pipeline(
    project: Project, origin: Path
) -> None:
    hook(origin, "post-receive", f'echo "$GIT_PUSH_OPTION_COUNT" > {origin}/options')
    before = head(project)
    found = committed(project)
    assert found.tag == TAG and found.commit == head(project) != before
    assert project.origin_tags()[TAG] == found.commit
    assert project.git("log", "-1", "--format=%s", found.commit) == f"{TITLE} 7"
    assert "dvc.lock" in project.git("diff", "--name-only", before, found.commit)
    message = project.repository.message(TAG)
    assert '"epochs":2' in message and "https://job/7" not in message
    assert (origin / "options").read_text(encoding="utf-8").strip() in ("", "0")


def test_a_job_that_is_retried_commits_the_same_again(project: Project) -> None:
    first = committed(project)
    project.git("push", "--quiet", "--force", "origin", f"HEAD~1:{BRANCH}", f":refs/tags/{TAG}")
    project.git("reset", "--quiet", "HEAD~1")
    assert committed(project).tag == first.tag == TAG


def test_a_current_lock_is_not_committed(project: Project) -> None:
    project.git("checkout", "--quiet", ".")
    found = commit(project.repository, Experiment(state="done"))
    assert found == Committed(note="nothing to commit: dvc.lock is current")


@pytest.mark.parametrize("force", [False, True], ids=["pushed", "force-pushed"])
def test_a_branch_that_has_moved_keeps_what_was_pushed(
    project: Project, tmp_path: Path, force: bool
) -> None:
    other = project.clone(tmp_path / "other")
    other.git("switch", "--quiet", BRANCH)
    if force:
        other.git("reset", "--quiet", "--hard", "HEAD~1")
    other.git("commit", "--quiet", "--allow-empty", "--message", "Better")
    other.git("push", "--quiet", "--force", "origin", BRANCH)
    newer = head(project)
    found = committed(project)
    assert "has moved" in found.note and not found.tag
    assert head(project) == newer and TAG not in project.origin_tags()


def test_a_push_that_comes_at_the_same_moment_is_kept(project: Project, origin: Path) -> None:
    # The server takes another commit between the look and the push.
    tree = project.git("rev-parse", "HEAD^{tree}")
    newer = project.git("commit-tree", tree, "-p", "HEAD", "-m", "Better")
    project.git("push", "--quiet", "origin", f"{newer}:refs/heads/hidden")
    script = f"env -u GIT_QUARANTINE_PATH git update-ref refs/heads/{BRANCH} {newer}; exit 1"
    hook(origin, "pre-receive", script)
    assert "has moved" in committed(project).note
    assert head(project) == newer


def test_a_branch_that_is_gone_is_not_made_again(project: Project) -> None:
    project.git("push", "--quiet", "origin", "--delete", BRANCH)
    assert "is gone" in committed(project).note
    assert head(project) == ""


def test_a_refused_push_is_an_error_with_its_cure(project: Project, origin: Path) -> None:
    hook(origin, "pre-receive", "echo HTTP Basic: Access denied >&2; exit 1")
    before = head(project)
    with pytest.raises(GitError, match="Access denied.*BOT_TOKEN has expired or may not push"):
        committed(project)
    assert head(project) == before


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "43", "belongs to a fork"),
        ("CI_MERGE_REQUEST_EVENT_TYPE", "merge_train", "pipeline of merged results"),
        ("CI_MERGE_REQUEST_IID", "", "not the pipeline of a merge request"),
    ],
)
def test_a_branch_that_is_not_the_pipelines_own_gets_no_commit(
    project: Project, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, why: str
) -> None:
    monkeypatch.setenv(variable, value)
    before = head(project)
    assert why in committed(project).note
    assert head(project) == before


@pytest.mark.parametrize("record", [None, "", "[]", '{"state": "failed"}', '{"state": "running"}'])
def test_nothing_is_committed_without_a_finished_training(
    project: Project, monkeypatch: pytest.MonkeyPatch, record: str | None
) -> None:
    if record is not None:
        RECORD.parent.mkdir(parents=True)
        RECORD.write_text(record, encoding="utf-8")
    before = head(project)
    monkeypatch.setattr("sys.argv", ["experiment", "commit"])
    with pytest.raises(SystemExit, match="error: .*(is not there|nothing to commit)"):
        main()
    assert head(project) == before and not COMMITTED.exists()


def test_the_command_leaves_a_record_for_the_report(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    Experiment(state="done", trained=True).write()
    monkeypatch.setattr("sys.argv", ["experiment", "commit"])
    main()
    assert Committed.model_validate_json(COMMITTED.read_bytes()).tag == TAG


def test_the_bot_commits_as_the_user_of_its_token(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    Experiment(state="done", trained=True).write()
    monkeypatch.setattr("sys.argv", ["experiment", "commit"])
    with serving() as api:
        monkeypatch.setenv("CI_SERVER_URL", api.url)
        monkeypatch.setenv("BOT_TOKEN", api.admit(user="conveyor-bot"))
        for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL"):
            monkeypatch.setenv(name, "")
        main()
    shown = project.git("log", "-1", "--format=%an <%ae> %cn <%ce>")
    who = "Conveyor-Bot <7-conveyor-bot@users.noreply.gitlab.example.com>"
    assert shown == f"{who} {who}"


def test_a_token_without_a_user_commits_under_the_template_s_name(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Experiment(state="done", trained=True).write()
    monkeypatch.setattr("sys.argv", ["experiment", "commit"])
    with serving() as api:
        monkeypatch.setenv("CI_SERVER_URL", api.url)
        monkeypatch.setenv("BOT_TOKEN", api.admit(scopes=("write_repository",)))
        main()
    assert "commits as Conveyor (reading the user of the token: " in capsys.readouterr().out
    assert project.git("log", "-1", "--format=%an") == "Conveyor"


def test_a_commit_with_the_bots_title_and_a_stale_lock_is_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "stale", lambda: ["train: params.yaml has changed"])
    with pytest.raises(TrainingFailed, match="params.yaml has changed.*another title"):
        steps.check(project.repository)
