"""The client for GitLab and the stand-in for CML, against a fake of GitLab's API on loopback."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from delivery.errors import GitLabError
from delivery.gitlab.client import GitLab
from tests.conftest import ROOT
from tests.fakes.gitlab.server import NUMBER, PATH, FakeGitLab, serving

CML = ROOT / "tests" / "e2e" / "bin" / "cml"


@pytest.fixture
def api() -> Iterator[FakeGitLab]:
    with serving() as fake:
        yield fake


@pytest.fixture
def lab(api: FakeGitLab, monkeypatch: pytest.MonkeyPatch) -> GitLab:
    """The client as a job has it."""
    monkeypatch.setenv("CI_SERVER_URL", api.url)
    monkeypatch.setenv("CI_PROJECT_ID", str(NUMBER))
    monkeypatch.setenv("BOT_TOKEN", api.admit(user="bot", level=30))
    return GitLab.from_environment()


def test_outside_of_a_job_missing_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI_SERVER_URL", "CI_PROJECT_ID", "BOT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(GitLabError, match="CI_SERVER_URL, CI_PROJECT_ID, BOT_TOKEN: not set"):
        GitLab.from_environment()


@pytest.mark.parametrize("token", ["glpat-x\n", "glpat x", "glpat-\u2192", "glpat-\x7f", "\u00a0"])
def test_a_token_that_no_header_takes_is_refused_and_not_shown(
    api: FakeGitLab, lab: GitLab, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("BOT_TOKEN", token)
    with pytest.raises(GitLabError) as refused:
        GitLab.from_environment()
    assert str(refused.value).startswith("BOT_TOKEN: a token has no spaces")
    assert "glpat" not in str(refused.value) and str(refused.value).isprintable()
    assert api.requests == []


def test_a_failed_connection_is_retried(api: FakeGitLab, lab: GitLab) -> None:
    api.open_merge_request("wide")
    api.broken[("GET", "user")] = (503, b"")

    def mend(request: object) -> None:
        if len(api.requests) == 1:
            api.broken.clear()

    api.meanwhile = mend
    assert lab.comments(1, "report").own == []
    assert api.requests[0].path == api.requests[1].path


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ({"scopes": ("read_repository",)}, "lacks the scope 'api'"),
        ({"level": 0}, "not found, or not visible to the token"),
    ],
)
def test_an_insufficient_token_error_names_the_missing_scope(
    api: FakeGitLab, token: dict[str, object], said: str
) -> None:
    api.open_merge_request("wide")
    lab = GitLab(api.url, PATH, api.admit(**token))
    with pytest.raises(GitLabError, match=said):
        lab.comments(1, "report")


def test_a_hostile_answer_stays_one_printable_line(api: FakeGitLab, lab: GitLab) -> None:
    body = {"message": {"base": ["no\x1b[2J\n\nerror: all is well", "x" * 5000]}}
    api.open_merge_request("wide")
    api.broken[("GET", "notes")] = (400, json.dumps(body).encode())
    with pytest.raises(GitLabError) as refused:
        lab.comments(1, "report")
    assert str(refused.value).isprintable() and len(str(refused.value)) < 400


def test_comments_with_the_watermark_are_told_apart_by_author_and_by_what_cml_would_renew(
    api: FakeGitLab, lab: GitLab
) -> None:
    api.open_merge_request("wide")
    mark = f'![](https://cml.dev/watermark.png#{"a" * 40} "CML watermark report")'
    own = api.add_note(1, f"# report\n\n{mark}", author={"username": "bot"})
    api.add_note(1, "CML watermark report", author={"username": "bot"})
    api.add_note(1, mark.replace("report", "report-2"), author={"username": "bot"})
    quoted = api.add_note(1, f"> {mark}")
    assert lab.comments(1, "report") == ([own["id"]], own["id"], "opened")
    for number in range(17):
        api.add_note(1, f"note {number}", system=True)
    assert lab.comments(1, "report").chosen == quoted["id"], "the own one is buried"
    lab.delete_comments(1, [own["id"]])
    assert lab.comments(1, "report") == ([], quoted["id"], "opened")


# The stand-in for CML, which the story in tests/e2e runs with.


@pytest.fixture
def job(api: FakeGitLab, tmp_path: Path) -> dict[str, str]:
    """The environment of a job in a merge-request pipeline."""
    api.open_merge_request("wide", sha="a" * 40)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "CML_REPO": api.web_url,
        "CI_MERGE_REQUEST_IID": "1",
        "CI_COMMIT_SHA": "a" * 40,
        "REPO_TOKEN": api.admit(user="bot", level=30),
    }


def cml(job: dict[str, str], folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the stand-in."""
    command = [sys.executable, str(CML), *words]
    return subprocess.run(command, env=job, cwd=folder, capture_output=True, text=True, check=False)


UPDATE = ("comment", "update", "--publish-native", "--watermark-title=report", "report.md")


def test_one_comment_is_written_and_then_renewed(
    api: FakeGitLab, job: dict[str, str], tmp_path: Path
) -> None:
    report = tmp_path / "report.md"
    (tmp_path / "curve.png").write_bytes(b"\x89PNG picture\r\n\xff")
    report.write_text("# first\n\n![curve](curve.png) ![gone](gone.png) `![code](curve.png)`\n")
    done = cml(job, tmp_path, *UPDATE)
    assert done.returncode == 0, done.stderr
    note = api.notes[1][0]
    assert done.stdout.strip() == f"{api.web_url}/-/merge_requests/1#note_{note['id']}"
    link = note["body"].split("![curve](")[1].split(")")[0]
    assert api.picture(link) == b"\x89PNG picture\r\n\xff"
    assert "![gone](gone.png)" in note["body"] and "`![code](curve.png)`" in note["body"]
    report.write_text("# second\n")
    job["CI_COMMIT_SHA"] = "b" * 40  # the watermark has the commit, and still is the same
    assert cml(job, tmp_path, *UPDATE).returncode == 0
    assert len(api.notes[1]) == 1 and note["body"].startswith("# second")
    assert f'![](https://cml.dev/watermark.png#{"b" * 40} "CML watermark report")' in note["body"]


def test_comments_with_another_watermark_are_others(
    api: FakeGitLab, job: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "report.md").write_text("text")
    where = ("--publish-native", "report.md")
    for title in ("report", "data", "report"):
        words = ("comment", "update", "--watermark-title", title, *where)
        assert cml(job, tmp_path, *words).returncode == 0
    assert len(api.notes[1]) == 2


def test_a_comment_below_twenty_others_is_missed_as_by_the_original(
    api: FakeGitLab, job: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "report.md").write_text("text")
    cml(job, tmp_path, *UPDATE)
    for number in range(20):
        api.add_note(1, f"note {number}")
    cml(job, tmp_path, *UPDATE)
    assert len(api.notes[1]) == 22


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("comment", "update", "--publish-nativ", "report.md"), "--publish-nativ"),
        (("comment", "update"), "required"),
        (("comment", "update", "report.md", "more.md"), "unrecognized"),
        (("send-comment", "report.md"), "invalid choice"),
        (("comment", "update", "--publish-native", "nothing.md"), "no such file"),
        (("comment", "update", "report.md"), "asset.cml.dev"),
    ],
)
def test_a_call_that_is_wrong_fails(
    api: FakeGitLab, job: dict[str, str], tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "report.md").write_text("![p](report.md)")
    failed = cml(job, tmp_path, *words)
    assert failed.returncode == 1 and said in failed.stderr
    assert "Traceback" not in failed.stderr
    assert api.notes[1] == []


def test_a_comment_that_is_too_long_is_refused(
    api: FakeGitLab, job: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "report.md").write_text("x" * 1_000_000)
    failed = cml(job, tmp_path, *UPDATE)
    assert failed.returncode == 1 and "too large" in failed.stderr


def test_a_missing_or_wrong_token_fails(
    api: FakeGitLab, job: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "report.md").write_text("text")
    assert "token not found" in cml(job | {"REPO_TOKEN": ""}, tmp_path, *UPDATE).stderr
    assert "Unauthorized" in cml(job | {"REPO_TOKEN": "wrong"}, tmp_path, *UPDATE).stderr
