"""The shadow: a model that is given a copy of what was answered, and whose answer goes nowhere.

It runs after the answer was sent, in a thread, one copy at a time, and only when nothing waits or
runs in the queue of the worker: a copy is dropped where anything does. So no answer waits for a
copy, its own or another's; a copy costs time of the cores, and nothing else.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from functools import partial
from time import perf_counter

from contracts.images import Buffer, Fit
from service.errors import ServiceError
from service.inference.decode import decode
from service.inference.memory import LARGE
from service.inference.model import Model
from service.inference.queue import InferenceQueue
from service.prediction import Predicted

PAUSE = 0.002  # seconds after an answer, in which what has arrived meanwhile goes first

log = logging.getLogger("service.routing")
Compare = Callable[[str, float, float, float], None]
"""Is given `equal`, `different`, `failed` or `dropped`; the difference of the confidences, shadow
less answer; and the seconds in the runtime of the answer and of the shadow."""


class Shadow:
    """Copies that are compared; at most one waits, so that their memory is bounded."""

    def __init__(self, queue: InferenceQueue, compare: Compare) -> None:
        """Look at a queue, and tell each result."""
        self._queue = queue
        self._compare = compare
        self._task: asyncio.Task[None] | None = None
        self._failing = ""

    def offer(
        self, content: Buffer, fit: Fit, answered: Model, answer: Predicted, shadow: Model
    ) -> None:
        """Take a copy of what `answered` has answered, unless one waits or the image is large."""
        if (self._task is not None and not self._task.done()) or len(content) >= LARGE:
            self._compare("dropped", 0.0, 0.0, 0.0)
            return
        self._task = asyncio.create_task(self._run(content, fit, answered, answer, shadow))

    async def _run(
        self, content: Buffer, fit: Fit, answered: Model, answer: Predicted, shadow: Model
    ) -> None:
        await asyncio.sleep(PAUSE)
        if self._queue.busy:
            self._compare("dropped", 0.0, 0.0, 0.0)
            return
        try:
            work = partial(_predict, shadow, content, fit)
            name, confidence, seconds = await asyncio.to_thread(work)
        except Exception as error:  # no one asked: it is counted, and said once for each reason
            said = error.detail if isinstance(error, ServiceError) else repr(error)
            if said != self._failing:
                log.warning("the shadow failed", extra={"tag": shadow.tag, "detail": said})
            self._failing = said
            self._compare("failed", 0.0, 0.0, 0.0)
            return
        same = name == answered.manifest.classes[answer.best]
        less = confidence - answer.confidence
        less = less if math.isfinite(less) else 0.0
        self._compare("equal" if same else "different", less, answer.seconds, seconds)


def _predict(model: Model, content: Buffer, fit: Fit) -> tuple[str, float, float]:
    """The class, its confidence, and the seconds in the runtime."""
    chip = decode(content, model.manifest.input, LARGE, fit)
    started = perf_counter()
    output = model.infer(chip)
    seconds = perf_counter() - started
    outcome = model.task.read(output)
    return model.manifest.classes[outcome.best], outcome.probability, seconds
