"""Jobs: submit training and other work, and follow it (docs/jobs.md).

    python -m jobs submit jobs/train.yaml     queue it; answers its id at once
    python -m jobs list                       all that have not ended, and the last that have
    python -m jobs status train-17            why it waits, what happened, its result
    python -m jobs logs -f train-17
    python -m jobs cancel train-17
    python -m jobs retry train-17
    python -m jobs budget                     GPU minutes: used, held, left
    python -m jobs wait train-17              exit with 0 when it has succeeded
    python -m jobs serve                      the same by HTTP

A job is named by its id or by its number, as 17. Settings: jobs/settings.yaml.
"""

import getpass
import json
import logging
import os
import sys
import time
from argparse import Namespace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from contracts import commands
from contracts.documents import read_yaml
from jobs import control, request
from jobs.admission import Admission
from jobs.budget import LEDGER, Budget, metrics
from jobs.budget import table as table_of_budget
from jobs.errors import Refused, command
from jobs.record import State
from jobs.repository import Repository
from jobs.runner import Runner, start
from jobs.settings import folder, read_settings
from jobs.show import details, followed, table
from jobs.store import Store

LAST = 20
"""Jobs that have ended in the table, unless all are asked for."""


@command
def main() -> None:
    """Run one command."""
    parser = commands.parser("jobs", __doc__)
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    verb = {name: verbs.add_parser(name, help=run.__doc__) for name, run in VERBS.items()}
    for name, run in VERBS.items():
        verb[name].set_defaults(run=run)
    adds = verb["submit"].add_argument
    adds("file", type=Path, help="the request, as jobs/train.yaml")
    adds("--set", action="append", default=[], metavar="NAME=VALUE", help="as train.epochs=3")
    adds("--commit", help="another revision than that of the request")
    adds("--executor", help="another executor")
    adds("--priority", type=int, help="another priority")
    adds("--merge-request", type=int, metavar="IID", help="whose budget of GPU minutes it is")
    adds("--over-budget", metavar="REASON", help="though a budget that asks is used up")
    adds("--key", default="", help="requests with the same key are one job")
    adds("--again", action="store_true", help="though the same was done before")
    verb["budget"].add_argument("--metrics", action="store_true", help="in Prometheus' text format")
    verb["list"].add_argument("--all", action="store_true", help=f"not only the last {LAST} ended")
    verb["list"].add_argument("--json", action="store_true")
    verb["status"].add_argument("--json", action="store_true")
    verb["logs"].add_argument("-f", "--follow", action="store_true", help="until it has ended")
    serving = verb["serve"].add_argument
    serving("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    serving("--port", type=int, default=8010, help="port (default: %(default)s)")
    for name in OF_ONE:
        verb[name].add_argument("id", help="id or number of the job")
    options = parser.parse_args()
    options.run(options, _store())


def submit(options: Namespace, store: Store) -> None:
    """Queue a job."""
    asked = request.read(options.file)
    changes = {
        name: value
        for name in ("commit", "executor", "priority", "merge_request", "over_budget")
        if (value := getattr(options, name)) is not None
    }
    changes["parameters"] = {**asked.parameters, **dict(map(_assignment, options.set))}
    document = asked.model_dump(mode="json") | changes
    asked = request.parse(json.dumps(document).encode(), str(options.file))
    admission = Admission(store, read_settings())
    job, new = admission.submit(asked, getpass.getuser(), options.key, options.again)
    start(store)
    print(job.id)
    if asked.commit == "HEAD" and Repository(store.root).is_changed():
        print("note: what is not committed is no part of the job", file=sys.stderr)
    if not new:
        print(f"note: it is there already, {job.state}: --again for another", file=sys.stderr)


def show_all(options: Namespace, store: Store) -> None:
    """List jobs."""
    jobs = store.jobs()
    _revive(store)
    for line in store.damaged:
        print(f"warning: {line}", file=sys.stderr)
    ended = [job for job in jobs if job.has_ended]
    shown = ended if options.all else ended[-LAST:]
    shown += sorted((job for job in jobs if not job.has_ended), key=lambda job: job.order)
    if options.json:
        print(json.dumps([job.model_dump(mode="json") for job in shown]))
        return
    print(table(shown) if shown else "no jobs yet: make submit JOB=jobs/train.yaml")


def show(options: Namespace, store: Store) -> None:
    """Show a job."""
    _revive(store)
    job = store.find(options.id)
    print(job.model_dump_json(indent=2) if options.json else details(job, store))


def logs(options: Namespace, store: Store) -> None:
    """Print the log, and what is added to it while the job runs."""
    for text in followed(store, options.id, options.follow):
        sys.stdout.buffer.write(text)
        sys.stdout.flush()


def cancel(options: Namespace, store: Store) -> None:
    """Cancel a job."""
    job = control.cancel(store, options.id)
    start(store)
    print(f"{job.id} is {'being ' if job.cancelling else ''}cancelled")


def retry(options: Namespace, store: Store) -> None:
    """Try a job again."""
    job = control.retry(store, options.id)
    start(store)
    print(f"{job.id} is queued again")


def show_budget(options: Namespace, store: Store) -> None:
    """Show the GPU minutes of the month, of people and merge requests."""
    budget = Budget(store, read_settings().budget)
    accounts = budget.all()
    if budget.unreadable:
        what = f"{budget.unreadable} unreadable lines, whose minutes are not counted"
        print(f"warning: {store.folder / LEDGER} has {what}", file=sys.stderr)
    print(metrics(accounts) if options.metrics else table_of_budget(accounts), end="")


def wait(options: Namespace, store: Store) -> None:
    """Wait until a job has ended."""
    while not (job := store.find(options.id)).has_ended:
        _revive(store)
        time.sleep(0.5)
    print(f"{job.id} {job.state}: {job.reason}")
    sys.exit(0 if job.state is State.SUCCEEDED else 1)


def run(options: Namespace, store: Store) -> None:
    """Be the runner, until no job is left."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    Runner(store, read_settings()).run()


def serve(options: Namespace, store: Store) -> None:
    """Serve the same by HTTP; JOBS_KEYS is the file of keys."""
    if find_spec("jobs.http") is None:
        raise Refused("serve: this project has no src/jobs/http.py")
    keys = os.environ.get("JOBS_KEYS")
    front = import_module("jobs.http")
    front.serve(store, read_settings(), options.host, options.port, Path(keys) if keys else None)


def _revive(store: Store) -> None:
    """Start a runner if jobs have lost theirs, as after a power cut."""
    if not all(job.has_ended for job in store.jobs()):
        start(store)


def _store() -> Store:
    root = Repository(Path.cwd()).root()
    return Store(folder(), root)


def _assignment(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise Refused(f"--set: {text!r} sets nothing: write --set train.epochs=3")
    return name, read_yaml(value)


VERBS = {
    "submit": submit,
    "list": show_all,
    "status": show,
    "logs": logs,
    "cancel": cancel,
    "retry": retry,
    "budget": show_budget,
    "wait": wait,
    "run": run,
    "serve": serve,
}
OF_ONE = ("status", "logs", "cancel", "retry", "wait")


if __name__ == "__main__":
    main()
