"""The comment: what a merge request says when all went well, and when it did not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from delivery import comment
from delivery.comment import compose, post
from delivery.errors import ToolError
from delivery.experiment import experiment
from delivery.experiment.__main__ import main
from delivery.experiment.experiment import Experiment, estimate
from delivery.git import Repository
from tests.conftest import run


@pytest.fixture
def record(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Leave what the training job leaves; the report itself is another package's."""

    def report(against: str) -> None:
        comment.REPORT.parent.mkdir(exist_ok=True)
        comment.REPORT.write_text(f"# landcover: against {against}\n", encoding="utf-8")

    monkeypatch.setattr(comment, "_report", report)

    def write(log: str = "", **fields: object) -> None:
        Experiment.model_validate(fields).write()
        experiment.LOG.write_text(log, encoding="utf-8")

    return write


def test_minutes_stand_below_the_report(record: Callable[..., None]) -> None:
    record(state="done", trained=True, seconds=90.0, estimate=60.0)
    text = compose(Repository(), "main")
    assert text.startswith("# landcover: against main")
    assert "Used: 1.5. Estimated: 1.0" in text
    assert "stale" not in text


def test_the_comment_reports_that_nothing_was_trained(record: Callable[..., None]) -> None:
    record(state="done", note="nothing to train: dvc.lock is current")
    assert "Nothing was trained" in compose(Repository(), "main")


def test_the_comment_warns_of_a_stale_base(
    record: Callable[..., None], commit: Callable[[str], str]
) -> None:
    run("git", "branch", "mine")
    commit("main moves on")
    run("git", "checkout", "--quiet", "mine")
    record(state="done")
    assert "`main` has 1 commits that this branch lacks" in compose(Repository(), "main")


def test_only_a_finished_training_asks_for_its_lock_to_be_committed(
    record: Callable[..., None], commit: Callable[[str], str]
) -> None:
    Path("dvc.lock").write_text("stages: {}\n", encoding="utf-8")
    commit("Lock")
    Path("dvc.lock").write_text("stages: {load: {}}\n", encoding="utf-8")
    record(state="done", trained=True)
    assert "Commit it and `reports/`" in compose(Repository(), "main")
    record(state="failed")  # the stages before the one that failed have changed the lock
    assert "dvc.lock" not in compose(Repository(), "main")


def test_a_failed_training_shows_the_end_of_its_log_and_no_markup(
    record: Callable[..., None],
) -> None:
    lines = [f"line {number}" for number in range(50)]
    record("\n".join([*lines, comment.FENCE, "![x](http://evil)"]), state="failed")
    text = compose(Repository(), "main")
    assert "line 20\n" not in text and "line 49" in text
    inside = text.split(comment.FENCE)
    assert len(inside) == 3, "the log broke out of its fence"
    assert "![x]" in inside[1]
    assert "Nothing was trained" not in text
    assert "What to do" in inside[2]


def test_a_failed_training_links_to_the_log_of_its_own_job(
    record: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI_PIPELINE_URL", "https://gitlab.example.com/-/pipelines/5")
    for job in ("https://gitlab.example.com/-/jobs/7", ""):
        record(state="failed", job=job)
        link = job or "https://gitlab.example.com/-/pipelines/5"
        assert f"[whole log]({link})" in compose(Repository(), "main").replace("\n", " ")


def test_a_log_of_one_endless_line_leaves_the_comment_short(record: Callable[..., None]) -> None:
    record("x" * 2_000_000, state="failed")
    assert len(compose(Repository(), "main")) < 3_000


@pytest.mark.parametrize("content", [None, "", "{", '{"seconds": "many"}'])
def test_a_job_that_left_nothing_is_reported(repository: Path, content: str | None) -> None:
    if content is not None:
        experiment.FOLDER.mkdir(parents=True)
        experiment.RECORD.write_text(content, encoding="utf-8")
    assert "No result" in compose(Repository(), "main")


def test_without_cml_the_error_says_how_to_install_it(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI_JOB_ID", raising=False)
    with pytest.raises(ToolError, match="cml is not installed: npm ci --prefix ci/cml"):
        post()


def test_without_a_token_the_report_is_a_page_and_nothing_is_posted(
    record: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("BOT_TOKEN", "REPO_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(comment, "post", lambda: pytest.fail("it was posted"))
    monkeypatch.setattr("sys.argv", ["comment", "--against", "main"])
    record(state="done")
    comment.main()
    assert (
        "BOT_TOKEN is not set: the report is the artifact `Model report`" in capsys.readouterr().out
    )
    assert "<h1>landcover: against main</h1>" in comment.PAGE.read_text(encoding="utf-8")


def test_with_a_token_the_report_is_posted_and_a_page_as_well(
    record: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOT_TOKEN", "token")
    posted: list[str] = []
    monkeypatch.setattr(comment, "post", lambda: posted.append("report"))
    monkeypatch.setattr("sys.argv", ["comment", "--against", "main"])
    record("the end of a log", state="failed")
    comment.main()
    assert posted == ["report"]
    assert "the end of a log" in comment.PAGE.read_text(encoding="utf-8")


def test_an_estimate_goes_by_the_epochs_of_the_last_experiment(repository: Path) -> None:
    assert estimate(Repository(), 10) == 0
    for tag, message in (
        ("experiment/1-1", Experiment(trained=True, seconds=60, epochs=20).model_dump_json()),
        ("experiment/1-2", Experiment(trained=False, seconds=1, epochs=20).model_dump_json()),
        ("experiment/1-3", "by hand"),
    ):
        run("git", "tag", "--annotate", "--message", f"title\n\n{message}", tag)
    assert estimate(Repository(), 10) == 30
    assert estimate(Repository(), 0) == 0


def test_errors_before_the_training_are_reported_too(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["experiment"])
    with pytest.raises(SystemExit, match="no default remote"):
        main()
    text = compose(Repository(), "main")
    assert "Training failed" in text
    assert "error: DVC has no default remote" in text
