"""The budget of GPU minutes: what is used and held, who is refused, and what cannot break it."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from jobs import control
from jobs.admission import Admission
from jobs.budget import Budget, metrics, table
from jobs.errors import Denied, Refused
from jobs.executors.local import Executor
from jobs.http import application
from jobs.record import Job, Outcome, State
from jobs.request import Cause, Request
from jobs.runner import Runner
from jobs.settings import read_settings
from jobs.store import Store
from service.auth.roles import Guard, Role, new_key
from tests.make.jobs import JobProject

NOVEMBER, DECEMBER = (datetime(2026, month, 30, 12, tzinfo=UTC).timestamp() for month in (11, 12))
ASK: dict[str, Any] = {"month": {"minutes": 100, "action": "ask"}}
STOP: dict[str, Any] = {"person": {"minutes": 100}}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobProject:
    """Its machine has GPUs, as far as the executor looks; its clock stands at noon in November."""
    monkeypatch.setattr(Executor, "check", lambda self, request: None)
    monkeypatch.setattr(time, "time", lambda: NOVEMBER)
    made = JobProject(tmp_path / "project")
    monkeypatch.chdir(made.folder)
    return made


def limited(project: JobProject, budget: dict[str, Any]) -> JobProject:
    project.write("jobs/settings.yaml", yaml.safe_dump({"check": [], "budget": budget}))
    return project


def submit(project: JobProject, person: str = "ana", minutes: int = 60, **fields: Any) -> Job:
    resources = {"gpus": fields.pop("gpus", 1), "time": f"{minutes}m"}
    document = {"name": "job", "kind": "command", "command": ("true",), "resources": resources}
    request = Request.model_validate(document | fields)
    store = Store(project.state, project.folder)
    return Admission(store, project.settings).submit(request, person, again=True)[0]


def end(project: JobProject, job: Job, seconds: float, state: State = State.SUCCEEDED) -> Job:
    """Do what the runner does when the attempt has ended."""
    job = job.model_copy(update={"attempt": job.attempt + 1})
    with project.store.locked():
        outcome = Outcome(seconds=seconds, gpus=job.current.resources.gpus)
        budget(project).book(job, outcome)
        return project.store.save(job.moved(state))


def budget(project: JobProject) -> Budget:
    return Budget(project.store, project.settings.budget)


def test_a_job_holds_what_it_may_use_and_uses_what_it_has_used(project: JobProject) -> None:
    limited(project, STOP)
    first = submit(project, minutes=90)
    with pytest.raises(Denied) as refused:
        submit(project, minutes=20)
    assert str(refused.value) == (
        "budget: it may take 20 GPU minutes, and 10 are left of ana: 0 of 100 are used, 90 are "
        "held by jobs that have not ended: ask for less in resources, wait for the next month, or "
        "raise budget.person in jobs/settings.yaml"
    )
    end(project, first, 30 * 60.0)
    submit(project, minutes=70)
    assert submit(project, "ben").submitter == "ben"
    assert submit(project, gpus=0).state is State.QUEUED


def test_gpus_of_all_nodes_count(project: JobProject) -> None:
    limited(project, STOP)
    with pytest.raises(Denied, match="it may take 240 GPU minutes"):
        submit(project, minutes=60, gpus=4)


def test_a_budget_that_asks_takes_a_reason_and_records_it(project: JobProject) -> None:
    limited(project, ASK)
    submit(project, minutes=100)
    with pytest.raises(Denied, match='give a reason with --over-budget "..."'):
        submit(project, "ben")
    job = submit(project, "ben", over_budget="the paper is due")
    assert job.reason == "over the budget of month 2026-11: the paper is due"
    end(project, job, 60)
    assert [entry.over_budget for entry in budget(project).entries()] == ["the paper is due"]
    limited(project, STOP)
    with pytest.raises(Denied, match="raise budget.person"):
        submit(project, minutes=101, over_budget="a reason does not help here")


def test_a_merge_request_has_a_budget_of_its_own_that_no_month_renews(
    project: JobProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(project, {"merge_request": {"minutes": 100}, **STOP})
    end(project, submit(project, merge_request=7), 3600)
    monkeypatch.setattr(time, "time", lambda: DECEMBER)
    with pytest.raises(Denied, match="40 are left of merge request 7: 60 of 100 are used"):
        submit(project, merge_request=7)
    submit(project, minutes=100)  # a new month for a person


def test_some_people_have_another_limit(project: JobProject) -> None:
    limited(project, {**STOP, "people": {"ana": {"minutes": 0}}})
    with pytest.raises(Denied, match="0 are left of ana: 0 of 0 are used"):
        submit(project, "ana", minutes=1)
    submit(project, "whom nobody knows", minutes=100)


def test_two_submits_at_once_cannot_take_the_same_minutes(project: JobProject) -> None:
    limited(project, STOP)

    def attempt(number: int) -> str:
        try:
            return str(submit(project, minutes=60).state)
        except Denied:
            return "denied"

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(attempt, range(4))) == ["denied", "denied", "denied", "queued"]


def test_a_retry_needs_a_budget_too(project: JobProject) -> None:
    limited(project, STOP)
    job = end(project, submit(project, minutes=60), 50 * 60, State.FAILED)
    with pytest.raises(Denied, match="50 are left of ana"):
        control.retry(project.store, job.id)
    assert project.store.find(job.id).state is State.FAILED
    limited(project, {"person": {"minutes": 110}})
    assert control.retry(project.store, job.id).state is State.QUEUED


@pytest.mark.parametrize(("now", "minutes"), [(NOVEMBER + 600, 10), (0.0, 0), (9e9, 60)])
def test_an_attempt_that_could_not_say_its_time_counts_from_its_start(
    project: JobProject, monkeypatch: pytest.MonkeyPatch, now: float, minutes: float
) -> None:
    job = submit(project, minutes=60).moved(State.RUNNING, attempt=1)
    monkeypatch.setattr(time, "time", lambda: now)  # a clock that jumps, too
    budget(project).book(job, Outcome(cause=Cause.INFRASTRUCTURE))
    assert sum(entry.minutes for entry in budget(project).entries()) == minutes


def test_the_ledger_outlives_a_torn_line_and_counts_an_attempt_once(project: JobProject) -> None:
    job = submit(project)
    end(project, job, 60)
    end(project, job, 60)  # killed between the ledger and the record
    with (project.state / "ledger.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"attempt": "torn')
    end(project, submit(project), 120)
    assert [entry.minutes for entry in budget(project).entries()] == [1, 2]
    assert "ledger.jsonl has 1 unreadable lines" in project.jobs("budget").stderr


def test_the_runner_books_what_an_attempt_has_used(project: JobProject) -> None:
    job = submit(project, "ben", gpus=2, command=("sleep", "0.2"))  # seconds have one digit
    Runner(project.store, project.settings).run()
    (entry,) = budget(project).entries()
    assert (entry.attempt, entry.person, entry.gpus) == (f"{job.id}.1", "ben", 2)
    assert entry.seconds > 0 and "ben" in project.jobs("budget").stdout


def test_accounts_are_shown_and_measured(project: JobProject) -> None:
    limited(project, {"month": {"minutes": 500, "action": "ask"}, **STOP})
    end(project, submit(project, 'a"b', minutes=90, merge_request=7), 1800)
    submit(project, "ben")
    accounts = budget(project).all()
    assert table(accounts) == (
        "budget         of       used  held  left  limit  over it\n"
        "month          2026-11  30.0  60.0  410   500    with a reason\n"
        'person         a"b      30.0  0.0   70    100    refused\n'
        "person         ben      0.0   60.0  40    100    refused\n"
        "merge request  7        30.0  0.0         none\n"
    )
    lines = metrics(accounts).splitlines()
    assert r'jobs_gpu_minutes_used{name="a\"b",scope="person"} 30.0' in lines
    assert 'jobs_gpu_minutes_held{name="2026-11",scope="month"} 60.0' in lines
    assert 'jobs_gpu_minutes_limit{name="ben",scope="person"} 100.0' in lines
    assert not any("limit" in line and "merge_request" in line for line in lines)


def test_the_front_gives_them_to_a_prometheus_with_a_key_that_may_view(
    project: JobProject,
) -> None:
    key, digest = new_key()
    guard = Guard({digest: frozenset({Role.VIEW})}, frozenset(), None)
    app = application(project.store, limited(project, STOP).settings, guard)

    async def ask(key: str) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://jobs") as client:
            return await client.get("/metrics", headers={"authorization": f"Bearer {key}"})

    assert asyncio.run(ask("cvy_another")).status_code == 401
    said = asyncio.run(ask(key)).text
    assert 'jobs_gpu_minutes_used{name="2026-11",scope="month"} 0.0' in said


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"month": {"minutes": -1}}, "budget.month.minutes: wanted at least 0"),
        ({"month": {"minutes": 1, "action": "warn"}}, "budget.month.action: wanted"),
        ({"persons": {"minutes": 1}}, "budget.persons: it is not known here"),
        ({"people": {"ana": 5}}, "budget.people.ana"),
        ({"month": {"minutes": 1e12}}, "budget.month.minutes: wanted at most"),
    ],
)
def test_a_budget_that_is_wrong_is_named(project: JobProject, wrong: Any, said: str) -> None:
    limited(project, wrong)
    with pytest.raises(Refused, match=said):
        read_settings()
