"""The prediction use case: bytes of an image -> decoded -> inferred -> observed -> recorded.

It knows nothing of HTTP: `POST /predict` calls it with one image, the stream with what waits.
"""

import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import NamedTuple, Protocol
from weakref import WeakKeyDictionary

from contracts.images import Buffer, Fit
from service.errors import INTERNAL, InvalidOutput, ServiceError, TooLarge
from service.feedback.recorder import Recorder
from service.inference.decode import Array, conform, decode
from service.inference.memory import LARGE, ImageMemory
from service.inference.model import Model, Serving
from service.inference.queue import InferenceQueue
from service.inference.several import images_at_once, infer_several
from service.inference.tasks import Outcome, Output
from service.telemetry.metrics import Metrics
from service.telemetry.observations import Observations
from service.telemetry.tracing import Tracing

log = logging.getLogger("service.prediction")


class ModelCatalogue(Protocol):
    """Models by name, beside the one that serves: `service.models`, which a service may lack."""

    async def resolve(self, reference: str, wait: float = 0.0) -> Model:
        """Return the loaded model of `landcover@v1.2.0`, `landcover#staging` or `landcover`.

        `wait`: seconds that it may take to fetch it. Raises a ServiceError: there is no such model,
        it must not serve, or it is not here yet (Unavailable).
        """


class Predicted(NamedTuple):
    """An answer, and which model gave it."""

    body: bytes
    """JSON, as `schemas.Prediction` describes it."""
    tag: str
    best: int = -1
    """Index of the class."""
    confidence: float = math.nan
    seconds: float = 0.0
    """In the runtime."""


class Route(Protocol):
    """A model that rules have chosen for a request."""

    @property
    def model(self) -> Model:
        """It answers."""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of the answer: which one, and how likely that was."""

    async def predict(self, content: Buffer, fit: Fit, prediction_id: str) -> Predicted:
        """Answer; see `Predictor.predict`."""

    def predict_several(self, images: "Sequence[Image]") -> "list[Predicted | ServiceError]":
        """Answer images that wait together; see `Predictor.predict_several`."""

    def answered(self, content: Buffer, fit: Fit, answer: Predicted) -> None:
        """Take note that an answer was sent."""


class Router(Protocol):
    """Rules of the traffic: `service.routing`, which a service may lack."""

    @property
    def status(self) -> tuple[str | None, str | None]:
        """The name of the rules that hold, and why the file as it is does not."""

    def choose(self, headers: Iterable[tuple[bytes, bytes]]) -> Route | None:
        """Choose for a request, whose headers are given; None for the model that serves."""


class Peers(Protocol):
    """Other workers of this service: `service.server.peers`."""

    async def ask(self, content: Buffer, fit: Fit, prediction_id: str) -> Predicted | None:
        """Let an idle one answer; None if there is none, or it does not."""


class Image(NamedTuple):
    """An image file that is to be answered with others."""

    content: Buffer
    fit: Fit
    prediction_id: str
    arrived: float
    """By `perf_counter`."""


@dataclass(eq=False)
class Waiting:
    """An image whose turn has not come, and its answer if it shared the run of one before it."""

    image: Image
    model: Model | None
    answer: Predicted | ServiceError | None = None


class Inferred(NamedTuple):
    """The outputs of the graph for one chip, and what they say."""

    output: Output
    outcome: Outcome
    seconds: float
    """In the runtime."""


@dataclass(eq=False)
class Predictor:
    """Predicts images with the model that serves, or another one: one, or several that wait."""

    _serving: Serving
    _queue: InferenceQueue
    _memory: ImageMemory
    _max_pixels: int  # width x height x bands of an image
    _metrics: Metrics
    _tracing: Tracing
    _observations: Observations
    _recorder: Recorder
    _reported: Model | None = None  # whose invalid output is in the log already
    _at_once: WeakKeyDictionary[Model, int] = field(default_factory=WeakKeyDictionary)
    peers: Peers | None = None
    _waiting: deque[Waiting] = field(default_factory=deque)

    async def predict(
        self, content: Buffer, fit: Fit, prediction_id: str, model: Model | None = None
    ) -> Predicted:
        """Answer for one image file; `fit` says what becomes of an image of another size.

        `prediction_id` identifies this prediction, so that people can label it. Without `model` the
        one answers that serves when the image's turn comes.

        Raises:
            ServiceError: the image was refused, and counted as such.
        """
        if model is not None:
            model.in_flight += 1
        try:
            limit = self._max_pixels
            if len(content) < LARGE:
                if model is None and self.peers is not None and self._queue.busy:
                    if answer := await self.peers.ask(content, fit, prediction_id):
                        return answer
                image = Image(content, fit, prediction_id, perf_counter())
                try:
                    return await self._predict_small(image, model)
                except TooLarge:  # a small file can declare a large image
                    if limit <= LARGE:
                        raise
            chosen = model or self._serving.model()
            decoding = partial(self._decode, content, limit, chosen, fit)
            chip = await self._memory.run_in_thread(content, decoding)
            arrived = perf_counter()
            return await self._queue.submit(
                partial(self._infer, chip, chosen, prediction_id, arrived)
            )
        except ServiceError as error:
            self._metrics.refuse(error)
            raise
        finally:
            if model is not None:
                model.in_flight -= 1

    async def predict_for_peer(self, content: Buffer, fit: Fit, prediction_id: str) -> Predicted:
        """Answer a small image file for a worker that is busy.

        Raises:
            ServiceError: the image is refused. That worker answers it then, and counts it.
        """
        return await self._predict_small(Image(content, fit, prediction_id, perf_counter()), None)

    async def _predict_small(self, image: Image, model: Model | None) -> Predicted:
        """Answer when its turn comes: alone, or in the run of one that waits before it."""
        if (model or self._serving.model()).at_once == 1 or not self._queue.busy:
            return await self._queue.submit(partial(self._decode_and_infer, image, model))
        waiting = Waiting(image, model)
        self._waiting.append(waiting)
        try:
            return await self._queue.submit(partial(self._answer_with_others, waiting))
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    def _answer_with_others(self, first: Waiting) -> Predicted:
        """Answer an image, and those for the same model that wait behind it."""
        if first.answer is None:
            model = first.model or self._serving.model()
            group = [first]
            for other in self._waiting:
                if len(group) == model.at_once:
                    break
                if other is not first and (other.model or self._serving.model()) is model:
                    group.append(other)
            if len(group) == 1:
                return self._decode_and_infer(first.image, model)
            for one in group:
                self._waiting.remove(one)
            limit = min(self._max_pixels, LARGE)
            answers = self._predict_several([one.image for one in group], model, limit)
            for one, answer in zip(group, answers, strict=True):
                one.answer = answer
        assert first.answer is not None
        if isinstance(first.answer, ServiceError):
            raise first.answer
        return first.answer

    async def infer(self, pixels: Array, prediction_id: str, model: Model) -> Inferred:
        """Answer for one chip (bands, height, width) that is decoded already.

        Raises:
            ServiceError: as above.
        """
        model.in_flight += 1
        try:
            chip = conform(pixels, model.manifest.input, "")
            job = partial(self._run, chip, model, prediction_id, perf_counter())
            return await self._queue.submit(job)
        except ServiceError as error:
            self._metrics.refuse(error)
            raise
        finally:
            model.in_flight -= 1

    def predict_several(
        self, images: Sequence[Image], model: Model | None = None
    ) -> list[Predicted | ServiceError]:
        """Answer image files, or say why not, in their order; call it on the event loop.

        Without `model` the one answers that serves. They go through the graph together where that
        changes no bit of an answer.

        Raises:
            Unavailable: no model is loaded yet.
        """
        model = model or self._serving.model()
        found = self._predict_several(images, model, self._max_pixels)
        for one in found:
            if isinstance(one, ServiceError):
                self._metrics.refuse(one)
        return found

    def _predict_several(
        self, images: Sequence[Image], model: Model, limit: int
    ) -> list[Predicted | ServiceError]:
        if model not in self._at_once:
            known = model.at_once > 1
            self._at_once[model] = model.at_once if known else images_at_once(model)
        chips = [self._decode_or_refuse(image, model, limit) for image in images]
        found: list[Predicted | ServiceError] = [
            chip if isinstance(chip, ServiceError) else InvalidOutput(INTERNAL) for chip in chips
        ]
        good = [(i, chip) for i, chip in enumerate(chips) if not isinstance(chip, ServiceError)]
        for start in range(0, len(good), self._at_once[model]):
            part = good[start : start + self._at_once[model]]
            for i, answer in self._infer_together(part, images, model):
                found[i] = answer
        return found

    def _decode_or_refuse(self, image: Image, model: Model, limit: int) -> Array | ServiceError:
        try:
            return self._decode(image.content, limit, model, image.fit)
        except ServiceError as error:
            return error
        except Exception:  # one image must not stop the others
            log.exception("an image could not be decoded")
            return ServiceError(INTERNAL)

    def _infer_together(
        self, part: Sequence[tuple[int, Array]], images: Sequence[Image], model: Model
    ) -> Iterator[tuple[int, Predicted | ServiceError]]:
        """Answer chips, each with the index of its image, in one run of the graph."""
        started = perf_counter()
        try:
            with self._tracing.span("inference", tag=model.tag):
                outputs = infer_several(model, [chip for _, chip in part]).each()
        except InvalidOutput as error:
            yield from ((i, error) for i, _ in part)
            return
        each = (perf_counter() - started) / len(part)
        for (i, chip), output in zip(part, outputs, strict=True):
            seconds, id = (each, started - images[i].arrived), images[i].prediction_id
            try:
                outcome = self._read(model, output, chip, id, seconds)
                body, (best, confidence, _) = model.render(outcome, id), outcome
                yield i, Predicted(body, model.tag, best, confidence, each)
            except InvalidOutput as error:
                yield i, error

    def _decode_and_infer(self, image: Image, model: Model | None) -> Predicted:
        model = model or self._serving.model()
        limit = min(self._max_pixels, LARGE)
        chip = self._decode(image.content, limit, model, image.fit)
        return self._infer(chip, model, image.prediction_id, image.arrived)

    def _decode(self, content: Buffer, limit: int, model: Model, fit: Fit) -> Array:
        with self._tracing.span("decode", bytes=len(content)):
            return decode(content, model.manifest.input, limit, fit)

    def _infer(self, chip: Array, model: Model, prediction_id: str, arrived: float) -> Predicted:
        _, outcome, seconds = self._run(chip, model, prediction_id, arrived)
        body, (best, confidence, _) = model.render(outcome, prediction_id), outcome
        return Predicted(body, model.tag, best, confidence, seconds)

    def _run(self, chip: Array, model: Model, prediction_id: str, arrived: float) -> Inferred:
        started = perf_counter()
        with self._tracing.span("inference", tag=model.tag):
            output = model.infer(chip)
        seconds = (perf_counter() - started, started - arrived)
        outcome = self._read(model, output, chip, prediction_id, seconds)
        return Inferred(output, outcome, seconds[0])

    def _read(
        self,
        model: Model,
        output: Output,
        chip: Array,
        prediction_id: str,
        seconds: tuple[float, float],
    ) -> Outcome:
        """Read, observe and record an output of one; `seconds` of the inference, and before it."""
        try:
            outcome = model.task.read(output)
        except InvalidOutput as error:
            self._report(model, error)
            raise InvalidOutput(f"{model.tag}: {error.detail}") from None
        best, probability = outcome.best, outcome.probability
        self._observations.add(model, best, probability, output, *seconds)
        objects = outcome.fields.get("objects")
        self._recorder.record(prediction_id, model, best, probability, chip, objects)
        return outcome

    def _report(self, model: Model, error: InvalidOutput) -> None:
        """Log it once per model, not with each request."""
        if self._reported is not model:
            self._reported = model
            extra = {"tag": model.tag, "detail": error.detail}
            log.error("the model returned no prediction", extra=extra)
