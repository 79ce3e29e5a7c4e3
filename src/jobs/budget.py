"""A budget of GPU minutes: of a merge request, of a person and of all in a month (UTC).

    ledger.jsonl    what each attempt has used, one line each, only ever added to

A job that has not ended holds what it may still use: its GPUs for its time limit. What is used and
what is held is compared under the lock of the store, so that two cannot take the same minutes.
"""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from contracts import jobs as drawn
from jobs.errors import Denied, of_disk
from jobs.record import Job, Outcome, State
from jobs.request import Part, Request, Resources
from jobs.settings import Budgets, Limit
from jobs.store import Store

LEDGER = "ledger.jsonl"


class Entry(Part):
    """A line of the ledger: one attempt."""

    attempt: str
    at: float
    """Unix time of its end."""
    person: str
    merge_request: int | None = None
    gpus: int
    seconds: float
    over_budget: str = ""

    @property
    def minutes(self) -> float:
        """GPUs times minutes."""
        return self.gpus * self.seconds / 60


class Account(NamedTuple):
    """A limit, and where it stands."""

    scope: str
    """month | person | merge_request"""
    name: str
    limit: Limit | None
    used: float
    held: float

    @property
    def left(self) -> float:
        """What another job may take."""
        return max(0.0, self.limit.minutes - self.used - self.held) if self.limit else 0.0


class Budget:
    """The ledger of a store, and its limits."""

    def __init__(self, store: Store, budgets: Budgets) -> None:
        self._store = store
        self._budgets = budgets
        self._path = store.folder / LEDGER
        self.unreadable = 0
        """Lines of the ledger that could not be read when it was read last."""

    def accounts(self, person: str, merge_request: int | None) -> list[Account]:
        """The accounts that a job of this person and merge request draws on."""
        mine = [("month", _month(time.time())), ("person", person)]
        mine += [("merge_request", str(merge_request))] if merge_request else []
        drawn = {(row.scope, row.name): row for row in self.all()}
        return [drawn.get(key) or Account(*key, self._limit(*key), 0.0, 0.0) for key in mine]

    def all(self) -> list[Account]:
        """Every account that this month, or a merge request, has drawn on."""
        month, jobs = _month(time.time()), self._store.jobs()
        used: dict[tuple[str, str], float] = {("month", month): 0.0}
        held: dict[tuple[str, str], float] = {}
        for entry in self.entries():
            for key in _keys(entry.person, entry.merge_request, month):
                if key[0] == "merge_request" or _month(entry.at) == month:
                    used[key] = used.get(key, 0.0) + entry.minutes
        for job in jobs:
            if not job.has_ended and (wanted := _minutes(job.current.resources)):
                for key in _keys(job.submitter, job.request.merge_request, month):
                    held[key] = held.get(key, 0.0) + wanted
        keys = sorted(
            {*used, *held}, key=lambda key: (list(Budgets.model_fields).index(key[0]), key)
        )
        return [
            Account(*key, self._limit(*key), used.get(key, 0.0), held.get(key, 0.0)) for key in keys
        ]

    def entries(self) -> Iterator[Entry]:
        """The ledger, each attempt once; torn lines are left out, and counted in `unreadable`."""
        self.unreadable = 0
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            raise of_disk(error) from None
        seen = set()
        for line in filter(None, lines):
            try:
                entry = Entry.model_validate_json(line)
            except ValueError:
                self.unreadable += 1
                continue
            if entry.attempt not in seen:
                seen.add(entry.attempt)
                yield entry

    def book(self, job: Job, outcome: Outcome) -> None:
        """Add an attempt that has ended. Hold the lock of the store. Raises StateError."""
        gpus = outcome.gpus or job.current.resources.gpus * job.current.resources.nodes
        seconds = outcome.seconds or _since_it_ran(job)
        if gpus * seconds == 0:
            return
        entry = Entry(
            attempt=job.attempt_id,
            at=round(time.time(), 3),
            person=job.submitter,
            merge_request=job.request.merge_request,
            gpus=gpus,
            seconds=seconds,
            over_budget=job.request.over_budget,
        )
        try:
            with self._path.open("ab") as file:  # a torn line before it stays a line of its own
                file.write(f"\n{entry.model_dump_json()}\n".encode())
        except OSError as error:
            raise of_disk(error) from None

    def _limit(self, scope: str, name: str) -> Limit | None:
        if scope == "person":
            return self._budgets.people.get(name, self._budgets.person)
        limit: Limit | None = getattr(self._budgets, scope)
        return limit


def overdrawn(request: Request, accounts: Sequence[Account]) -> str:
    """Refuse a job that may go over a limit, or say which one it may go over for a reason.

    Hold the lock of the store.

    Raises:
        Denied: says what is used, and what to do.
    """
    wanted = _minutes(request.resources)
    over = []
    for account in accounts:
        if wanted == 0 or account.limit is None or wanted <= account.left:
            continue
        if account.limit.action == "stop" or not request.over_budget:
            raise Denied(_refusal(account, wanted))
        over.append(f"{account.scope.replace('_', ' ')} {account.name}")
    return f"over the budget of {', '.join(over)}: {request.over_budget}" if over else ""


def reported(accounts: Sequence[Account]) -> tuple[drawn.Account, ...]:
    """Accounts as the report of a job's model shows them."""
    return tuple(
        drawn.Account(
            scope=row.scope,
            name=row.name,
            used=round(row.used, 1),
            held=round(row.held, 1),
            limit=row.limit.minutes if row.limit else None,
        )
        for row in accounts
    )


def table(accounts: Sequence[Account]) -> str:
    """Accounts as text, in GPU minutes."""
    rows = [("budget", "of", "used", "held", "left", "limit", "over it")]
    for account in accounts:
        left, limit, action = "", "none", ""
        if account.limit:
            left, limit = f"{account.left:.0f}", f"{account.limit.minutes:g}"
            action = "refused" if account.limit.action == "stop" else "with a reason"
        used, held = f"{account.used:.1f}", f"{account.held:.1f}"
        scope = account.scope.replace("_", " ")
        rows.append((scope, account.name, used, held, left, limit, action))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join("  ".join(map(str.ljust, row, widths)).rstrip() + "\n" for row in rows)


def metrics(accounts: Sequence[Account]) -> str:
    """Accounts in the text format of Prometheus."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest  # no need to submit

    values: dict[str, list[tuple[Account, float]]] = {
        "used": [(account, account.used) for account in accounts],
        "held": [(account, account.held) for account in accounts],
        "limit": [(row, row.limit.minutes) for row in accounts if row.limit],
    }
    about = {
        "used": "GPU minutes that attempts have used",
        "held": "GPU minutes that jobs which have not ended may still use",
        "limit": "GPU minutes of the budget",
    }
    registry = CollectorRegistry()
    for name, rows in values.items():
        metric = f"jobs_gpu_minutes_{name}"
        gauge = Gauge(metric, about[name], ("scope", "name"), registry=registry)
        for account, value in rows:
            gauge.labels(account.scope, account.name).set(value)
    return generate_latest(registry).decode()


def _refusal(account: Account, wanted: float) -> str:
    assert account.limit
    of = {"month": "of the month", "person": "of", "merge_request": "of merge request"}
    cures = {"month": "wait for the next month", "person": "wait for the next month"}
    wait = f", {cures[account.scope]}" if account.scope in cures else ""
    reason = ', give a reason with --over-budget "..."' if account.limit.action == "ask" else ""
    return (
        f"budget: it may take {wanted:.0f} GPU minutes, and {account.left:.0f} are left "
        f"{of[account.scope]} {account.name}: {account.used:.0f} of {account.limit.minutes:g} are "
        f"used, {account.held:.0f} are held by jobs that have not ended: ask for less in "
        f"resources{wait}{reason}, or raise budget.{account.scope} in jobs/settings.yaml"
    )


def _minutes(resources: Resources) -> float:
    return resources.gpus * resources.nodes * resources.seconds / 60


def _keys(person: str, merge_request: int | None, month: str) -> list[tuple[str, str]]:
    keys = [("month", month), ("person", person)]
    return keys + ([("merge_request", str(merge_request))] if merge_request else [])


def _month(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m")


def _since_it_ran(job: Job) -> float:
    """Seconds of an attempt that could not say them; a clock that jumps adds a limit at most."""
    began = next((e.at for e in reversed(job.history) if e.state is State.RUNNING), None)
    if began is None or job.state is not State.RUNNING:
        return 0.0
    return min(max(0.0, time.time() - began), float(job.current.resources.seconds))
