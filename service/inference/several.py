"""Several chips through the graph at once, where that changes no bit of an answer."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import InvalidOutput
from service.inference.bundle import decode_chip
from service.inference.model import Model
from service.inference.tasks import Output

AT_ONCE = 16  # chips that go through the graph at once, at most
LARGE = 1 << 22  # values that do
ROUNDS = 5  # of that measurement
GAIN = 1.0  # CPU time one by one over that at once from which requests that wait share a run
SHARED = 4  # of them, at most: of 16, clients wait together, and cores for clients

Chip = npt.NDArray[Any]


def images_at_once(model: Model) -> int:
    """How many images may go through the graph at once: as many as change no bit, or one.

    Judged by the golden chips and mirrored ones. A matrix that is multiplied row by row may be
    rounded in another way than whole, and then an answer would differ from what `/predict` says.
    """
    wanted = model.manifest.input
    most = min(AT_ONCE, LARGE // int(np.prod(wanted.shape)))
    if most < 2 or wanted.multiple:  # images of several sizes cannot be stacked
        return 1
    chips = _chips(model, most)
    together = infer_several(model, chips)
    for chip, among in zip(chips, together.each(), strict=True):
        alone = infer_several(model, [chip])
        if not all(
            one is other or np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
            for one, other in zip(alone, among, strict=True)
            if one is not None and other is not None
        ):
            return 1
    return most


def gain_at_once(model: Model) -> float:
    """CPU time of chips one by one over that of the same chips at once, on this machine.

    The runtime uses one thread, that of the caller, so that other work does not count.
    """
    most = min(SHARED, LARGE // int(np.prod(model.manifest.input.shape)))
    if most < 2 or model.manifest.input.multiple:
        return 1.0
    chips = _chips(model, most)
    infer_several(model, chips)  # it allocates
    alone, together = [], []
    for _ in range(ROUNDS):
        begun = time.thread_time()
        for chip in chips:
            infer_several(model, [chip])
        between = time.thread_time()
        infer_several(model, chips)
        alone.append(between - begun)
        together.append(time.thread_time() - between)
    # The least: workers that start together push each other's data out of the caches.
    return min(alone) / max(1e-9, min(together))


def _chips(model: Model, count: int) -> list[Chip]:
    """Make different chips of the golden ones."""
    wanted = model.manifest.input
    golden = [decode_chip(one.chip, wanted) for one in model.manifest.golden]
    return [np.roll(golden[i % len(golden)], i, axis=-1)[..., ::-1] for i in range(count)]


def infer_several(model: Model, chips: Sequence[Chip]) -> Output:
    """Run the graph on chips (bands, height, width) at once.

    Raises:
        InvalidOutput: it does not run.
    """
    try:
        return model.engine.infer(np.stack(chips))
    except Exception as error:  # the runtime's errors share no base but this
        raise InvalidOutput(
            f"the graph of {model.tag} does not run ({type(error).__name__}): train the model "
            "again, or take another"
        ) from None
