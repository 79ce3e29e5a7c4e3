"""What comes after an attempt: success, the same again, an alternative by rule, or the end."""

from collections.abc import Callable

from jobs.errors import Refused
from jobs.record import Job, Outcome, State
from jobs.request import Cause, Request, Rule, Scalar, changed

ValueOf = Callable[[str], Scalar]
"""The value that a parameter has in params.yaml of the commit."""
Check = Callable[[Request], None]
"""Refuses a request that cannot run: quota, executor."""


def after(job: Job, outcome: Outcome, value_of: ValueOf, check: Check) -> Job:
    """The job after an attempt has ended; it either has ended too, or is to be tried again."""
    job = job.model_copy(update={"outcome": outcome, "handle": ""})
    cause, why = outcome.cause, outcome.message
    if cause is None:
        return job.moved(State.SUCCEEDED, f"the result is {outcome.ref or outcome.commit}")
    if job.cancelling:
        return job.moved(State.CANCELLED, "it was cancelled", cancelling=False)
    if cause is Cause.INFRASTRUCTURE and job.retried < job.current.retries:
        number = job.retried + 1
        reason = f"{why}: the same again, {number} of {job.current.retries}"
        return job.moved(State.RETRYING, reason, retried=number)
    try:
        if other := alternative(job, cause, value_of, check):
            reason = f"{why}: {other.reason}"
            return other.moved(State.RETRYING, reason)
    except Refused as error:
        why = f"{why}; the alternative is refused: {error}"
    state = State.TIMED_OUT if cause is Cause.TIMED_OUT else State.FAILED
    return job.moved(state, f"{cause}: {why}")


def alternative(job: Job, cause: Cause, value_of: ValueOf, check: Check) -> Job | None:
    """The job as its next rule for this cause changes it; None when no rule is left.

    Raises:
        Refused: the rule asks for what cannot be.
    """
    rule = next_rule(job, cause)
    if rule is None:
        return None
    number = job.current.on_failure.index(rule)
    current = applied(job.current, rule, value_of)
    check(current)
    reason = f"rule {number + 1} of on_failure sets {described(rule, current)}"
    update = {"current": current, "used": (*job.used, number), "reason": reason}
    return job.model_copy(update=update)


def next_rule(job: Job, cause: Cause) -> Rule | None:
    """The first rule for a cause that was not used yet."""
    rules = enumerate(job.current.on_failure)
    unused = (rule for number, rule in rules if number not in job.used)
    return next((rule for rule in unused if rule.when is cause), None)


def applied(request: Request, rule: Rule, value_of: ValueOf) -> Request:
    """A request as a rule changes it. Raises Refused."""
    values = dict(request.parameters)
    for name, change in rule.parameters.items():
        values[name] = changed(values.get(name, value_of(name)), change)
    resources = {
        name: value
        for name, value in (("gpus", rule.gpus), ("memory", rule.memory))
        if value is not None
    }
    return request.model_copy(
        update={
            "parameters": values,
            "resources": request.resources.model_copy(update=resources),
            "queue": request.queue if rule.queue is None else rule.queue,
            "executor": rule.executor or request.executor,
        }
    )


def described(rule: Rule, current: Request) -> str:
    """What a rule has set, with the new values."""
    named = [f"{name} {current.parameters[name]}" for name in rule.parameters]
    given = rule.model_dump(exclude={"when", "after", "parameters"}, exclude_none=True)
    return ", ".join(named + [f"{name} {value}" for name, value in given.items()])
