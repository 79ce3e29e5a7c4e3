"""Move a stage to a version, and back if it does not serve it.

    inspect -> try in vain -> clear swaps -> apply -> wait -> smoke test -> mark as good
                           any failure -> undo -> wait -> smoke test of the restored version

A rollout that was killed at any point converges when it runs again: marking as good comes last. Of
two at once the later one decides, and the other one undoes nothing.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

from contracts.tags import Version
from delivery.errors import DeliveryError, Outdated, RolloutError
from delivery.rollout import scraping
from delivery.rollout.cluster import Cluster
from delivery.rollout.manifests import (
    APPLIED,
    Document,
    for_version,
    render,
    to_yaml,
    workload_of,
)
from delivery.rollout.preflight import (
    refuse_inadmissible,
    refuse_other_workload,
    warn_of_skew,
    without_unknown,
)
from delivery.rollout.smoke_test import Expected, Refused, SmokeTest
from delivery.rollout.workload import WORKLOADS, Running, Workload
from delivery.tags import model_name

RESULTS = Path("artifacts/rollout")
ROLLING, ARGO = "rolling", "argo"
TIMEOUTS = {ROLLING: 600.0, ARGO: 2400.0}  # seconds; a canary is observed for a while
STRATEGIES = {"Deployment": ROLLING, "Rollout": ARGO}
IMMEDIATE = 5.0  # seconds in which a stage that should already serve has to prove it


class RolloutRequest(NamedTuple):
    """Which version a stage should serve, and how to verify it."""

    stage: str
    version: Version
    image: str
    url: str
    expected: Expected
    token: str
    limit: float
    """Seconds of the smoke test."""
    timeout: float | None
    """Seconds until every pod is new; by strategy if None."""
    allow_older: bool


@dataclass
class Outcome:
    """The content of artifacts/rollout/<stage>.json."""

    stage: str
    version: str
    image: str
    result: str = "unfinished"
    """unfinished, unchanged, rolled-out, rolled-back or failed."""
    strategy: str = ROLLING
    before: str | None = None
    """The version that the stage ran before; None if it ran none of ours."""
    serving: str | None = None
    """The version that it serves now, as far as it was observed."""
    reason: str = ""
    seconds: float = 0.0

    def write(self) -> None:
        """Write the file."""
        RESULTS.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(self), indent=2) + "\n"
        (RESULTS / f"{self.stage}.json").write_text(text, encoding="utf-8")


def roll_out(request: RolloutRequest, context: str = "") -> Outcome:
    """Roll out a version to a stage; the outcome is also written if it fails.

    Raises:
        DeliveryError: the stage does not serve the version.
    """
    name = model_name()
    documents = for_version(render(request.stage, name), request.version, request.image)
    own = workload_of(documents)
    cluster = Cluster(own["metadata"]["namespace"], name, context)
    warn_of_skew(cluster)
    documents = without_unknown(documents, cluster)
    refuse_other_workload(request.stage, own["kind"], cluster)
    rollout = Rollout(request, documents, cluster, own["kind"])
    started = time.monotonic()
    rollout.outcome.write()  # a killed rollout leaves "unfinished" behind
    try:
        rollout.run()
    except DeliveryError as error:
        if rollout.outcome.result == "unfinished":  # before anything was changed
            rollout.outcome.result, rollout.outcome.reason = "failed", str(error)
        raise
    finally:
        rollout.outcome.seconds = round(time.monotonic() - started, 1)
        rollout.outcome.write()
    return rollout.outcome


class Rollout:
    """One rollout of a set of objects to a cluster."""

    def __init__(
        self, request: RolloutRequest, documents: list[Document], cluster: Cluster, kind: str
    ) -> None:
        """`kind` is that of the workload among the documents."""
        self._request = request
        self._documents = documents
        self._cluster = cluster
        self._workload: Workload = WORKLOADS[kind](cluster)
        self._applied = workload_of(documents)["metadata"]["annotations"][APPLIED]
        self.outcome = Outcome(request.stage, request.version.tag, request.image)
        self.outcome.strategy = STRATEGIES[kind]

    def run(self) -> None:
        """Roll out, and roll back on failure.

        Raises:
            RolloutError: the stage does not serve the version; the message names what it serves.
        """
        request = self._request
        before = self._workload.running()
        unscraped = self._look_at_scraping() if before is not None else None
        if before is not None and before.version is not None:
            self.outcome.before = before.version.tag
            self._refuse_older(before.version)
        if before is not None and self._serves_already(before):
            self.outcome.result, self.outcome.serving = "unchanged", request.version.tag
            print(f"{request.stage} serves {request.version.tag} already: nothing to do")
            return
        # What is not measured is not promoted; the way back to an older version is not judged.
        if unscraped and self.outcome.strategy == ARGO and not request.allow_older:
            raise RolloutError(f"{unscraped}; without data no canary passes: nothing was changed")
        refuse_inadmissible(self._documents, self._cluster)
        try:
            self._advance(before)
        except DeliveryError as error:
            self._roll_back(before, self._with_pod_errors(str(error)))
        self.outcome.result, self.outcome.serving = "rolled-out", request.version.tag
        print(f"{request.stage} serves {request.version.tag}")

    def _look_at_scraping(self) -> scraping.Unscraped | None:
        """Report whether Prometheus measures the pods; the reason if it surely does not."""
        try:
            print(scraping.describe(self._cluster.app, self._cluster.namespace), flush=True)
        except scraping.Unscraped as error:
            print(f"warning: {error}", flush=True)
            return error
        return None

    def _refuse_older(self, running: Version) -> None:
        request, version = self._request, self._request.version
        if running.name == version.name and running > version and not request.allow_older:
            raise Outdated(
                f"{version.tag} is outdated: {request.stage} runs {running.tag}: "
                f"to go back, `make rollback STAGE={request.stage}`"
            )

    def _serves_already(self, before: Running) -> bool:
        request = self._request
        desired = (request.version, request.image, self._applied)
        if (before.version, before.image, before.applied) != desired or not before.complete:
            return False
        try:
            self._smoke_test(request.expected, min(request.limit, IMMEDIATE), lambda line: None)
        except Refused:
            raise
        except RolloutError as error:
            print(f"{request.stage} should serve {request.version.tag} and does not: {error}")
            return False
        self._workload.mark_good()  # a rollout may have been killed just before this step
        return True

    def _advance(self, before: Running | None) -> None:
        request = self._request
        was = self.outcome.before or "nothing"
        print(f"{request.stage}: {was} -> {request.version.tag}", flush=True)
        # First of all: new pods of a release that was swapped to another model would swap again.
        swapped = self._cluster.clear_swap(request.version.release)
        self._cluster.apply(to_yaml(self._documents))
        if swapped and before is not None and before.version == request.version:
            self._workload.restart()
        self._workload.wait(request.timeout or TIMEOUTS[self.outcome.strategy])
        self._smoke_test(request.expected, request.limit)
        if self._overtaken_by(before):
            raise RolloutError("it was overtaken before it was marked as good")
        self._workload.mark_good()

    def _overtaken_by(self, before: Running | None) -> str:
        """What another rollout has applied since this one began; empty if none has."""
        now = self._workload.running()
        if now is None or now.applied in (self._applied, before.applied if before else ""):
            return ""
        return now.version.tag if now.version else "something else"

    def _roll_back(self, before: Running | None, reason: str) -> NoReturn:
        """Restore the version that served before, and report it."""
        self.outcome.result, self.outcome.reason = "failed", reason
        print(f"failed: {reason}", flush=True)
        failed = f"{self._request.stage} does not serve {self._request.version.tag}: {reason}"
        if before is None:
            raise RolloutError(f"{failed}; there is nothing to go back to")
        try:
            other = self._overtaken_by(before)
            undone = not other and self._workload.undo(before)
            if undone:
                self._workload.wait(TIMEOUTS[ROLLING])
            serving = None if other else self._restored()
        except DeliveryError as error:
            raise RolloutError(f"{failed}; going back failed as well: {error}") from None
        if other:
            raise RolloutError(
                f"{failed}; another rollout has begun meanwhile, of {other}: it decides, and "
                "nothing is undone here"
            )
        self.outcome.serving = serving
        if not undone:
            raise RolloutError(
                f"{failed}; nothing was changed, {serving or 'the version before'} still serves"
            )
        self.outcome.result = "rolled-back"
        raise RolloutError(f"{failed}; rolled back, {serving or 'the version before'} serves again")

    def _restored(self) -> str | None:
        """The tag that the stage serves after going back; None if the pods are not ours."""
        found = self._workload.running()
        if found is None or found.version is None:
            return None
        tag = self._cluster.desired_tag(found.version.release) or found.version.tag
        self._smoke_test(Expected(tag), self._request.limit)
        return tag

    def _smoke_test(
        self, expected: Expected, limit: float, report: Callable[[str], None] = print
    ) -> None:
        SmokeTest(self._request.url, expected, self._request.token).run(limit, report)

    def _with_pod_errors(self, reason: str) -> str:
        """A reason, with what kubectl knows of pods that do not start."""
        try:
            errors = self._cluster.pod_errors(self._workload.name)
        except DeliveryError:
            errors = ""
        return f"{reason} ({errors})" if errors else reason
