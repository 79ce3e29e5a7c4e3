"""Secrets of a running service: a new one counts without a restart, a wrong one loses nothing."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.auth.roles import new_key
from tests.fakes import git_http
from tests.fakes.git_http import GitServer
from tests.make.bundles import make_bundle
from tests.make.mounts import mount
from tests.make.projects import Published, contents, digest_of
from tests.make.server import DEPLOY_HASH, Server, serving
from tests.make.swaps import replace, version

TAG = "landcover@v1.0.0"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A repository with a version."""
    project = Published(tmp_path_factory.mktemp("project") / "project")
    project.publish(TAG, contents(make_bundle(project.folder.with_name("good"), seed=1)))
    return project


@pytest.fixture(scope="module")
def git(project: Published) -> Iterator[tuple[str, GitServer]]:
    """It is private."""
    with git_http.serving(project.folder.parent) as (url, state):
        yield f"{url}/{project.folder.name}/.git", state


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of secrets of a pod, with a token that is wrong."""
    folder = tmp_path_factory.mktemp("secrets")
    mount(folder, "keys", {"api-keys": json.dumps({DEPLOY_HASH: ["deploy", "view"]})})
    mount(folder, "git", {"username": "gitlab+deploy-token-1", "password": "gldt-of-last-year"})
    return folder


@pytest.fixture(scope="module")
def server(
    bundle: Path,
    git: tuple[str, GitServer],
    secrets: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """The service with these secrets, and no key in a variable."""
    folder = tmp_path_factory.mktemp("service")
    settings = {"repository": git[0], "secrets": secrets, "api_keys": "{}", "open_roles": "[]"}
    with serving(bundle, folder, **settings) as running:
        yield running


def test_a_model_of_a_private_repository_is_fetched_as_soon_as_the_token_is_right(
    server: Server, git: tuple[str, GitServer], secrets: Path, bundle: Path, project: Published
) -> None:
    workers = server.workers()
    refused = replace(server, TAG)
    assert refused.status_code == 503 and refused.json()["step"] == "fetch"
    assert refused.json()["detail"] == (
        "The Git repository cannot be read: it refuses the credentials; renew the token of the "
        "service."
    )
    assert version(server)["model"]["sha256"] == digest_of(bundle)
    state = git[1]
    mount(secrets, "git", {"username": state.user, "password": state.token})
    assert replace(server, TAG).status_code == 200
    good = digest_of(project.folder.with_name("good"))
    assert [version(server)["model"][name] for name in ("tag", "sha256")] == [TAG, good]
    state.token = "gldt-after-it-has-expired"
    assert replace(server, "landcover@v9.9.9").status_code == 503
    assert version(server)["model"]["tag"] == TAG
    assert server.workers() == workers
    said = server.log.read_text(encoding="utf-8")
    assert "Access denied" in said and "gldt-" not in said


def test_a_new_api_key_counts_in_every_worker_and_the_old_one_no_more(
    server: Server, secrets: Path
) -> None:
    key, digest = new_key()
    assert asked(server, key) == 401
    roles = {digest: ["view"], DEPLOY_HASH: ["deploy"]}
    mount(secrets, "keys", {"api-keys": json.dumps(roles)})
    until(server, key, 200)
    mount(secrets, "keys", {"api-keys": "not JSON"})
    mount(secrets, "keys", {"api-keys": json.dumps({DEPLOY_HASH: ["deploy"]})})
    until(server, key, 401)


def asked(server: Server, key: str) -> int:
    """Status of a request of its own connection."""
    headers = {"authorization": f"Bearer {key}"}
    return httpx.get(server.url + "/samples", headers=headers, timeout=60).status_code


def until(server: Server, key: str, status: int) -> None:
    """Wait until 20 requests in turn, so of every worker, have this status."""
    deadline = time.monotonic() + 60
    while any(asked(server, key) != status for _ in range(20)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
