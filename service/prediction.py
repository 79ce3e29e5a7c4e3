"""The prediction use case: bytes of an image -> decoded -> inferred -> observed -> recorded.

It knows nothing of HTTP: `POST /predict` calls it, and so can a stream or a batch job.
"""

import logging
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import NamedTuple

from contracts.images import Buffer, Fit
from service.errors import InvalidOutput, ServiceError, TooLarge
from service.feedback.recorder import Recorder
from service.inference.decode import Array, decode
from service.inference.memory import LARGE, ImageMemory
from service.inference.model import Model, Serving
from service.inference.queue import InferenceQueue
from service.telemetry.metrics import Metrics
from service.telemetry.observations import Observations
from service.telemetry.tracing import Tracing

log = logging.getLogger("service.prediction")


class Predicted(NamedTuple):
    """An answer, and which model gave it."""

    body: bytes
    """JSON, as `schemas.Prediction` describes it."""
    tag: str


@dataclass(eq=False)
class Predictor:
    """Predicts one image at a time with the model that serves."""

    _serving: Serving
    _queue: InferenceQueue
    _memory: ImageMemory
    _max_pixels: int  # width x height x bands of an image
    _metrics: Metrics
    _tracing: Tracing
    _observations: Observations
    _recorder: Recorder
    _reported: Model | None = None  # whose invalid output is in the log already

    async def predict(self, content: Buffer, fit: Fit, prediction_id: str) -> Predicted:
        """Answer for one image file; `fit` says what becomes of an image of another size.

        `prediction_id` identifies this prediction, so that people can label it.

        Raises:
            ServiceError: the image was refused, and counted as such.
        """
        try:
            limit = self._max_pixels
            if len(content) < LARGE:
                arrived, at_once = perf_counter(), min(limit, LARGE)
                job = partial(self._decode_and_infer, content, at_once, fit, prediction_id, arrived)
                try:
                    return await self._queue.submit(job)
                except TooLarge:  # a small file can declare a large image
                    if limit <= LARGE:
                        raise
            model = self._serving.model()
            decoding = partial(self._decode, content, limit, model, fit)
            chip = await self._memory.run_in_thread(content, decoding)
            arrived = perf_counter()
            return await self._queue.submit(
                partial(self._infer, chip, model, prediction_id, arrived)
            )
        except ServiceError as error:
            self._metrics.refuse(error)
            raise

    def _decode_and_infer(
        self, content: Buffer, limit: int, fit: Fit, prediction_id: str, arrived: float
    ) -> Predicted:
        model = self._serving.model()
        chip = self._decode(content, limit, model, fit)
        return self._infer(chip, model, prediction_id, arrived)

    def _decode(self, content: Buffer, limit: int, model: Model, fit: Fit) -> Array:
        with self._tracing.span("decode", bytes=len(content)):
            return decode(content, model.manifest.input, limit, fit)

    def _infer(self, chip: Array, model: Model, prediction_id: str, arrived: float) -> Predicted:
        started = perf_counter()
        with self._tracing.span("inference", tag=model.tag):
            output = model.infer(chip)
        ended = perf_counter()
        try:
            outcome = model.task.read(output)
        except InvalidOutput as error:
            self._report(model, error)
            raise InvalidOutput(f"{model.tag}: {error.detail}") from None
        body = model.render(outcome, prediction_id)
        best, probability = outcome.best, outcome.probability
        self._observations.add(model, best, probability, output, ended - started, started - arrived)
        self._recorder.record(prediction_id, model, best, probability, chip)
        return Predicted(body, model.tag)

    def _report(self, model: Model, error: InvalidOutput) -> None:
        """Log it once per model, not with each request."""
        if self._reported is not model:
            self._reported = model
            extra = {"tag": model.tag, "detail": error.detail}
            log.error("the model returned no prediction", extra=extra)
