"""Records predictions, so that people can label them later."""

import errno
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from service.feedback.journal import (
    Journal,
    JournalFull,
    ModelRecord,
    PredictionRecord,
    Routed,
)
from service.feedback.objects import FoundObjects
from service.files import is_full
from service.inference.model import Model

Array = npt.NDArray[Any]
Answered = Sequence[Mapping[str, Any]] | None
"""The objects of an answer; None where it is one class."""

IMAGES = 64  # kept per second and worker; at most half of them of certain predictions
LARGEST = 8 << 20  # bytes of an image that is kept of a model of objects, which takes any size
SHARE = 0.5  # of the journal's limit that images may fill; the rest is for other predictions
REASONS = ("spool_full", "disk_full", "disk_error", "damaged", "refused", "bug")

log = logging.getLogger("service.feedback.recorder")


class Recorder(Protocol):
    """Records predictions; it never raises and never delays a prediction."""

    routed: dict[str, Routed]
    """Why which model answers, by request id, while its prediction is made."""

    def record(
        self,
        request_id: str,
        model: Model,
        best: int,
        probability: float,
        chip: Array,
        objects: Answered = None,
    ) -> None:
        """Record that `model` gave class `best` (its index) to `chip`, (bands, height, width), or
        found `objects` in it."""


class NoRecorder:
    """Records nothing: feedback is off."""

    def __init__(self) -> None:
        """Nothing is kept."""
        self.routed: dict[str, Routed] = {}

    def record(
        self,
        request_id: str,
        model: Model,
        best: int,
        probability: float,
        chip: Array,
        objects: Answered = None,
    ) -> None:
        """Do nothing."""


class JournalRecorder:
    """Records predictions in the journal, from where the importer reads them."""

    def __init__(
        self,
        journal: Journal,
        unrecorded: Callable[[str], None],
        keep_images: bool,
        keep_below: float,
    ) -> None:
        """Write to a journal; call `unrecorded` with the reason for each lost prediction.

        Of images, those less sure than `keep_below` come first: labelling them teaches most.
        """
        self._journal = journal
        self._unrecorded = unrecorded
        self._keep_images = keep_images
        self._keep_below = keep_below
        self.routed: dict[str, Routed] = {}
        self._images = 0  # since the last tick
        self._bound: tuple[Model, ModelRecord] | None = None
        self._logged_reason = ""

    def record(
        self,
        request_id: str,
        model: Model,
        best: int,
        probability: float,
        chip: Array,
        objects: Answered = None,
    ) -> None:
        """Append one prediction to the journal."""
        try:
            bound = self._bound
            if bound is None or bound[0] is not model:
                bound = self._bound = (model, model_record(model))
            moment = time.time_ns() // 1000
            image = b""
            fits = objects is None or chip.nbytes <= LARGEST
            if self._keep_images and fits and self._wants_image(probability):
                image = np.ascontiguousarray(chip).astype(bound[1].dtype, copy=False).tobytes()
            facts = (request_id, bound[1], best, probability, moment, image)
            routed = self.routed.get(request_id) if self.routed else None
            found = None
            if objects is not None:
                size = (chip.shape[1], chip.shape[2])
                found = FoundObjects.of_answer(objects, bound[1].classes, size)
            self._journal.append_prediction(PredictionRecord(*facts, routed, found))
        except JournalFull:
            self._lose("spool_full")
        except OSError as error:
            full = is_full(error) or error.errno == errno.EFBIG
            self._lose("disk_full" if full else "disk_error")
        except Exception:  # the client gets the prediction in any case
            self._lose("bug", exc_info=True)

    def reset_image_quota(self) -> None:
        """Allow images again; called once a second."""
        self._images = 0

    def _wants_image(self, probability: float) -> bool:
        sure = probability >= self._keep_below
        if self._images >= (IMAGES // 2 if sure else IMAGES) or not self._journal.has_room(SHARE):
            return False
        self._images += 1
        return True

    def _lose(self, reason: str, exc_info: bool = False) -> None:
        self._unrecorded(reason)
        if reason != self._logged_reason:  # once for each reason, not with each prediction
            log.warning("prediction not recorded", extra={"reason": reason}, exc_info=exc_info)
        self._logged_reason = reason


def model_record(model: Model) -> ModelRecord:
    """Describe a model for the journal."""
    manifest = model.manifest
    return ModelRecord(
        model.tag,
        model.sha256,
        manifest.classes,
        manifest.training.min_accuracy,
        np.dtype(manifest.input.dtype).newbyteorder("<").str,
        manifest.input.shape,
    )
