"""When the last retraining began: annotated tags on a real origin."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from delivery import cooldown
from delivery.errors import GitError, TagError
from tests.delivery.conftest import Project, hook
from tests.delivery.hostile import HOSTILE

NOW = datetime(2026, 11, 21, 18, 30, tzinfo=UTC)


def left(project: Project, hours_later: float, of: float = 24.0) -> float:
    """Hours that an alert has to wait, some time later."""
    later = NOW + timedelta(hours=hours_later)
    return cooldown.left(project.repository, of, later) / timedelta(hours=1)


def test_the_first_alert_need_not_wait(project: Project) -> None:
    assert left(project, 0) <= 0


def test_an_alert_waits_until_the_hours_are_over(project: Project) -> None:
    cooldown.record(project.repository, "drift", NOW)
    assert left(project, 0) == 24
    assert left(project, 23.5) == 0.5
    assert left(project, 24) == 0
    assert left(project, 1, of=1) == 0
    assert left(project, 0, of=0) == 0


def test_the_attempt_is_an_annotated_tag_that_says_why_and_starts_no_pipeline(
    project: Project, origin: Path
) -> None:
    hook(origin, "post-receive", f'echo "$GIT_PUSH_OPTION_0" >> {origin}/options')
    assert cooldown.record(project.repository, "drift of x", NOW) == "retrain/20261121T183000Z"
    assert project.repository.message("retrain/20261121T183000Z") == "drift of x"
    assert (origin / "options").read_text(encoding="utf-8") == "ci.skip\n"


def test_the_last_attempt_is_kept_and_older_ones_are_deleted(project: Project) -> None:
    for hour in range(3):
        cooldown.record(project.repository, "drift", NOW + timedelta(hours=hour))
    assert list(project.origin_tags()) == ["retrain/20261121T203000Z"]
    assert left(project, 2) == 24


def test_a_job_that_is_tried_again_does_not_wait_for_itself(project: Project) -> None:
    repository = project.repository
    assert cooldown.record(repository, "drift", NOW, "345") == "retrain/20261121T183000Z-345"
    assert cooldown.left(repository, 24, NOW, "345") == timedelta()
    assert cooldown.left(repository, 24, NOW, "346") == timedelta(hours=24)
    assert cooldown.left(repository, 24, NOW) == timedelta(hours=24)
    cooldown.record(repository, "drift", NOW + timedelta(hours=1), "345")
    assert list(project.origin_tags()) == ["retrain/20261121T193000Z-345"]


def test_another_runner_knows_of_it(project: Project, tmp_path: Path) -> None:
    other = project.clone(tmp_path / "other")
    cooldown.record(project.repository, "drift", NOW)
    assert left(other, 1) == 23


def test_a_tag_that_is_only_here_did_not_happen(project: Project) -> None:
    project.git("tag", "retrain/20261121T183000Z")
    assert left(project, 1) <= 0


@pytest.mark.parametrize(
    "name",
    [
        *(
            "20261131T183000Z",
            "20261121T183000",
            "x",
            "20261121T183000Z/x",
            "20261121T183000Z-x",
            "$(touch${IFS}pwned)",
        ),
        "20261122T183000Z",  # tomorrow: a wish, or a clock that is wrong
        "99991231T235959Z",
    ],
)
def test_a_tag_that_is_none_of_ours_or_of_the_future_stops_nothing(
    project: Project, name: str
) -> None:
    project.git("tag", f"retrain/{name}")
    project.git("push", "--quiet", "origin", f"refs/tags/retrain/{name}")
    assert left(project, 0) <= 0
    assert not list(project.folder.rglob("pwned"))


def test_a_clock_that_is_a_little_ahead_counts(project: Project) -> None:
    cooldown.record(project.repository, "drift", NOW + timedelta(minutes=30))
    assert left(project, 0) == 24.5


def test_two_that_begin_in_one_second_are_one(project: Project, tmp_path: Path) -> None:
    other = project.clone(tmp_path / "other")
    cooldown.record(project.repository, "drift", NOW)
    with pytest.raises(TagError, match="another retraining has just begun"):
        cooldown.record(other.repository, "drift", NOW)


def test_an_attempt_that_broke_off_before_its_push_can_be_made_again(
    project: Project, origin: Path
) -> None:
    hook(origin, "pre-receive", "echo 'GitLab: not allowed' >&2; exit 1")
    with pytest.raises(GitError, match="not allowed"):
        cooldown.record(project.repository, "drift", NOW)
    (origin / "hooks" / "pre-receive").unlink()
    cooldown.record(project.repository, "drift", NOW)
    assert left(project, 0) == 24


def test_old_tags_that_can_not_be_deleted_do_no_harm(project: Project, origin: Path) -> None:
    cooldown.record(project.repository, "drift", NOW)
    hook(origin, "update", '[ "$3" != 0000000000000000000000000000000000000000 ]')
    cooldown.record(project.repository, "drift", NOW + timedelta(hours=1))
    assert len(project.origin_tags()) == 2
    assert left(project, 1) == 24


def test_an_origin_that_is_away_is_an_error_and_not_a_first_time(project: Project) -> None:
    project.git("remote", "set-url", "origin", "nowhere")
    with pytest.raises(GitError):
        left(project, 0)


@pytest.mark.parametrize("text", [*HOSTILE, "nan", "inf", "-1", "8761", "1e9", "24h"], ids=ascii)
def test_hours_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        cooldown.read_hours(text)


def test_hours_are_read() -> None:
    assert [cooldown.read_hours(text) for text in ("0", "0.5", "24", "8760")] == [0, 0.5, 24, 8760]
