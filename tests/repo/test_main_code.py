"""`ci/main-code`: promotion and rollback by a tag run what main knows today."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, run

SCRIPT = str(ROOT / "ci" / "main-code")
TAG = "landcover#production#4"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What a runner checks out for a tag of a year ago, from an origin whose main went on."""
    origin, team, folder = (tmp_path / name for name in ("origin", "team", "builds"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    run("git", "config", "--global", "user.name", "Ana")
    run("git", "config", "--global", "user.email", "ana@example.org")
    run("git", "init", "--quiet", "--bare", "--initial-branch=main", str(origin))
    run("git", "clone", "--quiet", str(origin), str(team))
    for year, host in enumerate(("old.example.org", "new.example.org")):
        (team / "host").write_text(host, encoding="ascii")
        (team / f"only-{year}").touch()
        run("git", "add", ".", cwd=team)
        run("git", "commit", "--quiet", f"--message=Year {year}", cwd=team)
        if year == 0:
            run("git", "tag", "--annotate", f"--message={TAG}", TAG, cwd=team)
            run("git", "push", "--quiet", "origin", "HEAD:main", TAG, cwd=team)
            run("git", "clone", "--quiet", "--branch", TAG, str(origin), str(folder))
    run("git", "push", "--quiet", "origin", "HEAD:main", cwd=team)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CI_DEFAULT_BRANCH", "main")
    yield folder


def test_the_pipeline_of_a_tag_takes_the_code_of_main(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI_COMMIT_TAG", TAG)
    (checkout / "host").write_text("left by an earlier job", encoding="ascii")
    said = run(SCRIPT).stdout
    assert f"The code of main rolls {TAG} out: " in said and "Year 1" in said
    assert (checkout / "host").read_text() == "new.example.org"
    assert (checkout / "only-1").exists()
    assert run("git", "rev-parse", f"{TAG}^{{}}").stdout != run("git", "rev-parse", "HEAD").stdout


def test_other_pipelines_keep_their_own_code(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI_COMMIT_TAG", raising=False)
    assert run(SCRIPT).stdout == ""
    assert (checkout / "host").read_text() == "old.example.org"


def test_a_main_that_cannot_be_fetched_ends_the_job_before_a_rollout(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI_COMMIT_TAG", TAG)
    run("git", "remote", "set-url", "origin", "/gone")
    done = run(SCRIPT, check=False)
    assert done.returncode == 1
    assert (
        "error: the code of main, which rolls landcover#production#4 out, cannot be" in done.stderr
    )
