"""The deploy token of the pods: made once, into a file of the maintainer, and renewed in time."""

import sys
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

from delivery import gitlab_setup
from delivery.gitlab import desired
from tests.fakes.gitlab.server import PATH, FakeGitLab, serving

Setup = Callable[..., str]


@pytest.fixture
def api() -> Iterator[FakeGitLab]:
    with serving() as fake:
        yield fake


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the token goes: outside of the repository."""
    return tmp_path / "landcover-pods.env"


@pytest.fixture
def setup(
    api: FakeGitLab,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Setup:
    """Run the command in a repository, as a maintainer; returns what it printed."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "params.yaml").write_text("model:\n  name: landcover\n")
    monkeypatch.chdir(project)
    monkeypatch.setenv("GITLAB_TOKEN", api.admit(user="ana"))

    def command(*words: str) -> str:
        where = ["--url", api.url, "--project", PATH]
        monkeypatch.setattr(sys, "argv", ["gitlab_setup", *where, *words])
        gitlab_setup.main()
        return capsys.readouterr().out

    return command


def lines(file: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in file.read_text().splitlines())


def made(setup: Setup, file: Path) -> str:
    return setup("--apply", "--pod-token", str(file))


def test_the_token_may_read_the_repository_and_is_in_the_file_alone(
    api: FakeGitLab, setup: Setup, file: Path
) -> None:
    file.write_text("API_KEYS={}\nexport GIT_PASSWORD = of-last-year\n")
    printed = made(setup, file)
    assert "+ deploy token conveyor-pods: read_repository, in " in printed
    (token,) = api.deploy_tokens
    assert token["scopes"] == ["read_repository"]
    ends = date.fromisoformat(token["expires_at"][:10])
    assert ends == date.today() + timedelta(days=desired.TOKEN_DAYS)
    found = lines(file)
    assert list(found) == ["API_KEYS", "GIT_USERNAME", "GIT_PASSWORD"]
    assert found["GIT_USERNAME"] == token["username"] and found["GIT_PASSWORD"].startswith("gldt-")
    assert found["GIT_PASSWORD"] not in printed
    assert file.stat().st_mode & 0o777 == 0o600
    assert not [row for row in api.variables if row["value"] == found["GIT_PASSWORD"]]


def test_a_second_run_makes_no_other_token(api: FakeGitLab, setup: Setup, file: Path) -> None:
    made(setup, file)
    before = file.read_text()
    assert "deploy token" not in made(setup, file)
    assert "deploy token" not in setup("--apply")
    assert len(api.deploy_tokens) == 1 and file.read_text() == before


def test_without_a_file_the_set_up_tells_how_and_a_public_project_needs_none(
    api: FakeGitLab, setup: Setup
) -> None:
    assert "there is none: pods list experiments" in setup()
    assert "POD_TOKEN=~/landcover-pods.env" in setup("--apply") and api.deploy_tokens == []
    api.project["visibility"] = "public"
    assert "deploy token" not in setup()


@pytest.mark.parametrize("days", [3, -3])
def test_a_token_that_ends_soon_is_renewed_and_the_old_one_stays_until_it_is_revoked(
    api: FakeGitLab, setup: Setup, file: Path, days: int
) -> None:
    made(setup, file)
    old = lines(file)
    ends = date.today() + timedelta(days=days)
    api.deploy_tokens[0] |= {"expires_at": f"{ends}T00:00:00.000Z", "expired": days < 0}
    if days > 0:
        assert f"{old['GIT_USERNAME']} ends on {ends}: pods" in setup()
    printed = made(setup, file)
    assert len(api.deploy_tokens) == 2 and lines(file) != old
    assert (f"{old['GIT_USERNAME']}: revoke it when the pods have" in printed) is (days > 0)
    assert lines(file)["GIT_USERNAME"] == api.deploy_tokens[1]["username"]


def test_a_lost_value_is_a_new_token(api: FakeGitLab, setup: Setup, file: Path) -> None:
    made(setup, file)
    file.unlink()
    assert "does not have its value" in made(setup, file)
    assert len(api.deploy_tokens) == 2
    assert lines(file)["GIT_USERNAME"] == api.deploy_tokens[1]["username"]


def test_a_file_that_is_no_text_is_one_sentence(api: FakeGitLab, setup: Setup, file: Path) -> None:
    made(setup, file)
    file.write_bytes(b"\xff")
    with pytest.raises(SystemExit, match="^error: pod-token: .*pods.env' is no text in UTF-8"):
        made(setup, file)
    assert len(api.deploy_tokens) == 1


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("pods.env", "pod-token: 'pods.env' is in the repository"),
        ("../none/pods.env", "pod-token: .* cannot be written: .*No such file"),
        ("..", "pod-token: .* cannot be written: .*Is a directory"),
    ],
)
def test_a_file_that_cannot_keep_it_is_refused_before_a_token_is_made(
    api: FakeGitLab, setup: Setup, path: str, reason: str
) -> None:
    with pytest.raises(SystemExit, match=f"^error: [^\n]*{reason}"):
        setup("--apply", "--pod-token", path)
    assert api.deploy_tokens == []


def test_the_row_can_be_kept_as_it_is(api: FakeGitLab, setup: Setup, file: Path) -> None:
    setup("--apply", "--pod-token", str(file), "--keep", "conveyor-pods")
    assert api.deploy_tokens == [] and not file.exists()
