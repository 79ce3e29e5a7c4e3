"""The way in: what a request needs is checked before it queues, and the same one is one job."""

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from contracts.commit import DATA, PARAMS, Unreadable, read_data
from jobs import processes
from jobs.budget import Budget, overdrawn, reported
from jobs.data import is_there
from jobs.errors import Denied, Refused, WrongState
from jobs.executors import executor
from jobs.failure import applied
from jobs.kinds import kind
from jobs.parameters import value_in, with_values
from jobs.record import Job, State
from jobs.repository import Repository
from jobs.request import Request, Scalar
from jobs.settings import Settings
from jobs.store import Store

SOURCES = ("src",)
"""Folders of the commit that hold the code which judges params.yaml."""


class Admission:
    """Checks requests and queues them."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._repository = Repository(store.root)

    def submit(
        self, request: Request, submitter: str = "", key: str = "", again: bool = False
    ) -> tuple[Job, bool]:
        """Queue a job; returns it, and whether it is new.

        The same work again, or the same `key` of the caller, is the job that there is, unless that
        failed, was cancelled or timed out, or `again` asks for another one.

        Raises:
            Refused, Denied: the first thing that is wrong, with its cure.
        """
        commit = self._repository.commit(request.commit)
        request = request.model_copy(update={"commit": commit})
        key = hashlib.sha256(key.encode()).hexdigest() if key else request.digest()
        if not again and (found := self._same(request, key)):
            return found, False
        self.check(request)
        with self._store.locked():
            if not again and (found := self._same(request, key)):
                return found, False
            self._require_room(submitter)
            budget = Budget(self._store, self._settings.budget)
            accounts = budget.accounts(submitter, request.merge_request)
            over = overdrawn(request, accounts)
            identity, sequence = self._store.new_id(request.name, key)
            job = Job(
                id=identity,
                sequence=sequence,
                key=key,
                request=request,
                current=request,
                commit=commit,
                submitter=submitter,
                accounts=reported(accounts),
            )
            return self._store.save(job.moved(State.QUEUED, over or "it is new")), True

    def _same(self, request: Request, key: str) -> Job | None:
        """The job that a request is again. Raises WrongState: its key stands for other work."""
        found = self._store.with_key(key)
        if found and found.request != request:
            raise WrongState(f"the key of this request belongs to {found.id}: take a new one")
        is_over = found and found.has_ended and found.state is not State.SUCCEEDED
        return None if is_over else found

    def check(self, request: Request) -> None:
        """Refuse what cannot run: kind, quota, executor, parameters, data. Raises Refused."""
        kind(request.kind)
        self.require_possible(request)
        self._require_parameters(request)
        self._require_ranks(request)
        for rule in request.on_failure:
            other = applied(request, rule, lambda name: self.value_of(request.commit, name))
            self.require_possible(other)
        if self._settings.data:
            self._require_data(request.commit)

    def require_possible(self, request: Request) -> None:
        """Refuse what is over the quota, or never fits into its executor. Raises Refused."""
        self._settings.quota.check(request.resources)
        executor(request.executor, self._settings, self._store).check(request)

    def value_of(self, commit: str, name: str) -> Scalar:
        """The value of a parameter in params.yaml of a commit. Raises Refused."""
        return value_in(self._params(commit), name)

    def _params(self, commit: str) -> bytes:
        content = self._repository.show(commit, PARAMS)
        if content is None:
            raise Refused(f"parameters: {PARAMS} is not in commit {commit[:12]}")
        return content

    def _require_parameters(self, request: Request) -> None:
        """With the parameters in their place, the code of the commit itself is the judge."""
        if not request.parameters:
            return
        content = with_values(self._params(request.commit), request.parameters)
        if not self._settings.check:
            return
        with tempfile.TemporaryDirectory() as folder:
            self._repository.export(request.commit, SOURCES, Path(folder))
            Path(folder, PARAMS).write_bytes(content)
            code = {"PYTHONPATH": str(Path(folder, SOURCES[0])), "PATH": processes.path()}
            done = subprocess.run(
                self._settings.check,
                cwd=folder,
                env=os.environ | code,
                capture_output=True,
                text=True,
            )
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or ["it is not valid"]
            raise Refused(f"parameters: {said[-1].removeprefix('error: ')}")

    def _require_ranks(self, request: Request) -> None:
        """Several nodes train one model only if params.yaml says so."""
        if request.kind != "train" or (nodes := request.resources.nodes) == 1:
            return
        content = with_values(self._params(request.commit), request.parameters)
        if (found := value_in(content, "train.nodes")) != nodes:
            raise Refused(
                f"resources.nodes: {nodes}, and train.nodes is {found}: add "
                f"parameters: {{train.nodes: {nodes}}}"
            )

    def _require_data(self, commit: str) -> None:
        pointer = self._repository.show(commit, DATA)
        if pointer is None:
            return
        try:
            digest = read_data(pointer)
        except Unreadable as error:
            raise Refused(f"{DATA} of commit {commit[:12]} {error}: correct it") from None
        if not is_there(digest, self._store.root):
            raise Refused(
                f"{DATA} of commit {commit[:12]} names {digest[:12]}, which is neither in DVC's "
                "cache nor in its remote: dvc push, from a machine that has it"
            )

    def _require_room(self, submitter: str) -> None:
        most = self._settings.quota.unfinished
        mine = sum(job.submitter == submitter for job in self._store.jobs() if not job.has_ended)
        if mine >= most:
            raise Denied(f"{mine} jobs of yours have not ended, the quota is {most}: wait for some")
