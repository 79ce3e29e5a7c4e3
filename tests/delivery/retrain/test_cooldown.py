"""When the last retraining began: annotated tags on a real origin."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from delivery.errors import GitError
from delivery.retrain import cooldown
from tests.delivery.conftest import Project, hook

NOW = datetime(2026, 11, 21, 18, 30, tzinfo=UTC)


def left(project: Project, hours_later: float, of: float = 24.0) -> float:
    """Hours that an alert has to wait, some time later."""
    later = NOW + timedelta(hours=hours_later)
    return cooldown.remaining(project.repository, of, later) / timedelta(hours=1)


def test_the_first_alert_does_not_wait(project: Project) -> None:
    assert left(project, 0) <= 0


def test_an_alert_waits_until_the_cool_down_ends(project: Project) -> None:
    cooldown.record(project.repository, "drift", NOW)
    assert left(project, 0) == 24
    assert left(project, 23.5) == 0.5
    assert left(project, 24) == 0
    assert left(project, 1, of=1) == 0
    assert left(project, 0, of=0) == 0


def test_a_start_is_an_annotated_tag_with_the_reason_and_starts_no_pipeline(
    project: Project, origin: Path
) -> None:
    hook(origin, "post-receive", f'echo "$GIT_PUSH_OPTION_0" >> {origin}/options')
    assert cooldown.record(project.repository, "drift of x", NOW) == "retrain/20261121T183000Z"
    assert project.repository.message("retrain/20261121T183000Z") == "drift of x"
    assert (origin / "options").read_text(encoding="utf-8") == "ci.skip\n"


def test_only_the_latest_tag_is_kept(project: Project) -> None:
    for hour in range(3):
        cooldown.record(project.repository, "drift", NOW + timedelta(hours=hour))
    assert list(project.origin_tags()) == ["retrain/20261121T203000Z"]
    assert left(project, 2) == 24


def test_a_retried_job_does_not_wait_for_itself(project: Project) -> None:
    repository = project.repository
    assert cooldown.record(repository, "drift", NOW, "345") == "retrain/20261121T183000Z-345"
    assert cooldown.remaining(repository, 24, NOW, "345") == timedelta()
    assert cooldown.remaining(repository, 24, NOW, "346") == timedelta(hours=24)
    assert cooldown.remaining(repository, 24, NOW) == timedelta(hours=24)
    cooldown.record(repository, "drift", NOW + timedelta(hours=1), "345")
    assert list(project.origin_tags()) == ["retrain/20261121T193000Z-345"]


def test_another_clone_sees_the_start(project: Project, tmp_path: Path) -> None:
    other = project.clone(tmp_path / "other")
    cooldown.record(project.repository, "drift", NOW)
    assert left(other, 1) == 23


def test_a_tag_that_was_never_pushed_does_not_count(project: Project) -> None:
    project.git("tag", "retrain/20261121T183000Z")
    assert left(project, 1) <= 0


def test_foreign_and_future_tags_delay_nothing(project: Project) -> None:
    names = [
        *("20261131T183000Z", "20261121T183000", "x", "20261120T183000Z/x"),
        *("20261121T183000Z-x", "$(touch${IFS}pwned)"),
        "20261122T183000Z",  # tomorrow: a wrong clock, or forged
        "99991231T235959Z",
    ]
    for name in names:
        project.git("tag", f"retrain/{name}")
    project.git("push", "--quiet", "origin", *(f"refs/tags/retrain/{name}" for name in names))
    assert left(project, 0) <= 0
    assert not list(project.folder.rglob("pwned"))


def test_a_rejected_start_can_be_repeated(project: Project, origin: Path) -> None:
    hook(origin, "pre-receive", "echo 'GitLab: not allowed' >&2; exit 1")
    with pytest.raises(GitError, match="not allowed"):
        cooldown.record(project.repository, "drift", NOW)
    (origin / "hooks" / "pre-receive").unlink()
    cooldown.record(project.repository, "drift", NOW)
    assert left(project, 0) == 24


def test_old_tags_that_cannot_be_deleted_are_harmless(project: Project, origin: Path) -> None:
    cooldown.record(project.repository, "drift", NOW)
    hook(origin, "update", '[ "$3" != 0000000000000000000000000000000000000000 ]')
    cooldown.record(project.repository, "drift", NOW + timedelta(hours=1))
    assert len(project.origin_tags()) == 2
    assert left(project, 1) == 24


def test_an_unreachable_origin_is_an_error_and_not_a_first_start(project: Project) -> None:
    project.git("remote", "set-url", "origin", "nowhere")
    with pytest.raises(GitError):
        left(project, 0)


@pytest.mark.parametrize("text", ["", "$(touch pwned)", "nan", "inf", "-1", "8761", "1e9", "24h"])
def test_invalid_hours_are_rejected(text: str) -> None:
    with pytest.raises(ValueError):
        cooldown.read_hours(text)


def test_valid_hours_are_accepted() -> None:
    assert [cooldown.read_hours(text) for text in ("0", "0.5", "24", "8760")] == [0, 0.5, 24, 8760]
