"""Moving a stage to a version, and back when it does not serve it.

    look -> forget swaps -> apply -> wait -> smoke test -> remember as good
                              any failure -> undo -> wait -> smoke test of what is back

Killed anywhere, it converges when it runs again: what is remembered as good changes last.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from contracts.tags import Version
from delivery.errors import DeliveryError, RolloutError
from delivery.rollout.cluster import Cluster, Running
from delivery.rollout.manifests import APPLIED, Document, deployment_of, to_yaml
from delivery.smoke import Expected, Refused, Smoke

ROLLING, CANARY = "rolling", "canary"
TIMEOUTS = {ROLLING: 600.0, CANARY: 2400.0}  # seconds; a canary is watched for a while
AT_ONCE = 5.0  # seconds that a stage which should serve already has to show it


class Wish(NamedTuple):
    """What a stage is to serve."""

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
    """What happened, as artifacts/rollout/<stage>.json says it."""

    stage: str
    version: str
    image: str
    result: str = "unfinished"
    """unfinished, unchanged, rolled-out, rolled-back or failed."""
    strategy: str = ROLLING
    before: str | None = None
    """The version that the stage ran before; None for none, or one that was not ours."""
    serving: str | None = None
    """The version that it serves now, as far as it was seen."""
    reason: str = ""
    seconds: float = 0.0


class RollOut:
    """One rollout."""

    def __init__(self, wish: Wish, documents: list[Document], cluster: Cluster, canary: bool):
        """Bring `documents` to a cluster."""
        self._wish = wish
        self._documents = documents
        self._cluster = cluster
        self._canary = canary
        self.outcome = Outcome(wish.stage, wish.version.tag, wish.image)
        self.outcome.strategy = CANARY if canary else ROLLING

    def run(self) -> None:
        """Do it.

        Raises:
            RolloutError: the stage does not serve the version; the message says what it serves.
        """
        before = self._cluster.running(self._canary)
        if before is not None and before.version is not None:
            self.outcome.before = before.version.tag
            self._refuse_older(before.version)
        if before is not None and self._serves_already(before):
            self.outcome.result, self.outcome.serving = "unchanged", self._wish.version.tag
            print(f"{self._wish.stage} serves {self._wish.version.tag} already: nothing is done")
            return
        try:
            self._advance(before)
        except DeliveryError as error:
            self._go_back(before, self._with_trouble(str(error)))
        self.outcome.result, self.outcome.serving = "rolled-out", self._wish.version.tag
        print(f"{self._wish.stage} serves {self._wish.version.tag}")

    def _refuse_older(self, running: Version) -> None:
        wish = self._wish
        if running.name == wish.version.name and running > wish.version and not wish.allow_older:
            raise RolloutError(
                f"outdated: {wish.stage} runs {running.tag}, which is newer than "
                f"{wish.version.tag}: to go back, `make rollback STAGE={wish.stage}`"
            )

    def _serves_already(self, before: Running) -> bool:
        wish = self._wish
        applied = deployment_of(self._documents)["metadata"]["annotations"][APPLIED]
        wanted = (wish.version, wish.image, applied)
        if (before.version, before.image, before.applied) != wanted or not before.complete:
            return False
        try:
            self._smoke(wish.expected, min(wish.limit, AT_ONCE), lambda line: None)
        except Refused:
            raise
        except RolloutError as error:
            print(f"{wish.stage} should serve {wish.version.tag} and does not: {error}")
            return False
        self._cluster.mark_good()  # one that was killed may have come as far as here
        return True

    def _advance(self, before: Running | None) -> None:
        wish = self._wish
        print(f"{wish.stage}: {self.outcome.before or 'nothing'} -> {wish.version.tag}", flush=True)
        # First of all: a release that was told to serve another model would do so again.
        swapped = self._cluster.forget_swap(wish.version.release)
        self._cluster.apply(to_yaml(self._documents))
        if swapped and before is not None and before.version == wish.version:
            self._cluster.restart()
        self._cluster.wait(wish.timeout or TIMEOUTS[self.outcome.strategy], self._canary)
        self._smoke(wish.expected, wish.limit)
        self._cluster.mark_good()

    def _go_back(self, before: Running | None, reason: str) -> NoReturn:
        """Bring back what served, and say so."""
        self.outcome.result, self.outcome.reason = "failed", reason
        print(f"failed: {reason}", flush=True)
        failed = f"{self._wish.stage} does not serve {self._wish.version.tag}: {reason}"
        if before is None:
            raise RolloutError(f"{failed}; there is nothing to go back to")
        try:
            undone = self._cluster.undo(before, self._canary)
            if undone:
                self._cluster.wait(TIMEOUTS[ROLLING], self._canary)
            self.outcome.serving = serving = self._what_serves()
        except DeliveryError as error:
            raise RolloutError(f"{failed}; going back failed as well: {error}") from None
        if not undone:
            raise RolloutError(f"{failed}; nothing was changed, {serving or 'what ran'} serves on")
        self.outcome.result = "rolled-back"
        raise RolloutError(f"{failed}; rolled back, {serving or 'what ran before'} serves again")

    def _what_serves(self) -> str | None:
        found = self._cluster.running(self._canary)
        if found is None or found.version is None:
            return None
        tag = self._cluster.wanted(found.version.release) or found.version.tag
        self._smoke(Expected(tag), self._wish.limit)
        return tag

    def _smoke(self, expected: Expected, limit: float, say: Callable[[str], None] = print) -> None:
        Smoke(self._wish.url, expected, self._wish.token).run(limit, say)

    def _with_trouble(self, reason: str) -> str:
        """A reason, with what kubectl knows of pods that do not start."""
        try:
            trouble = self._cluster.trouble()
        except DeliveryError:
            trouble = ""
        return f"{reason} ({trouble})" if trouble else reason
