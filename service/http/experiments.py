"""`GET /get_experiments_metas`: what the registry knows, and what is here of it."""

import asyncio
import math
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import FastAPI, Query

from contracts.reports import larger_is_better
from contracts.tags import NAME, STAGE
from service.errors import Unprocessable
from service.feedback.accuracy import AccuracyFile
from service.inference.model import Serving
from service.registry.client import RegistryClient
from service.schemas import Experiment, Experiments, Monitoring, ServingExperiment, problems
from service.swap.cache import BundleCache
from service.swap.workers import WorkerRegistry
from service.telemetry.results import Results

State = Literal["serving", "loaded", "cached", "absent"]


@dataclass(frozen=True)
class ExperimentList:
    """The listing of the registry, with what this replica knows of each experiment."""

    registry: RegistryClient
    serving: Serving
    workers: WorkerRegistry
    cache: BundleCache
    results: Results
    accuracy: AccuracyFile

    async def page(
        self, wanted: "Wanted", sort: str | None, limit: int, offset: int
    ) -> Experiments:
        """Filter, sort and cut the listing. Raises RegistryUnavailable, Unprocessable."""
        listing = await self.registry.experiments()
        found = [it for it in sorted_by(list(listing.experiments), sort) if wanted.takes(it)]
        shown = found[offset : offset + limit]
        return Experiments(
            experiments=await asyncio.to_thread(self._here, shown),  # reads files
            total=len(found),
            fresh=listing.fresh,
            detail=listing.detail,
            checked=listing.checked,
        )

    def _here(self, found: list[Experiment]) -> tuple[ServingExperiment, ...]:
        current, loaded, seen = self.serving.current, self.workers.loaded(), self._monitoring()
        tag = current.tag if current else None

        def state(item: Experiment) -> State:
            if item.tag == tag:
                return "serving"
            if item.tag in loaded:
                return "loaded"
            return "cached" if self.cache.find(item.bundle_digest) else "absent"

        return tuple(
            ServingExperiment(
                **dict(item),
                serving=item.tag == tag,
                state=state(item),
                monitoring=seen.get(item.tag),
            )
            for item in found
        )

    def _monitoring(self) -> dict[str, Monitoring]:
        labels: dict[str, tuple[int, int]] = {}  # tag -> right, all
        live = self.accuracy.latest()
        for tag, predicted, label, times in live.cells if live else ():
            right, count = labels.get(tag, (0, 0))
            labels[tag] = right + times * (predicted == label), count + times
        objects = {tag: sums for tag, *sums in live.objects} if live else {}
        results, found = self.results.read(), {}
        for tag in results.keys() | labels.keys() | objects.keys():
            result, (right, count) = results.get(tag), labels.get(tag, (0, 0))
            images, good, missed, false = objects.get(tag, (0, 0, 0, 0))
            mistakes = missed + false
            if count or images or (result and result.predictions):
                found[tag] = Monitoring(
                    requests=result.predictions if result else 0,
                    mean_confidence=result.confidence if result else None,
                    drift=result.drift if result else None,
                    accuracy=right / count if count else None,
                    f1=2 * good / (2 * good + mistakes) if good or mistakes else None,
                    labels=count + images,
                )
        return found


@dataclass(frozen=True)
class Wanted:
    """Filters; None takes everything."""

    name: str | None
    kind: str | None
    stage: str | None
    q: str | None

    def takes(self, item: Experiment) -> bool:
        """Whether an experiment passes all of them."""
        text = (self.q or "").lower()
        return (
            (self.name is None or item.tag.startswith(f"{self.name}@"))
            and (self.kind is None or item.kind == self.kind)
            and (self.stage is None or self.stage in item.stages)
            and (not text or any(text in it.lower() for it in _texts(item)))
        )


def _texts(item: Experiment) -> list[str]:
    return [item.tag, item.commit, item.summary, item.merge_request or "", *item.approvals]


def add_experiments(app: FastAPI, listed: ExperimentList) -> None:
    """Register the route, under both names that are in use; the document describes one."""

    async def experiments(
        limit: Annotated[int, Query(ge=1, le=10_000, description="At most so many.")] = 100,
        sort: Annotated[
            str | None,
            Query(max_length=64, description="A metric; best first. Newest first without it."),
        ] = None,
        offset: Annotated[
            int, Query(ge=0, le=1_000_000, description="So many are passed over first.")
        ] = 0,
        name: Annotated[
            str | None, Query(pattern=f"^{NAME}$", description="Versions of this model.")
        ] = None,
        kind: Literal["version", "experiment"] | None = None,
        stage: Annotated[
            str | None, Query(pattern=f"^{STAGE}$", description="What holds this stage now.")
        ] = None,
        q: Annotated[
            str | None,
            Query(
                max_length=64,
                description="A part of tag, commit, message, merge request or approver.",
            ),
        ] = None,
    ) -> Experiments:
        """List the tagged experiments of the repository, which one serves here, and what this
        replica has seen of each."""
        return await listed.page(Wanted(name, kind, stage, q), sort, limit, offset)

    for path in ("/get_experiments_metas", "/get_experiment_metas"):
        app.add_api_route(
            path,
            experiments,
            methods=["GET"],
            tags=["experiments"],
            responses=problems(401, 403, 422, 503, 507),
            name=path.strip("/"),
            include_in_schema=path == "/get_experiments_metas",
        )


def sorted_by(found: list[Experiment], metric: str | None) -> list[Experiment]:
    """Order experiments, the best of a metric first and those without it last.

    Raises:
        Unprocessable: no experiment has this metric.
    """
    if metric is None or not found:
        return found
    known = {name for item in found for name in item.metrics}
    if metric not in known:
        raise Unprocessable(
            f"sort: no experiment has this metric; there are {', '.join(sorted(known))}"
        )
    sign = -1 if larger_is_better(metric) else 1
    return sorted(found, key=lambda item: sign * item.metrics.get(metric, math.inf * sign))
