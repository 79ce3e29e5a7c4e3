"""What comes after an attempt, in every case."""

from collections.abc import Callable
from typing import Any

import pytest

from jobs.errors import Denied
from jobs.failure import after
from jobs.record import Job, Outcome, State
from jobs.request import Cause, Request, Scalar, parse

VALUES: dict[str, Scalar] = {"train.batch_size": 64, "train.learning_rate": 0.02}


def job(**fields: Any) -> Job:
    request = parse(f"{{name: a, {', '.join(f'{k}: {v}' for k, v in fields.items())}}}".encode())
    return Job(
        id="a-1-ffff",
        sequence=1,
        key="k",
        request=request,
        current=request,
        commit="c",
        state=State.RUNNING,
        attempt=1,
        handle="17",
    )


def take(request: Request) -> None:
    """Every request is possible."""


def ended(job: Job, cause: Cause | None, check: Callable[[Request], None] = take) -> Job:
    outcome = Outcome(cause=cause, message="it said so", ref="refs/heads/job/a")
    return after(job, outcome, VALUES.__getitem__, check)


def test_a_success_says_where_the_result_is() -> None:
    done = ended(job(), None)
    assert (done.state, done.reason) == (State.SUCCEEDED, "the result is refs/heads/job/a")


def test_infrastructure_is_tried_again_as_it_was_and_not_for_ever() -> None:
    now, states = job(retries=2), []
    for _ in range(3):
        now = ended(now, Cause.INFRASTRUCTURE)
        states.append(now.state)
        assert now.current == now.request and now.handle == ""
    assert states == [State.RETRYING, State.RETRYING, State.FAILED]
    assert now.history[0].reason == "it said so: the same again, 1 of 2"


def test_each_rule_is_used_once_in_its_order() -> None:
    half = "{when: out_of_memory, parameters: {train.batch_size: /2}}"
    small = "{when: out_of_memory, memory: 8GB, queue: large}"
    now = job(on_failure=f"[{half}, {small}]", queue="normal")
    now = ended(now, Cause.OUT_OF_MEMORY)
    assert now.current.parameters == {"train.batch_size": 32}
    assert now.reason == "it said so: rule 1 of on_failure sets train.batch_size 32"
    now = ended(now, Cause.OUT_OF_MEMORY)
    assert now.current.parameters == {"train.batch_size": 32}
    assert (now.current.resources.memory, now.current.queue) == ("8GB", "large")
    assert ended(now, Cause.OUT_OF_MEMORY).state is State.FAILED


@pytest.mark.parametrize(
    ("cause", "rule", "expected"),
    [
        ("nan", "parameters: {train.learning_rate: '*0.5'}", {"train.learning_rate": 0.01}),
        ("no_gpu", "gpus: 0, parameters: {train.device: cpu}", {"train.device": "cpu"}),
        ("timed_out", "executor: slurm", {}),
    ],
)
def test_every_cause_has_its_alternative(
    cause: str, rule: str, expected: dict[str, object]
) -> None:
    values = VALUES | {"train.device": "auto"}
    first = job(on_failure=f"[{{when: {cause}, {rule}}}]", resources="{gpus: 1}")
    outcome = Outcome(cause=Cause(cause), message="x")
    now = after(first, outcome, values.__getitem__, take)
    assert now.state is State.RETRYING and now.current.parameters == expected
    assert ended(first, Cause.BROKEN).state is State.FAILED  # a rule is for its cause alone


def test_an_alternative_over_the_quota_is_the_end_and_says_so() -> None:
    def check(request: Request) -> None:
        raise Denied("resources.memory: 99999GB is over the quota")

    now = ended(job(on_failure="[{when: nan, memory: 99999GB}]"), Cause.NAN, check)
    assert now.state is State.FAILED
    assert now.reason == (
        "nan: it said so; the alternative is refused: resources.memory: 99999GB is over the quota"
    )


def test_a_cancelled_job_is_not_tried_again_and_a_finished_one_stays_a_success() -> None:
    wanted = job(retries=5).model_copy(update={"cancelling": True})
    assert ended(wanted, Cause.INFRASTRUCTURE).state is State.CANCELLED
    assert ended(wanted, None).state is State.SUCCEEDED
    assert ended(job(), Cause.TIMED_OUT).state is State.TIMED_OUT
