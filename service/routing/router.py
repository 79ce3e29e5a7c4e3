"""What holds now: the file, the models of its arms, the rewards, and what was cut off.

Three loops follow them once a second or so; a request only reads the plan that they left. What they
cannot have they go on without: a broken file leaves the rules before it, a database that is away
leaves the rewards, a model that cannot be loaded leaves its share to the others.

The workers of a replica share files in the state folder: rewards.json, which one of them reads from
the database of all replicas, cut.json and off.json. No clock is read.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from contracts.images import Buffer, Fit
from service.errors import BeingFetched, InvalidOutput, RegistryUnavailable, ServiceError
from service.feedback.journal import Routed, lock_file
from service.feedback.recorder import Recorder
from service.feedback.service import FeedbackService
from service.files import locked, reason, replace_file
from service.inference.model import Model, Serving
from service.prediction import Image, ModelCatalogue, Predicted, Predictor
from service.routing.policy import Chooser, Proposal, Reward, Window, learnt, over
from service.routing.policy import probability_best, propose
from service.routing.rules import DEFAULT, LARGEST, Rules, RulesRefused, read_rules
from service.routing.shadow import Shadow

PAUSE = 1.0  # seconds between two looks at files and models
REWARDS = 2.0  # seconds between two questions to the database
NOT_YET = "its model is being fetched"
LOCK_SECONDS = 2.0

Headers = Iterable[tuple[bytes, bytes]]
log = logging.getLogger("service.routing")


@dataclass(eq=False)
class Arm:
    """One who may answer."""

    reference: str
    start: float
    """Its share in the file."""
    window: Window | None
    model: Model | None = None
    problem: str = NOT_YET
    """Why it has no model."""
    tag: str = ""
    """Of the last model that it had."""
    cut: str = ""
    """Why it gets nothing."""
    reward: Reward = Reward()
    best: float = 0.0
    """Probability that it is the best one, by its labels."""
    share: float = 0.0
    """How likely a request is to get it."""


@dataclass(eq=False)
class Plan:
    """Rules that hold."""

    rules: Rules
    digest: str
    """Of the file."""
    arms: list[Arm]
    shadow: Arm | None
    chooser: Chooser | None = None
    """None where no arm can answer: what serves does."""
    proposal: Proposal | None = None
    header: bytes = b""


@dataclass(eq=False)
class Route:
    """The choice for one request."""

    router: "Router"
    plan: Plan
    arm: Arm
    model: Model

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Who answered, and how likely that was."""
        return [
            (b"x-model-tag", self.model.tag.encode()),
            (b"x-routing-rule", self.plan.rules.name.encode()),
            (b"x-routing-arm", self.arm.reference.encode()),
            (b"x-routing-propensity", b"%.6f" % self.arm.share),
        ]

    async def predict(self, content: Buffer, fit: Fit, prediction_id: str) -> Predicted:
        """Answer with the model of the arm, whose guard rails see how. Raises ServiceError."""
        parts, arm = self.router.parts, self.arm
        parts.recorder.routed[prediction_id] = Routed(self.plan.rules.name, arm.share)
        try:
            found = await parts.predictor.predict(content, fit, prediction_id, self.model)
        except InvalidOutput:
            self.router.watch(self.plan, arm, self.model, True)
            raise
        except ServiceError:  # it says nothing of the arm
            raise
        except Exception:
            self.router.watch(self.plan, arm, self.model, True)
            raise
        finally:
            del parts.recorder.routed[prediction_id]
        self.router.watch(self.plan, arm, self.model, False, found.seconds, found.confidence)
        parts.count_answer(self.plan.rules.name, arm.reference)
        return found

    def predict_several(self, images: Sequence[Image]) -> list[Predicted | ServiceError]:
        """The same for images that wait together. Raises Unavailable."""
        parts, rule, arm = self.router.parts, self.plan.rules.name, self.arm
        routed = dict.fromkeys((it.prediction_id for it in images), Routed(rule, arm.share))
        parts.recorder.routed |= routed
        try:
            found = parts.predictor.predict_several(images, self.model)
        except ServiceError:
            raise
        except Exception:
            self.router.watch(self.plan, arm, self.model, True)
            raise
        finally:
            for one in routed:
                del parts.recorder.routed[one]
        for answer in found:
            if isinstance(answer, Predicted):
                seen = (False, answer.seconds, answer.confidence)
                self.router.watch(self.plan, arm, self.model, *seen)
                parts.count_answer(rule, arm.reference)
            elif isinstance(answer, InvalidOutput):
                self.router.watch(self.plan, arm, self.model, True)
        return found

    def answered(self, content: Buffer, fit: Fit, answer: Predicted) -> None:
        """The answer is on its way: let the shadow see a copy."""
        shadow = self.plan.shadow
        if shadow is not None and shadow.model is not None:
            self.router.parts.shadow.offer(content, fit, self.model, answer, shadow.model)


class Parts(NamedTuple):
    """What the router needs of the service."""

    file: Path
    folder: Path
    """Of the files that the workers of a replica share."""
    catalogue: ModelCatalogue | None
    serving: Serving
    predictor: Predictor
    recorder: Recorder
    answers: FeedbackService | None
    shadow: Shadow
    count_answer: Callable[[str, str], None]
    """Counts an answer of an arm: the name of the rules, the arm."""
    counts: Callable[[str], Mapping[tuple[str, str], float]]
    """What all workers of this replica have counted under a name of rules."""


class Router:
    """Chooses who answers. Belongs to one event loop."""

    def __init__(self, parts: Parts) -> None:
        """Begin without rules: what serves answers."""
        self.parts = parts
        self.plan: Plan | None = None
        self.problem: str | None = "the file was not read yet"
        """Why the file as it is does not hold."""
        self.off = ""
        """Who switched it off, and so that it is."""
        self._content: bytes | None = None
        self._leader: int | None = None
        self._said: dict[str, str] = {}

    @property
    def status(self) -> tuple[str | None, str | None]:
        """The name of the rules that hold, and why the file as it is does not."""
        return self.plan.rules.name if self.plan else None, self.problem

    def choose(self, headers: Headers) -> Route | None:
        """Choose for a request; None: what serves answers, by no rule."""
        plan = self.plan
        if plan is None or plan.chooser is None or self.off or not plan.rules.enabled:
            return None
        key = b""
        if plan.header:
            key = next((value for name, value in headers if name == plan.header), b"")
        arm = plan.arms[plan.chooser.choose(key)]
        model = self.parts.serving.current if arm.reference == DEFAULT else arm.model
        return None if model is None else Route(self, plan, arm, model)

    async def follow(self) -> None:
        """Follow the file, the models and the rewards, until cancelled."""
        loops = ((self.read, PAUSE), (self.resolve, PAUSE), (self.share_rewards, REWARDS))
        await asyncio.gather(*(_repeat(work, pause) for work, pause in loops))

    async def read(self) -> None:
        """Read the file if it has changed, and what the other workers have written."""
        try:
            with self.parts.file.open("rb") as file:
                content = file.read(LARGEST + 1)
        except OSError as error:
            self._refuse(f"it cannot be read ({reason(error)}): write it, or unset SERVICE_ROUTING")
            self._content = None
        else:
            if content != self._content:
                self._content = content
                self._take(content)
        self.off = str((_read(self.parts.folder / "off.json") or {}).get("by", ""))
        if self.plan is not None:
            self._take_shared(self.plan)
            self._deal(self.plan)

    async def resolve(self) -> None:
        """Find the models of the arms and of the shadow."""
        plan = self.plan
        if plan is None:
            return
        for arm in (*plan.arms, *([plan.shadow] if plan.shadow else [])):
            await self._find(arm)
            self._say(f"arm {arm.reference}", "" if arm.problem == NOT_YET else arm.problem)
        self._merge(plan)
        self._deal(plan)

    async def share_rewards(self) -> None:
        """Read the labels from the database, if this worker is the one that does."""
        answers, plan, folder = self.parts.answers, self.plan, self.parts.folder
        if answers is None or plan is None or not self._leads():
            return
        name = plan.rules.name

        def ask() -> dict[str, tuple[int, int]]:
            if not answers.has_database():
                return {}
            return {
                tag: (right, wrong) for tag, right, wrong in answers.store().count_rewards(name)
            }

        try:
            found = await asyncio.to_thread(ask)
            replace_file(
                folder / "rewards.json", json.dumps({"rule": name, "tags": found}), durable=False
            )
            self._say("rewards", "")
        except (ServiceError, OSError) as error:
            self._say("rewards", f"they stay as they are: {error}")

    def switch(self, enabled: bool, by: str) -> None:
        """Let the rules hold, or what serves answer everything, in this replica. Raises OSError."""
        path = self.parts.folder / "off.json"
        self.off = "" if enabled else by
        if enabled:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, json.dumps({"by": by}))
        log.warning("routing switched", extra={"enabled": enabled, "by": by})

    def watch(
        self,
        plan: Plan,
        arm: Arm,
        model: Model,
        failed: bool,
        seconds: float = 0.0,
        confidence: float = 1.0,
    ) -> None:
        """Hold an answer against the guard rails of its arm."""
        if arm.window is None or arm.cut or model is not arm.model:
            return
        if said := arm.window.add(failed, seconds, confidence):
            arm.cut = said
            self._deal(plan)
            log.error("an arm was cut off", extra={"arm": arm.reference, "detail": said})
            self._share_cut(plan.digest, model.tag, said)

    def _take(self, content: bytes) -> None:
        try:
            rules = read_rules(content)
        except RulesRefused as error:
            self._refuse(str(error))
            return
        known = {arm.reference: arm for arm in self.plan.arms} if self.plan else {}
        digest = hashlib.sha256(content).hexdigest()[:16]
        arms = [
            Arm(name, share, Window(rules.guard) if rules.guard and name != DEFAULT else None)
            for name, share in rules.arms.items()
        ]
        for arm in arms:  # models that are loaded answer at once
            if (old := known.get(arm.reference)) is not None:
                arm.model, arm.tag, arm.problem = old.model, old.tag, old.problem
        shadow = Arm(rules.shadow, 0.0, None) if rules.shadow else None
        self.plan = Plan(rules, digest, arms, shadow, header=rules.sticky.encode())
        self.problem = None
        log.info("routing changed", extra={"rule": rules.name, "enabled": rules.enabled})

    def _refuse(self, problem: str) -> None:
        kept = f"; {self.plan.rules.name} goes on" if self.plan else "; what serves answers"
        self.problem = problem
        self._say("the file", problem + kept)

    async def _find(self, arm: Arm) -> None:
        if arm.reference == DEFAULT:
            arm.model = self.parts.serving.current
            arm.problem = "" if arm.model else "no model is loaded yet"
            return
        try:
            if self.parts.catalogue is None:
                raise ServiceError("this service has no models by name")
            model = await self.parts.catalogue.resolve(arm.reference)
            problem = unlike(self.parts.serving.current, model)
        except (BeingFetched, RegistryUnavailable) as error:  # what it has goes on
            if arm.model is None:
                arm.problem = NOT_YET if isinstance(error, BeingFetched) else error.detail
            return
        except ServiceError as error:
            model, problem = None, error.detail
        if model is not None and model.tag != arm.tag:
            if arm.tag and arm.window is not None:  # another version begins anew
                arm.cut = ""
                arm.window.clear()
            arm.tag = model.tag
        arm.model, arm.problem = (None, problem) if problem else (model, "")

    def _merge(self, plan: Plan) -> None:
        """Two arms that have become the same model are one: their labels cannot be told apart."""
        seen: dict[str, str] = {}
        for arm in sorted(plan.arms, key=lambda it: it.reference != DEFAULT):
            if arm.model is not None:
                first = seen.setdefault(arm.model.tag, arm.reference)
                if first != arm.reference:
                    arm.model, arm.problem = (
                        None,
                        f"it is the model of {first}: take one of them out",
                    )

    def _take_shared(self, plan: Plan) -> None:
        """Take rewards and cuts of the other workers, and of other replicas."""
        found = _read(self.parts.folder / "rewards.json") or {}
        tags = found.get("tags") if found.get("rule") == plan.rules.name else {}
        cut = _read(self.parts.folder / "cut.json") or {}
        reasons = cut.get("tags") if cut.get("file") == plan.digest else {}
        for arm in plan.arms:
            if arm.model is None or not isinstance(tags, dict) or not isinstance(reasons, dict):
                continue
            with suppress(TypeError, ValueError):
                arm.reward = Reward(*map(int, tags.get(arm.model.tag, (0, 0))))
            if arm.window is not None and arm.model.tag in reasons:
                arm.cut = str(reasons[arm.model.tag])

    def _deal(self, plan: Plan) -> None:
        """Compute the shares anew."""
        arms, learn = plan.arms, plan.rules.learn
        able = [arm.model is not None and not arm.cut for arm in arms]
        rewards = [arm.reward for arm in arms]
        start = [arm.start for arm in arms]
        shares = over(learnt(start, rewards, learn.floor) if learn else start, able)
        for arm, share, best in zip(arms, shares, probability_best(rewards), strict=True):
            arm.share, arm.best = share, best
        names = [arm.reference for arm in arms]
        plan.chooser = Chooser(plan.rules.name, names, shares) if any(shares) else None
        plan.proposal = None
        ready = [arm for arm, one in zip(arms, able, strict=True) if one]
        if learn is not None and ready:
            tags = [arm.model.tag for arm in ready if arm.model]
            given = [arm.reward for arm in ready]
            plan.proposal = propose([arm.reference for arm in ready], tags, given, learn.labels)
        found = plan.proposal
        self._say(
            "proposal", f"{found.text}: {found.command}" if found else "", found and found.tag
        )

    def _share_cut(self, digest: str, tag: str, why: str) -> None:
        path = self.parts.folder / "cut.json"
        with suppress(OSError), locked(self.parts.folder / "cut.lock", LOCK_SECONDS):
            found = _read(path) or {}
            tags = found.get("tags") if found.get("file") == digest else {}
            content = {"file": digest, "tags": {**(tags or {}), tag: why}}
            replace_file(path, json.dumps(content), durable=False)

    def _leads(self) -> bool:
        if self._leader is None:
            path = self.parts.folder / "leader.lock"
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(0o600)
                self._leader = lock_file(path)
        return self._leader is not None

    def _say(self, about: str, text: str, key: str | None = None) -> None:
        """Log what changes, once and not each second."""
        if self._said.get(about, "") != (key or text):
            self._said[about] = key or text
            if text:
                log.warning("routing", extra={"about": about, "detail": text})


def unlike(serving: Model | None, model: Model) -> str:
    """Why a model cannot answer in the place of what serves; nothing if it can."""
    if serving is None:
        return ""
    a, b = serving.manifest, model.manifest
    facts = {
        "task": (a.task, b.task),
        "bands": (a.input.bands, b.input.bands),
        "dtype": (a.input.dtype, b.input.dtype),
        "height and width": (a.input.shape[1:], b.input.shape[1:]),
        "classes": (sorted(a.classes), sorted(b.classes)),
    }
    for name, (ours, theirs) in facts.items():
        if ours != theirs:
            return f"{name}: {_short(theirs)}, and what serves has {_short(ours)}: name another one"
    return ""


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 80 else text[:80] + "..."


async def _repeat(work: Callable[[], Awaitable[None]], pause: float) -> None:
    while True:
        try:
            await work()
        except Exception:  # a bug must not end it; the log shows it
            log.exception("routing does not follow")
        await asyncio.sleep(pause)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
