"""The reaper, against a fake of GitLab's API on loopback."""

import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from delivery import reap
from delivery.errors import GitLabError
from tests.fakes.gitlab.server import NUMBER, FakeGitLab, serving

SCOPES = ("read_api", "manage_runner")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGitLab]:
    """GitLab, and the job as it sees it."""
    monkeypatch.delenv("REAP_HOURS", raising=False)
    with serving() as fake:
        monkeypatch.setenv("CI_SERVER_URL", fake.url)
        monkeypatch.setenv("CI_PROJECT_ID", str(NUMBER))
        monkeypatch.setenv("REAP_TOKEN", fake.admit(user="reaper", scopes=SCOPES))
        yield fake


def add(api: FakeGitLab, number: int, name: str | None, hours: float | None, **fields: Any) -> None:
    """Register a runner that was heard of so many hours ago."""
    heard = None if hours is None else (datetime.now(UTC) - timedelta(hours=hours)).isoformat()
    runner: dict[str, Any] = {"id": number, "description": name, "contacted_at": heard}
    runner |= {
        "online": False,
        "status": "offline",
        "runner_type": "project_type",
        "tag_list": ["gpu"],
    }
    api.runners.append(runner | {"projects": [{"id": NUMBER}]} | fields)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["reap", *words])
    reap.main()


def left(api: FakeGitLab) -> list[int]:
    return [row["id"] for row in api.runners]


def test_a_runner_that_was_left_behind_is_deleted_and_the_others_stay(
    api: FakeGitLab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add(api, 1, "cml-landcover", 5)
    add(api, 2, "cml-landcover", 0.1, online=True, status="online")
    add(api, 3, "office machine", 500)
    add(api, 4, "cml-elsewhere", 5, runner_type="group_type")
    add(api, 5, "launched by hand", 5, tag_list=["gpu", "cml-spot"])
    add(api, 6, "not-cml-", 5, tag_list=["my-cml-"])
    add(api, 7, None, 5, tag_list=[])
    run(monkeypatch)
    assert left(api) == [2, 3, 4, 6, 7]
    said = capsys.readouterr().out
    assert re.search(r"deleted: cml-landcover \(#1, silent for 5\.0 hours\)", said)
    assert "reap: 2 of 2 deleted. Whether their machines still run can not be seen" in said


def test_every_page_of_runners_is_read(api: FakeGitLab, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(45):
        add(api, number, f"cml-{number}", 5)
    run(monkeypatch)
    assert left(api) == []


def test_one_that_has_just_gone_silent_waits(
    api: FakeGitLab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add(api, 1, "cml-a", 3)
    monkeypatch.setenv("REAP_HOURS", "4")
    run(monkeypatch)
    assert left(api) == [1]
    said = capsys.readouterr().out
    assert "left alone: cml-a (#1, silent for 3.0 hours): that is not more than 4" in said
    assert "no runner was left behind" in said


def test_one_that_comes_back_meanwhile_stays(
    api: FakeGitLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(api, 1, "cml-a", 5)

    def back(request: Any) -> None:
        if request.path.endswith("/runners/1"):
            api.runners[0]["online"] = True

    api.meanwhile = back
    run(monkeypatch)
    assert left(api) == [1]


def test_one_that_never_came_counts_from_its_making(
    api: FakeGitLab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = (datetime.now(UTC) - timedelta(hours=5)).isoformat()
    add(api, 1, "cml-a", None, status="never_contacted", created_at=made)
    add(api, 2, "cml-b", None, status="never_contacted")
    run(monkeypatch)
    assert left(api) == [2]
    assert "GitLab does not say since when it is there" in capsys.readouterr().out


def test_one_that_other_projects_use_stays(
    api: FakeGitLab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add(api, 1, "cml-a", 5, projects=[{"id": NUMBER}, {"id": 7}])
    run(monkeypatch)
    assert left(api) == [1] and "2 projects use it" in capsys.readouterr().out


def test_a_dry_run_deletes_nothing(
    api: FakeGitLab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "--dry-run")
    assert "nothing to delete" in capsys.readouterr().out
    add(api, 1, "cml-a", 5)
    run(monkeypatch, "--dry-run")
    assert "would be deleted: cml-a (#1, silent for 5.0 hours)" in capsys.readouterr().out
    assert left(api) == [1] and api.changes() == []


def test_one_that_somebody_else_has_deleted_is_no_error(
    api: FakeGitLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(api, 1, "cml-a", 5)
    add(api, 2, "cml-b", 5)
    api.broken["DELETE", "/runners/1$"] = (404, b"{}")
    api.broken["GET", "/runners/2$"] = (404, b"{}")
    run(monkeypatch)
    assert [request.path for request in api.changes()] == ["/api/v4/runners/1"]


def test_one_that_can_not_be_deleted_does_not_stop_the_others(
    api: FakeGitLab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add(api, 1, "cml-a", 5)
    add(api, 2, "cml-b", 5)
    api.broken["DELETE", "/runners/1$"] = (412, b'{"message": "it has changed"}')
    with pytest.raises(SystemExit, match=r"error: deleting cml-a \(#1\): GitLab answered 412"):
        run(monkeypatch)
    assert left(api) == [1] and "1 of 2 deleted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ({"level": 30, "scopes": SCOPES}, "the token's role is too low"),
        ({"scopes": ("read_api",)}, "the token lacks the scope"),
        ({"scopes": ("manage_runner",)}, "the token lacks the scope"),
    ],
)
def test_a_token_that_may_not_is_told_what_it_lacks(
    api: FakeGitLab, monkeypatch: pytest.MonkeyPatch, token: dict[str, Any], said: str
) -> None:
    add(api, 1, "cml-a", 5)
    monkeypatch.setenv("REAP_TOKEN", api.admit(**token))
    with pytest.raises(SystemExit, match=said):
        run(monkeypatch)
    assert left(api) == [1]


def test_outside_of_a_job_it_says_what_is_missing(
    api: FakeGitLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REAP_TOKEN")
    with pytest.raises(GitLabError, match="REAP_TOKEN: not set.*read_api and manage_runner"):
        reap.open_gitlab()


@pytest.mark.parametrize("text", ["1.9", "-3", "two", "nan", "inf", "$(id)"])
def test_hours_that_mean_nothing_are_refused_before_anything_is_done(
    api: FakeGitLab, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    add(api, 1, "cml-a", 5)
    monkeypatch.setenv("REAP_HOURS", text)
    with pytest.raises(SystemExit, match="REAP_HOURS: "):
        run(monkeypatch)
    assert api.requests == []


def test_a_name_is_printed_without_what_moves_the_cursor(
    api: FakeGitLab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add(api, 1, "cml-\x1b[2Ja", 5)
    run(monkeypatch)
    assert "\x1b" not in capsys.readouterr().out


def test_the_help_says_what_it_can_not_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "--help")
    assert "can NOT see or end machines" in capsys.readouterr().out
