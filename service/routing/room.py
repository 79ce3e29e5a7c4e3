"""The wiring of the room: routes, metrics, and the router from the parts of the service."""

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Summary
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from pydantic import BaseModel, ConfigDict, Field

from service.errors import ServiceError
from service.feedback.recorder import Recorder
from service.feedback.service import FeedbackService
from service.files import disk_error
from service.inference.model import Serving
from service.inference.queue import InferenceQueue
from service.prediction import ModelCatalogue, Predictor
from service.routing.router import Arm, Parts, Router
from service.routing.rules import Guard, Learn
from service.routing.shadow import Shadow
from service.schemas import Wire, problems
from service.settings import Settings
from service.telemetry.metrics import Metrics

RESULTS = ("equal", "different", "failed", "dropped")


class ArmState(Wire):
    """An arm, as it is now."""

    arm: str
    tag: str | None = Field(description="Of its model; null while it has none.")
    problem: str | None = Field(description="Why it has no model.")
    cut: str | None = Field(description="Why a guard rail cut it off in this replica.")
    start: float = Field(description="Its share in the file.")
    share: float = Field(description="The share that it has: the propensity of its answers.")
    answers: int = Field(description="Of this replica, since it started.")
    right: int = Field(
        description="Labels of all replicas that confirm an answer; objects count by their F1."
    )
    wrong: int
    best: float = Field(description="Probability that it is the best arm, by its labels.")


class ShadowState(Wire):
    """What the copies say, in this replica since it started."""

    model: str
    tag: str | None
    problem: str | None
    copies: dict[str, int] = Field(description="`equal`, `different`, `failed`, `dropped`.")
    equal: float | None = Field(description="Share of copies with the class of the answer.")
    confidence: float | None = Field(description="Mean of its confidence less that of the answer.")
    milliseconds: float | None = Field(description="Mean in the runtime.")
    answer_milliseconds: float | None = Field(description="The same, of the answers.")


class ProposalState(Wire):
    """A promotion that the labels speak for; a person makes it."""

    tag: str
    text: str
    command: str


class RoutingState(Wire):
    """What `GET /routing` answers."""

    rule: str | None = Field(description="Name of the rules; null without any.")
    enabled: bool = Field(description="Whether they choose who answers.")
    off: str | None = Field(description="Who switched them off in this replica.")
    problem: str | None = Field(description="Why the file as it is does not hold.")
    sticky: str | None
    arms: list[ArmState]
    learn: Learn | None
    guard: Guard | None
    shadow: ShadowState | None
    proposal: ProposalState | None


class Switch(BaseModel):
    """Body of `PUT /routing`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    enabled: bool


class Instruments:
    """Counters that every worker keeps, by the name of the rules."""

    def __init__(self, metrics: Metrics) -> None:
        """Register them."""
        registry = self._registry = metrics.registry
        self.answers = Counter(
            "routing_answers", "Answers by arm.", ("rule", "arm"), registry=registry
        )
        self.copies = Counter(
            "routing_shadow_copies",
            "Copies for the shadow: equal, different, failed, or dropped as something waited.",
            ("rule", "result"),
            registry=registry,
        )
        self.difference = Summary(
            "routing_shadow_confidence",
            "Confidence of the shadow less that of the answer.",
            ("rule",),
            registry=registry,
        )
        self.seconds = Summary(
            "routing_shadow_seconds",
            "Time in the runtime, of the shadow and of the answers that it compares.",
            ("rule", "of"),
            registry=registry,
        )

    def compare(
        self, rule: str, result: str, difference: float, answer: float, shadow: float
    ) -> None:
        """Count a copy."""
        self.copies.labels(rule, result).inc()
        if result in ("equal", "different"):
            self.difference.labels(rule).observe(difference)
            self.seconds.labels(rule, "answer").observe(answer)
            self.seconds.labels(rule, "shadow").observe(shadow)

    def read(self, rule: str) -> dict[tuple[str, str], float]:
        """The sums over all workers: name of a sample, label beside the rule -> value."""
        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        found: dict[tuple[str, str], float] = {}
        for family in registry.collect():
            for sample in family.samples if family.name.startswith("routing_") else ():
                if sample.labels.get("rule") == rule:
                    more = [value for key, value in sample.labels.items() if key != "rule"]
                    found[sample.name, more[0] if more else ""] = sample.value
        return found


def make_router(
    settings: Settings,
    catalogue: ModelCatalogue | None,
    serving: Serving,
    queue: InferenceQueue,
    predictor: Predictor,
    recorder: Recorder,
    answers: FeedbackService | None,
    metrics: Metrics,
) -> Router:
    """Make the router from the parts of the service."""
    counts = Instruments(metrics)
    router: Router

    def compare(result: str, difference: float, answer: float, shadow: float) -> None:
        rule = router.plan.rules.name if router.plan else ""
        counts.compare(rule, result, difference, answer, shadow)

    router = Router(
        Parts(
            *(Path(settings.routing), settings.state / "routing", catalogue, serving),
            *(predictor, recorder, answers, Shadow(queue, compare)),
            lambda rule, arm: counts.answers.labels(rule, arm).inc(),
            counts.read,
        )
    )
    return router


class Room(NamedTuple):
    """Routes, metrics, and what runs beside requests."""

    router: Router

    def add_to(self, app: FastAPI) -> None:
        """Register the routes."""
        router = self.router

        @app.get("/routing", tags=["operations"], responses=problems(401, 403))
        async def routing() -> RoutingState:
            """Report rules, shares, rewards, what was cut off, and the shadow's verdict."""
            return state_of(router)

        @app.put(
            "/routing", tags=["operations"], responses=problems(400, 401, 403, 408, 413, 422, 507)
        )
        async def switch(body: Switch) -> RoutingState:
            """Switch the rules off, or on again, in this replica: off, what serves answers all.

            For all replicas and for ever it is `enabled: false` in the file."""
            try:
                router.switch(body.enabled, "PUT /routing")
            except OSError as error:
                raise disk_error(error, ServiceError("the state folder refused it")) from None
            return state_of(router)

    def collector(self) -> Collector:
        """Metrics that are no counters."""
        return RoutingCollector(self.router)

    def run(self) -> Awaitable[None]:
        """Follow the file, models and rewards, until it is cancelled."""
        return self.router.follow()


class RoutingCollector(Collector):
    """Exports what this worker follows; the others follow the same."""

    def __init__(self, router: Router) -> None:
        """Export a router."""
        self._router = router

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics, from memory alone."""
        plan, labels = self._router.plan, ("rule", "arm")
        refused = GaugeMetricFamily("routing_refused", "1 while the file as it is does not hold.")
        refused.add_metric((), float(self._router.problem is not None))
        off = GaugeMetricFamily("routing_off", "1 while the rules are switched off.")
        off.add_metric((), float(plan is None or not plan.rules.enabled or bool(self._router.off)))
        yield from (refused, off)
        arms = plan.arms if plan else []
        proposed = plan.proposal.arm if plan and plan.proposal else None
        values: dict[str, tuple[str, Callable[[Arm], float]]] = {
            "routing_share": ("Share of the requests that an arm gets.", lambda it: it.share),
            "routing_best": ("Probability that it is the best arm.", lambda it: it.best),
            "routing_right": ("Labels that confirm it.", lambda it: it.reward.right),
            "routing_wrong": ("Labels that correct it.", lambda it: it.reward.wrong),
            "routing_cut": ("1 for an arm that a guard rail cut off.", lambda it: bool(it.cut)),
            "routing_absent": ("1 for one without a model.", lambda it: it.model is None),
            "routing_proposed": (
                "1 for one whose promotion the labels speak for.",
                lambda it: it.reference == proposed,
            ),
        }
        for name, (text, read) in values.items():
            family = GaugeMetricFamily(name, text, labels=labels)
            for arm in arms:
                assert plan is not None
                family.add_metric((plan.rules.name, arm.reference), float(read(arm)))
            yield family


def state_of(router: Router) -> RoutingState:
    """Describe a router for `GET /routing`."""
    plan = router.plan
    if plan is None:
        nothing = dict.fromkeys(("rule", "off", "sticky", "learn", "guard", "shadow", "proposal"))
        return RoutingState(**nothing, enabled=False, problem=router.problem, arms=[])
    rules, seen = plan.rules, router.parts.counts(plan.rules.name)
    found = plan.proposal
    return RoutingState(
        rule=rules.name,
        enabled=rules.enabled and not router.off,
        off=router.off or None,
        problem=router.problem,
        sticky=rules.sticky or None,
        arms=[_arm(arm, seen) for arm in plan.arms],
        learn=rules.learn,
        guard=rules.guard,
        shadow=_shadow(plan.shadow, seen) if plan.shadow else None,
        proposal=(
            ProposalState(tag=found.tag, text=found.text, command=found.command) if found else None
        ),
    )


def _arm(arm: Arm, seen: Mapping[tuple[str, str], float]) -> ArmState:
    return ArmState(
        arm=arm.reference,
        tag=arm.model.tag if arm.model else None,
        problem=arm.problem or None,
        cut=arm.cut or None,
        start=arm.start,
        share=arm.share,
        answers=int(seen.get(("routing_answers_total", arm.reference), 0)),
        right=arm.reward.right,
        wrong=arm.reward.wrong,
        best=arm.best,
    )


def _shadow(arm: Arm, seen: Mapping[tuple[str, str], float]) -> ShadowState:
    copies = {one: int(seen.get(("routing_shadow_copies_total", one), 0)) for one in RESULTS}
    compared = copies["equal"] + copies["different"]

    def mean(name: str, of: str, scale: float) -> float | None:
        return scale * seen[f"{name}_sum", of] / compared if compared else None

    return ShadowState(
        model=arm.reference,
        tag=arm.model.tag if arm.model else None,
        problem=arm.problem or None,
        copies=copies,
        equal=copies["equal"] / compared if compared else None,
        confidence=mean("routing_shadow_confidence", "", 1),
        milliseconds=mean("routing_shadow_seconds", "shadow", 1000),
        answer_milliseconds=mean("routing_shadow_seconds", "answer", 1000),
    )
