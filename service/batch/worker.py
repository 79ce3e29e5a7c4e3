"""What a worker process does: reads, decodes and infers a part of the images, and writes its rows.

An image is decoded and answered as `POST /predict` does it. Several go through the graph at once
where that changes no bit of an answer.
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt
import pyarrow as pa

from contracts.bundle import GRAPH, MANIFEST
from contracts.images import Fit
from service.batch.sources import Content, Item, Source
from service.batch.table import Layout, Row
from service.errors import InvalidOutput, ServiceError, StorageFull, Unavailable
from service.files import is_full, reason, replace_file
from service.inference.bundle import Bundle, parse_manifest
from service.inference.decode import decode
from service.inference.model import Model
from service.inference.several import AT_ONCE, images_at_once, infer_several

GROUP = AT_ONCE  # images that are read at once

Chips = npt.NDArray[Any]

log = logging.getLogger("service.batch")


class Setup(NamedTuple):
    """What all parts have in common."""

    folder: Path
    """Has the verified bundle, as `keep_bundle` wrote it: a pipe would hand it on one by one."""
    tag: str
    device: str
    source: Source
    fit: Fit
    max_bytes: int
    max_pixels: int


def keep_bundle(bundle: Bundle, folder: Path) -> None:
    """Write a bundle for the workers. Raises OSError."""
    replace_file(folder / MANIFEST, bundle.document)
    replace_file(folder / GRAPH, bundle.graph)


class Predictor:
    """A model, and the rows that it gives for images."""

    def __init__(self, setup: Setup) -> None:
        """Open the model; it was verified, and its self-test passed, before."""
        self._setup = setup
        document, graph = ((setup.folder / name).read_bytes() for name in (MANIFEST, GRAPH))
        bundle = Bundle(parse_manifest(document), graph, document)
        self._model = Model(setup.tag, bundle, setup.device)
        self._layout = Layout(bundle.manifest, setup.tag)
        self._at_once = images_at_once(self._model)

    def write(self, items: Sequence[Item], target: Path) -> None:
        """Write the rows of some images into a file, in one step.

        Raises:
            ServiceError: the model does not run, S3 does not answer, or the disk is full.
        """
        rows: list[Row] = []
        for start in range(0, len(items), GROUP):
            group = items[start : start + GROUP]
            rows += self.predict(self._setup.source.read(group, self._setup.max_bytes))
        try:
            replace_file(target, self._layout.part(items, rows))
        except OSError as error:
            raise refusal(error) from None

    def predict(self, files: Iterator[Content]) -> list[Row]:
        """Answer each file, or say why there is no answer."""
        decoded = [self._decode(content) for content in files]
        chips = [chip for chip in decoded if not isinstance(chip, str)]
        answers = iter(list(self._answers(chips)))
        return [chip if isinstance(chip, str) else next(answers) for chip in decoded]

    def _decode(self, content: Content) -> Chips | str:
        if isinstance(content, ServiceError):
            return content.detail
        setup = self._setup
        try:
            return decode(content, self._model.manifest.input, setup.max_pixels, setup.fit)
        except ServiceError as error:
            return error.detail.replace("?fit=resize", "--fit stretch")  # as it is named here
        except Exception as error:  # one file must not end a night's work
            log.exception("an image could not be decoded")
            return f"internal error: {type(error).__name__} while it was decoded: report it"

    def _answers(self, chips: Sequence[Chips]) -> Iterator[Row]:
        for start in range(0, len(chips), self._at_once):
            output = infer_several(self._model, chips[start : start + self._at_once])
            for one in output.each():
                try:
                    yield self._model.task.read(one).fields
                except InvalidOutput as error:
                    yield f"{self._model.tag}: {error.detail}"


def refusal(error: OSError) -> ServiceError:
    """Explain why nothing can be written beside OUT."""
    if is_full(error):
        return StorageFull(
            "the disk of OUT is full: free some space, then start again: what is finished is kept"
        )
    return Unavailable(f"OUT cannot be written: {reason(error)}: take another folder")


_predictor: Predictor | None = None  # of this process


def begin(setup: Setup) -> None:
    """Make this process a worker: it ends with its parent, and leaves Ctrl-C to it."""
    global _predictor
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pa.set_cpu_count(1)
    _predictor = Predictor(setup)


def work(items: Sequence[Item], target: Path) -> int:
    """Write a part; returns how many images it has."""
    assert _predictor is not None
    _predictor.write(items, target)
    return len(items)


def _end_with_parent() -> None:
    """A parent that is killed cannot tell its workers, which would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
