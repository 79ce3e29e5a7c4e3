"""When the last retraining began: annotated tags on a real origin."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from delivery.errors import GitError, TagError
from delivery.git import Repository
from delivery.retrain import cooldown
from tests.delivery.conftest import Project, hook
from tests.make.injection_strings import HOSTILE

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


class Slow(Repository):
    """A working copy whose first push comes after something else, and so after its look."""

    def __init__(self, folder: Path, first: Callable[[], object]) -> None:
        super().__init__(folder)
        self._before = [first]

    def push(self, *refs: str, skip_ci: bool = True) -> None:
        if self._before:
            self._before.pop()()
        super().push(*refs, skip_ci=skip_ci)


@pytest.mark.parametrize(
    ("seconds", "pipeline"), [(-1, "102"), (0, "99"), (1, "99")], ids=["earlier", "lower", "later"]
)
def test_of_two_that_begin_at_once_only_the_one_that_was_not_seen_goes_on(
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: int,
    pipeline: str,
) -> None:
    other = project.clone(tmp_path / "other").repository
    then = NOW + timedelta(seconds=seconds)
    slow = Slow(project.folder, lambda: cooldown.record(other, "drift", then, pipeline))
    pauses: list[float] = []
    monkeypatch.setattr(cooldown, "sleep", pauses.append)
    with pytest.raises(TagError, match="has to wait"):
        cooldown.record(slow, "drift", NOW, "101")
    assert list(project.origin_tags()) == [then.strftime(f"retrain/%Y%m%dT%H%M%SZ-{pipeline}")]
    assert project.git("tag") == "", "it could be made again"
    assert bool(pauses) == (seconds > 0), "only a later one may still give way"


@pytest.mark.parametrize(("seconds", "pipeline"), [(1, "99"), (0, "1010")])
def test_one_that_began_later_gives_way(
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: int,
    pipeline: str,
) -> None:
    other = project.clone(tmp_path / "other")
    tag = (NOW + timedelta(seconds=seconds)).strftime(f"retrain/%Y%m%dT%H%M%SZ-{pipeline}")

    def begin() -> None:
        other.git("tag", tag)
        other.git("push", "--quiet", "origin", f"refs/tags/{tag}")

    def give_way(_: float) -> None:
        other.git("push", "--quiet", "origin", f":refs/tags/{tag}")

    monkeypatch.setattr(cooldown, "sleep", give_way)
    made = cooldown.record(Slow(project.folder, begin), "drift", NOW, "101")
    assert list(project.origin_tags()) == [made] == ["retrain/20261121T183000Z-101"]


def test_an_alert_waits_for_one_that_began_since_it_was_asked(project: Project) -> None:
    cooldown.record(project.repository, "drift", NOW, "101")
    later = NOW + timedelta(seconds=5)
    with pytest.raises(TagError, match="has to wait"):
        cooldown.record(project.repository, "drift", later, "102", hours=24)
    assert list(project.origin_tags()) == ["retrain/20261121T183000Z-101"]
    cooldown.record(project.repository, "not by an alert", later, "102")
    assert list(project.origin_tags()) == ["retrain/20261121T183005Z-102"]


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
