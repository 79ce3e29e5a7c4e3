"""Retention: which experiments' tags go, which stay, and what refuses."""

import sys
import time
from collections.abc import Iterator

import pytest

from delivery import retention
from tests.delivery.conftest import START, Project, hook
from tests.fakes.gitlab.server import PATH, FakeGitLab, serving

OLD = {"experiment/2-20", "experiment/3-30"}
STATES = ("merged", "merged", "closed", "opened", "merged")


@pytest.fixture
def api(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGitLab]:
    """A job of main: experiment 1 was released, 4 is open, 5 is of today, and 6 is of nobody."""
    for number in range(1, 7):
        if number == 5:
            project.minutes = int((time.time() - START) / 60)
        project.merge(f"model {number}", number, 10 * number)
        if number == 1:
            project.registry.register()
    monkeypatch.chdir(project.folder)
    with serving() as fake:
        for state in STATES:
            fake.open_merge_request("try", state=state)
        for name, value in (
            ("CI_SERVER_URL", fake.url),
            ("CI_PROJECT_ID", PATH),
            ("BOT_TOKEN", fake.admit(user="bot", level=30)),
        ):
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("RELEASE_TOKEN", raising=False)
        yield fake


def keep(*words: str) -> None:
    """Run the command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["retention", *words])
        retention.main()


def refused(*words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        keep(*words)
    assert isinstance(ended.value.code, str) and ended.value.code.startswith("error: ")
    return ended.value.code


def test_without_apply_the_old_tags_are_listed_and_nothing_is_changed(
    api: FakeGitLab, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    before = project.origin_tags()
    keep()
    printed = capsys.readouterr().out
    assert printed == (
        "experiment/2-20\nexperiment/3-30\n"
        "retention: 2 tags would be deleted: make retention APPLY=1\n"
    )
    assert project.origin_tags() == before and api.changes() == []


def test_only_old_tags_of_ended_merge_requests_without_a_version_go(
    api: FakeGitLab, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(project.origin_tags())
    keep("--apply")
    assert set(project.origin_tags()) == before - OLD
    assert OLD.isdisjoint(project.repository.tags("experiment/*"))
    keep("--apply")
    assert "retention: 0 tags are deleted" in capsys.readouterr().out


def test_the_age_is_a_number_of_days(
    api: FakeGitLab, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    keep("--days", "36500")
    assert "retention: 0 tags" in capsys.readouterr().out
    for days in ("0", "-1", "ninety", "1.5"):
        with pytest.raises(SystemExit):
            keep("--days", days)
        said = capsys.readouterr().err
        assert "is not a number of days from 1: write DAYS=90" in said or "expected one" in said


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        ("GitLab: You cannot delete a tag", "switch off the push rule 'Do not allow users to"),
        ("GitLab: You are not allowed to delete protected tags", "let this account push there"),
    ],
)
def test_a_rule_that_forbids_it_is_named_and_no_tag_goes(
    api: FakeGitLab, project: Project, words: str, cure: str
) -> None:
    hook(project.origin, "pre-receive", f"echo '{words}'; exit 1")
    before = project.origin_tags()
    said = refused("--apply")
    assert words in said and cure in said
    assert project.origin_tags() == before
    assert OLD <= set(project.repository.tags("experiment/*"))


def test_a_token_that_is_missing_or_unknown_changes_nothing(
    api: FakeGitLab, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = project.origin_tags()
    monkeypatch.setenv("BOT_TOKEN", "glpat-of-nobody")
    assert "GitLab does not know the token" in refused("--apply")
    monkeypatch.delenv("CI_PROJECT_ID")
    assert "the remote origin is not an address of GitLab: git remote set-url" in refused("--apply")
    project.git("remote", "set-url", "origin", f"{api.url}/{PATH}.git")
    monkeypatch.delenv("GITLAB_TOKEN", raising=False)
    assert "GITLAB_TOKEN: not set: create a token" in refused("--apply")
    assert project.origin_tags() == before
