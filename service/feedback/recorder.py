"""What remembers predictions, so that an answer of a person can be held against them later."""

import errno
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from service.feedback.journal import Journal, JournalFull, ModelRecord, PredictionRecord
from service.files import is_full
from service.inference.model import Model

Array = npt.NDArray[Any]

IMAGES = 64  # a second and worker that are kept; half of them of certain predictions
SHARE = 0.5  # of the spool that images may fill; the rest is for predictions without one
REASONS = ("spool_full", "disk_full", "disk_error", "damaged", "refused", "bug")

log = logging.getLogger("service.feedback.recorder")


class Recorder(Protocol):
    """Remembers predictions; it never raises, and a prediction never waits for it."""

    def record(
        self, request_id: str, model: Model, best: int, probability: float, chip: Array
    ) -> None:
        """Remember that `model` gave class `best` (its index) to `chip`, (bands, height, width)."""


class NoRecorder:
    """Remembers nothing: there is no feedback."""

    def record(
        self, request_id: str, model: Model, best: int, probability: float, chip: Array
    ) -> None:
        """Forget it."""


class JournalRecorder:
    """Remembers predictions in a file of this process, from where the keeper takes them."""

    def __init__(
        self,
        journal: Journal,
        unrecorded: Callable[[str], None],
        keep_images: bool,
        keep_below: float,
    ) -> None:
        """Write to a spool; `unrecorded` is told the reason of each prediction that is lost.

        Images are those that labelling gains most from: less sure than `keep_below` come first.
        """
        self._journal = journal
        self._unrecorded = unrecorded
        self._keep_images = keep_images
        self._keep_below = keep_below
        self._images = 0  # since the last tick
        self._bound: tuple[Model, ModelRecord] | None = None
        self._said = ""

    def record(
        self, request_id: str, model: Model, best: int, probability: float, chip: Array
    ) -> None:
        """Append one prediction to the spool."""
        try:
            bound = self._bound
            if bound is None or bound[0] is not model:
                bound = self._bound = (model, model_record(model))
            moment = time.time_ns() // 1000
            image = b""
            if self._keep_images and self._wants_image(probability):
                image = np.ascontiguousarray(chip).astype(bound[1].dtype, copy=False).tobytes()
            self._journal.append(
                PredictionRecord(request_id, bound[1], best, probability, moment, image)
            )
        except JournalFull:
            self._lose("spool_full")
        except OSError as error:
            full = is_full(error) or error.errno == errno.EFBIG
            self._lose("disk_full" if full else "disk_error")
        except Exception:  # whatever it is: the prediction is right, and is answered
            self._lose("bug", exc_info=True)

    def tick(self) -> None:
        """A second has gone: images are taken again."""
        self._images = 0

    def _wants_image(self, probability: float) -> bool:
        sure = probability >= self._keep_below
        if self._images >= (IMAGES // 2 if sure else IMAGES) or not self._journal.room(SHARE):
            return False
        self._images += 1
        return True

    def _lose(self, reason: str, exc_info: bool = False) -> None:
        self._unrecorded(reason)
        if reason != self._said:  # once, not with each prediction
            log.warning("prediction not recorded", extra={"reason": reason}, exc_info=exc_info)
        self._said = reason


def model_record(model: Model) -> ModelRecord:
    """What has to be known of a model to take answers about its predictions."""
    manifest = model.manifest
    return ModelRecord(
        model.tag,
        model.sha256,
        manifest.classes,
        manifest.training.min_accuracy,
        np.dtype(manifest.input.dtype).newbyteorder("<").str,
        manifest.input.shape,
    )
