"""The same by HTTP: roles, idempotency, problem bodies."""

import asyncio
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.http import application
from jobs.record import State
from service.auth.roles import Guard, Role, new_key
from tests.make.jobs import JobProject
from tests.make.ports import free_port
from tests.make.processes import until

TRAIN = "name: train\nkind: train\n"
COMMAND = "name: hello\nkind: command\ncommand: [echo, hello]\n"


@pytest.fixture
def project(tmp_path: Path) -> JobProject:
    return JobProject(tmp_path / "project")


class Front:
    """Clients with the key of a role each."""

    def __init__(self, project: JobProject) -> None:
        self.keys = {name: new_key() for name in ("view", "train", "other", "deploy")}
        has = {
            "other": ("train",),
            "train": ("train", "view"),
            "deploy": ("train", "view", "deploy"),
        }
        roles = {
            digest: frozenset(map(Role, has.get(name, (name,))))
            for name, (_, digest) in self.keys.items()
        }
        self.app = application(project.store, project.settings, Guard(roles, frozenset(), None))

    def ask(self, who: str, method: str, path: str, **options: Any) -> httpx.Response:
        headers = options.pop("headers", {})
        if who:
            headers |= {"authorization": f"Bearer {self.keys[who][0]}"}

        async def main() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://jobs") as client:
                return await client.request(method, path, headers=headers, **options)

        return asyncio.run(main())

    def __call__(
        self, who: str, method: str, path: str, content: str = "", **headers: str
    ) -> tuple[int, object]:
        answer = self.ask(who, method, path, content=content, headers=headers)
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["status"] == answer.status_code
            return answer.status_code, answer.json()["detail"]
        return answer.status_code, answer.json()


@pytest.fixture
def front(project: JobProject, monkeypatch: pytest.MonkeyPatch) -> Front:
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("PYTHONPATH", project.environment["PYTHONPATH"])
    return Front(project)


def test_every_role_may_do_its_part_and_no_more(front: Front) -> None:
    assert front("", "GET", "/healthz")[0] == 200
    assert front("", "GET", "/jobs")[0] == 401
    assert front("view", "GET", "/jobs") == (200, [])
    assert front("view", "POST", "/jobs", TRAIN)[0] == 403
    code, said = front("train", "POST", "/jobs", COMMAND)
    assert code == 403 and "needs the role `deploy`" in str(said)


def test_a_job_is_submitted_followed_and_cancelled(front: Front, project: JobProject) -> None:
    code, job = front("deploy", "POST", "/jobs", COMMAND)
    assert code == 202 and isinstance(job, dict) and job["state"] == "queued"
    assert project.ended(job["id"]).state is State.SUCCEEDED
    log = front.ask("view", "GET", f"/jobs/{job['id']}/log?follow=true")
    assert "hello" in log.text.splitlines()
    assert front("deploy", "POST", "/jobs", COMMAND)[0] == 200  # the same is there
    code, said = front("deploy", "POST", f"/jobs/{job['id']}/cancel")
    assert code == 409 and "there is nothing to cancel" in str(said)
    code, said = front("other", "POST", f"/jobs/{job['id']}/cancel")
    assert code == 403 and "somebody else's" in str(said)
    code, listed = front("view", "GET", "/jobs?state=succeeded&limit=5")
    assert isinstance(listed, list) and [entry["id"] for entry in listed] == [job["id"]]
    assert str(project.folder) not in str(listed)


def test_a_key_of_the_caller_is_one_job_and_stands_for_nothing_else(front: Front) -> None:
    one, same = (
        front("deploy", "POST", "/jobs", COMMAND, **{"idempotency-key": "abc"}) for _ in range(2)
    )
    assert isinstance(one[1], dict) and isinstance(same[1], dict)
    assert (one[0], same[0], one[1]["id"]) == (202, 200, same[1]["id"])
    other = COMMAND.replace("echo", "printf")
    code, said = front("deploy", "POST", "/jobs", other, **{"idempotency-key": "abc"})
    assert code == 409 and one[1]["id"] in str(said)


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        ("[", 422, "it is not YAML"),
        ("name: x\nkind: bake\n", 422, "kind: 'bake' is not one: use train, test, command"),
        ("name: x\nexecutor: mainframe\n", 422, "executor: 'mainframe' is not one here"),
        ("name: x\nresources: {gpus: 99}\n", 403, "resources.gpus: 99 is over the quota of 8"),
        ("name: x\ncommit: deadbeef\n", 422, "commit: 'deadbeef' is not in this repository"),
        ("name: x\nparameters: {train.epoch: 1}\n", 422, "train.epoch is not in params.yaml"),
        ("#" * 70000, 422, "at most 65536"),
    ],
)
def test_a_bad_request_is_refused_with_its_field(
    content: str, code: int, said: str, front: Front
) -> None:
    found = front("deploy", "POST", "/jobs", content)
    assert found[0] == code and said in str(found[1])
    assert front("view", "GET", "/jobs") == (200, [])


def test_what_is_not_there_is_404_with_the_nearest(front: Front) -> None:
    _, job = front("deploy", "POST", "/jobs", COMMAND)
    assert isinstance(job, dict)
    code, said = front("view", "GET", "/jobs/helo-1")
    assert code == 404 and f"the nearest is {job['id']}" in str(said)
    assert front("view", "GET", "/jobs/..%2f..%2fetc")[0] == 404
    assert front("view", "GET", "/nowhere")[0] == 404
    assert front("view", "GET", "/jobs?limit=many")[0] == 422


JOBS = 8


def test_a_front_that_is_killed_loses_no_job_and_runs_none_twice(
    project: JobProject, tmp_path: Path
) -> None:
    key, digest = new_key()
    (tmp_path / "keys").write_text(json.dumps({digest: ["train", "view", "deploy"]}))
    port, ran = free_port(), tmp_path / "ran"
    client = httpx.Client(
        base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {key}"}
    )

    def front() -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs", "serve", f"--port={port}"],
            cwd=project.folder,
            env=project.environment | {"JOBS_KEYS": str(tmp_path / "keys")},
            stderr=subprocess.DEVNULL,
        )
        until(lambda: answers() or process.poll() is not None, "the front")
        assert process.poll() is None
        return process

    def answers() -> bool:
        try:
            return client.get("/healthz").is_success
        except httpx.TransportError:
            return False

    def submit(number: int) -> str:
        request = project.request(f"echo {number} >> {ran}", name=f"job-{number}").read_text()
        for _ in range(3):
            try:
                headers = {"idempotency-key": str(number)}
                answer = client.post("/jobs", content=request, headers=headers)
            except httpx.TransportError:  # as whoever retries, with the same key
                running.append(front())
                continue
            assert answer.status_code in (200, 202), answer.text
            return str(answer.json()["id"])
        raise AssertionError("it was never accepted")

    running = [front()]
    try:
        with ThreadPoolExecutor(1) as person:
            submitted = [person.submit(submit, number) for number in range(JOBS)]
            submitted[2].result()
            running[0].kill()  # while the next ones are on their way
            names = [one.result() for one in submitted]
        assert len(set(names)) == JOBS
        assert {project.ended(name).state for name in names} == {State.SUCCEEDED}
    finally:
        for process in running:
            process.kill()
            process.wait()
        client.close()
    assert len(running) == 2
    assert sorted(ran.read_text(encoding="ascii").split()) == [str(n) for n in range(JOBS)]
