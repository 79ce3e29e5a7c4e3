"""The use case: images and a model in, one table of answers out.

The images are divided into parts. Workers write each into a file of a work folder, which survives a
kill; the next start does what is missing. At the end the parts become the table, in one step.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from contracts.images import Fit
from service.batch.sources import Item, Listing
from service.batch.table import Layout, Summary, is_whole
from service.batch.worker import Setup, begin, keep_bundle, refusal, work
from service.errors import Conflict, Unavailable, Unprocessable
from service.files import StillLocked, locked
from service.inference.bundle import Bundle
from service.inference.model import Model
from service.settings import Settings

VERSION = 1  # of how the table is made; another one begins work folders anew
PART = (32, 1024)  # images, at least and at most
PARTS = 64  # wanted: enough to keep all cores busy to the end
AHEAD = 2  # parts a worker that wait or run
SUFFIX = ".parquet"

Progress = Callable[[int, int], None]


class Options(NamedTuple):
    """How to make the table."""

    tag: str
    """Of the model."""
    workers: int = 0
    """Processes; 0: one a core."""
    fit: Fit = ""
    """What becomes of an image of another size; the model's own way if empty."""
    overwrite: bool = False


class Part(NamedTuple):
    """Some images, and where their rows lie."""

    items: list[Item]
    path: Path


def check_target(target: Path, options: Options) -> None:
    """Refuse an OUT that cannot become a table, before anything is read.

    Raises:
        Unprocessable, Conflict: see the sentence.
    """
    if target.suffix.lower() != SUFFIX:
        raise Unprocessable(f"OUT {target.name}: the table is Parquet: name it NAME{SUFFIX}")
    if not target.parent.is_dir():
        raise Unprocessable(f"OUT {target.name}: its folder does not exist: make it first")
    if target.is_dir():
        raise Unprocessable(f"OUT {target.name} is a folder: take another name")
    if target.exists() and not options.overwrite:
        raise Conflict(f"OUT {target.name} is there already: take another name, or --overwrite")
    if not 0 <= options.workers <= 1024:
        raise Unprocessable(f"--workers {options.workers}: take 1 to 1024, or 0 for one a core")


def predict_all(
    found: Listing,
    target: Path,
    bundle: Bundle,
    settings: Settings,
    options: Options,
    progress: Progress = lambda done, of: None,
) -> Summary:
    """Predict all images of a listing into `target`.

    Raises:
        ServiceError: the model, the disk or S3 does not allow it; field, value, cure.
    """
    check_target(target, options)
    layout = Layout(bundle.manifest, options.tag)
    model = Model(options.tag, bundle, settings.device)
    model.engine.self_test()
    key = _key(found, bundle, settings, options)
    with _work_folder(target, key) as folder:
        setup = Setup(
            folder=folder,
            tag=options.tag,
            device=settings.device,
            source=found.source,
            fit=options.fit,
            max_bytes=settings.max_upload,
            max_pixels=settings.max_pixels,
        )
        parts = divide(found.items, folder)
        whole = folder / "whole"
        try:
            keep_bundle(bundle, folder)
            _work_on(parts, setup, options.workers or settings.workers, progress)
            summary = layout.write([part.path for part in parts], whole)
            whole.replace(target)
            _keep(target.parent)
        except OSError as error:
            raise refusal(error) from None
        _delete(folder)
    return summary


def divide(items: list[Item], folder: Path) -> list[Part]:
    """Divide the images: the same for any number of workers, so that another may go on."""
    least, most = PART
    size = max(least, min(most, len(items) // PARTS))
    return [
        Part(items[start : start + size], folder / f"part-{start:012d}")
        for start in range(0, len(items), size)
    ]


def _key(found: Listing, bundle: Bundle, settings: Settings, options: Options) -> str:
    """Digest of everything that decides on the rows."""
    digest = hashlib.sha256(bundle.document)  # which has the digest of the graph
    limits = (settings.max_upload, settings.max_pixels)
    facts = (VERSION, PART, PARTS, options.tag, options.fit, limits, found.source)
    digest.update(repr(facts).encode())
    for item in found.items:
        digest.update(repr(item).encode() + b"\n")
    return digest.hexdigest()


@contextmanager
def _work_folder(target: Path, digest: str) -> Iterator[Path]:
    """The folder of a run, locked."""
    folder = target.with_name(f".{target.name}.{digest[:16]}.work")
    try:
        with locked(folder / "lock"):
            yield folder
    except StillLocked:
        raise Conflict(
            f"another process makes {target.name}: wait for it, or take another OUT"
        ) from None
    except OSError as error:
        raise refusal(error) from None


def _work_on(parts: list[Part], setup: Setup, workers: int, progress: Progress) -> None:
    """Have the parts made that are missing."""
    total = sum(len(part.items) for part in parts)
    todo = [part for part in parts if not is_whole(part.path, len(part.items))]
    done = total - sum(len(part.items) for part in todo)
    progress(done, total)
    if not todo:
        return
    count = min(workers, len(todo))
    pool = ProcessPoolExecutor(count, get_context("spawn"), begin, (setup,))
    waiting, running = iter(todo), set[Future[int]]()
    try:
        while True:
            for part in waiting:
                running.add(pool.submit(work, part.items, part.path))
                if len(running) == AHEAD * count:
                    break
            if not running:
                break
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            done += sum(future.result() for future in finished)
            progress(done, total)
    except BrokenProcessPool:
        raise Unavailable(
            "a worker ended, most often for lack of memory: take fewer --workers, then start "
            "again: what is finished is kept"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _keep(folder: Path) -> None:
    """Have a replaced name survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _delete(folder: Path) -> None:
    """Delete the parts of a finished table. What cannot be deleted harms nobody."""
    with suppress(OSError):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
