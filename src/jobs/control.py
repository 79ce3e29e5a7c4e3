"""What a person asks of jobs that are there: cancel, retry."""

from jobs.budget import Budget, overdrawn
from jobs.record import ACTIVE, Job, State
from jobs.runner import clean
from jobs.settings import read_settings
from jobs.store import Store, require


def cancel(store: Store, name: str) -> Job:
    """Cancel a job: at once if it waits here, else its engine ends it.

    Raises:
        UnknownJob. WrongState: it has ended.
    """
    with store.locked():
        job = store.find(name)
        require(job, not job.has_ended, "there is nothing to cancel")
        if job.state in ACTIVE:
            return store.save(job.model_copy(update={"cancelling": True}))
        job = job.moved(State.CANCELLED, "it was cancelled before it ran")
        clean(job, store)
        return store.save(job)


def retry(store: Store, name: str) -> Job:
    """Queue a job again that failed, was cancelled or timed out; it goes on in its checkout.

    Its rules of on_failure count anew.

    Raises:
        UnknownJob. WrongState: it has not ended, or has succeeded. Denied: no budget is left.
    """
    with store.locked():
        job = store.find(name)
        allowed = job.has_ended and job.state is not State.SUCCEEDED
        require(job, allowed, "only what failed, was cancelled or timed out is tried again")
        budget = Budget(store, read_settings().budget)
        overdrawn(job.request, budget.accounts(job.submitter, job.request.merge_request))
        again = {"retried": 0, "used": (), "current": job.request, "cancelling": False}
        return store.save(job.moved(State.QUEUED, "it is tried again", **again))
