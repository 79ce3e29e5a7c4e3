"""A private repository: the token is a file, and never anywhere else."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.errors import RegistryUnavailable
from service.registry import git
from service.registry.client import RegistryClient
from service.registry.git import with_credentials
from service.secrets import MountedSecrets
from tests.fakes import git_http
from tests.fakes.git_http import GitServer
from tests.make.mounts import mount
from tests.make.repositories import V1, fetch, until

NEW = "gldt-second-one"
REFUSED = (
    "The Git repository cannot be read: it refuses the credentials; renew the token of the service."
)


@pytest.fixture
def server(trained: Path) -> Iterator[tuple[str, GitServer]]:
    """The address of the repository `trained`, and who may read it."""
    with git_http.serving(trained.parent) as (url, state):
        yield f"{url}/{trained.name}/.git", state


@pytest.fixture
def secrets(tmp_path: Path, server: tuple[str, GitServer]) -> Path:
    """A folder of mounted secrets with the right token."""
    folder = tmp_path / "a folder's secrets"
    (folder / "git").mkdir(parents=True)
    (folder / "git" / "username").write_text(server[1].user)
    (folder / "git" / "password").write_text(server[1].token)
    return folder


def registry(url: str, cache: Path, secrets: Path, refresh: float = 30.0) -> RegistryClient:
    return RegistryClient(url, cache, refresh, secrets=MountedSecrets(str(secrets)))


def refusal(url: str, cache: Path, secrets: Path) -> str:
    with pytest.raises(RegistryUnavailable) as caught:
        fetch(url, cache, secrets=secrets)
    return caught.value.detail


def test_the_token_lists_experiments_and_fetches_a_model(
    server: tuple[str, GitServer], cache: Path, secrets: Path
) -> None:
    url, state = server

    async def main() -> tuple[int, Path]:
        asked = registry(url, cache, secrets)
        try:
            return len((await asked.experiments()).experiments), await asked.fetch(V1)
        finally:
            await asked.close()

    listed, found = asyncio.run(main())
    assert listed == 2 and (found / "model.onnx").read_text() == "graph 1"
    assert set(state.shown) == {"", f"{state.user}:{state.token}"}  # only when it is asked for


def test_without_a_token_and_with_a_wrong_one_it_is_a_sentence_with_the_cure(
    server: tuple[str, GitServer], cache: Path, secrets: Path, tmp_path: Path
) -> None:
    url, state = server
    needed = "it needs credentials; give the service a token."
    assert refusal(url, cache, tmp_path / "none").endswith(needed)
    (secrets / "git" / "password").write_text("gldt-wrong")
    assert refusal(url, cache, secrets) == REFUSED
    (secrets / "git" / "password").write_text(state.token)
    state.forbidden = True
    assert refusal(url, cache, secrets) == REFUSED


def test_an_expired_token_leaves_the_list_and_a_new_file_is_enough(
    server: tuple[str, GitServer], cache: Path, secrets: Path
) -> None:
    url, state = server

    async def main() -> None:
        asked = registry(url, cache, secrets, refresh=0.2)
        try:
            await until(asked, lambda found: found.fresh)
            state.token = NEW
            stale = await until(asked, lambda found: found.detail == REFUSED)
            assert len(stale.experiments) == 2
            with pytest.raises(RegistryUnavailable, match="renew the token"):
                await asked.fetch(V1)
            mount(secrets, "git", {"username": state.user, "password": f"{NEW}\r\n"})
            assert ((await asked.fetch(V1)) / "model.json").exists()
            await until(asked, lambda found: found.fresh)
        finally:
            await asked.close()

    asyncio.run(main())


def test_the_token_is_in_no_command_line_variable_or_file_of_git(
    server: tuple[str, GitServer],
    cache: Path,
    secrets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, state = server
    seen = tmp_path / "seen"
    spy(tmp_path / "bin", seen, ("git", "sh", "tr"), monkeypatch)
    found = fetch(url, cache, secrets=secrets)
    said = seen.read_text(errors="replace")
    assert "git/password" in said and "credential.http://127.0.0.1:" in said
    assert state.token not in said
    files = [file for file in cache.rglob("*") if file.is_file()]
    assert len(files) > 3 and found.is_relative_to(cache)
    assert not [file for file in files if state.token.encode() in file.read_bytes()]


def spy(folder: Path, seen: Path, names: tuple[str, ...], patch: pytest.MonkeyPatch) -> None:
    """Let programs write their command line and environment before they begin."""
    folder.mkdir()
    where = os.environ["PATH"]
    for name in names:
        path = subprocess.check_output(["which", name], text=True).strip()
        program = folder / name
        program.write_text(f'#!/bin/bash\n{{ echo "$0 $@"; env; }} >>{seen}\nexec {path} "$@"\n')
        program.chmod(0o755)
    patch.setenv("PATH", f"{folder}{os.pathsep}{where}")


def test_no_other_server_gets_the_token(
    server: tuple[str, GitServer], cache: Path, secrets: Path, tmp_path: Path
) -> None:
    url, state = server
    mounted = MountedSecrets(str(secrets))
    elsewhere = with_credentials(os.environ, "https://git.example.com/team/name.git", mounted)
    done = run_git_with(elsewhere, "fetch", "--dry-run", url)
    assert done.returncode != 0 and state.shown == [""]
    for repository in ("http://git.example.com/a.git", "ssh://git@example.com/a.git", "/srv/a"):
        assert with_credentials(os.environ, repository, mounted) == dict(os.environ)


def run_git_with(environment: dict[str, str], *words: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        ["git", "-c", "safe.bareRepository=all", *words],
        env=git.environment() | environment | {"GIT_TERMINAL_PROMPT": "0"},
        capture_output=True,
        check=False,
    )


def test_half_of_the_credentials_are_none(
    server: tuple[str, GitServer], cache: Path, secrets: Path
) -> None:
    (secrets / "git" / "username").unlink()
    assert "it needs credentials" in refusal(server[0], cache, secrets)


def test_helpers_of_the_user_are_not_asked(
    server: tuple[str, GitServer],
    cache: Path,
    secrets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = tmp_path / "asked"
    configuration = tmp_path / "gitconfig"
    configuration.write_text(f'[credential]\n\thelper = "!touch {asked}; true"\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(configuration))
    fetch(server[0], cache, secrets=secrets)
    assert not asked.exists()


def test_variables_of_the_remote_are_read_at_each_use(tmp_path: Path) -> None:
    mounted = MountedSecrets(str(tmp_path))
    assert mounted.variables() == {}
    (tmp_path / "remote").mkdir()
    mount(tmp_path, "remote", {"AWS_ACCESS_KEY_ID": "one\n", "not-a-variable": "x", "NUL": "a\0b"})
    assert mounted.variables() == {"AWS_ACCESS_KEY_ID": "one"}
    mount(tmp_path, "remote", {"AWS_ACCESS_KEY_ID": "two"})
    assert mounted.variables() == {"AWS_ACCESS_KEY_ID": "two"}
    assert MountedSecrets("").variables() == {}
    (tmp_path / "file").write_text("no folder")
    assert MountedSecrets(str(tmp_path / "file")).variables() == {}
