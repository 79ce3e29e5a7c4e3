"""Adds the images that people labelled at the service to the current data.

    FEEDBACK_KEY=... python -m pipeline.ingest feedback --url https://landcover.example.com

The label of an image is its class or, in data with boxes, all objects that are there. A label is
data, never a path. An image is added once, under its newest label. Its file name
contains the time of that label, so that an older label cannot move it back after the service has
deleted the newer image. Images in `data/` from other sources keep their labels.
"""

import io
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from contracts.images import as_chip
from pipeline import paths
from pipeline.data.boxes import BOXES, IMAGES, Object, Objects, boxes_of, images, read_objects
from pipeline.data.dataset import Dataset, image_files, label, predefined_split
from pipeline.data.images import decode, digest, fault
from pipeline.data.split import FEEDBACK
from pipeline.data.version import silent_dvc
from pipeline.errors import DataError, SourceError
from pipeline.sources.answers import (
    KEY,
    Answer,
    Service,
    TooLarge,
    Unreachable,
    key_from_environment,
)
from pipeline.sources.source import File

GROUP = "feedback"  # of its images with boxes, all of which go to training
HEADER = 4096  # bytes of an NPY file besides its pixels
LARGEST = 8 * 2**20  # bytes of the pixels of an image of any size: the service's limit
IN_A_ROW = 3  # failures in a row after which the service counts as failed
SHOWN = 5  # lines of each kind


class Feedback:
    """The current `data/`, and the labelled images of a service.

    Raises:
        SourceError: `data/` differs from data.dvc, or the service cannot be queried.
    """

    def __init__(self, url: str, key: str = "", since: datetime | None = None) -> None:
        self._dataset = Dataset.read(paths.DATA)
        self._has_boxes = self._dataset.labels == "boxes"
        _refuse_other_data()
        self._old = list(image_files(paths.DATA))
        self._url, self._key = url, key
        self._counts: Counter[str] = Counter()
        self._bad: list[str] = []
        self._kept: list[str] = []
        with Service(url, key) as service:
            self._answers = self._choose(service.answers(), since)

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Declare the address of the service."""
        parser.add_argument(
            "--url", required=True, help=f"of the service; a key with role `label` goes into {KEY}"
        )
        parser.add_argument(
            "--since",
            type=_moment,
            metavar="DATE",
            help="only labels since this date, such as 2026-05-01 (default: all)",
        )

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Self:
        """Query the service for its labels."""
        return cls(arguments.url, key_from_environment(), arguments.since)

    def dataset(self) -> Dataset:
        """Return the description of the current data."""
        return self._dataset

    def files(self) -> Iterator[File]:
        """Yield the labelled images, the newest label first, then the current images."""
        left_out: set[str] = set()
        if self._answers:
            yield from self._labelled(left_out)
        beside = {boxes_of(path) for path in left_out if self._has_boxes}
        for path in self._old:
            if path not in left_out | beside:
                yield File(path, (paths.DATA / path).read_bytes())
        self._print_summary(len(left_out))

    def __len__(self) -> int:
        return len(self._old) + len(self._answers)

    def _choose(
        self, answers: Iterator[Answer], since: datetime | None
    ) -> list[tuple[str, str, str]]:
        """Select labels of known classes with images: (request, label, time), newest first."""
        chosen: dict[str, tuple[datetime, str]] = {}
        for answer in answers:
            if answer.answered_at is None or (since is not None and answer.answered_at < since):
                continue
            if (given := self._label(answer)) is None:
                self._counts["of another kind"] += 1
                continue
            text, names = given
            unknown = [name for name in names if name not in self._dataset.classes]
            if not answer.image:
                self._counts["without an image"] += 1
            elif unknown:
                self._bad.append(
                    f"answer {_shown(answer.request_id)}: label {_shown(unknown[0])} is not a "
                    f"class of {paths.DATA}/ ({', '.join(self._dataset.classes)})"
                )
            else:
                chosen[answer.request_id] = (answer.answered_at, text)
        order = sorted(chosen, key=lambda request: (chosen[request][0], request), reverse=True)
        return [(request, chosen[request][1], _digits(chosen[request][0])) for request in order]

    def _label(self, answer: Answer) -> tuple[str, list[str]] | None:
        """The label of an answer as a text, and the classes in it; None for one of another kind."""
        if self._has_boxes and answer.objects is not None:
            return _text(answer.objects), [item.class_ for item in answer.objects]
        if not self._has_boxes and answer.label is not None:
            return answer.label, [answer.label]
        return None

    def _labelled(self, left_out: set[str]) -> Iterator[File]:
        """Yield new and bad images; add the paths of relabelled images to `left_out`."""
        before = self._digests()
        labels: dict[str, str] = {}  # digest of the pixels -> the newest label
        for name, moment, content in self._images():
            try:
                pixels = decode("chip.npy", content).pixels
                problem = self._problem(pixels, name)
            except DataError as error:
                problem = str(error)
            if problem:  # ingest finds and counts it
                yield from self._files(
                    name, f"feedback-{sha256(content).hexdigest()[:16]}", content
                )
                continue
            key = digest(pixels)
            if key in labels:
                self._counts["labelled in two ways" if labels[key] != name else "copies"] += 1
                continue
            labels[key] = name
            if self._is_new(name, moment, before[key], left_out):
                yield from self._files(name, f"feedback-{key[:16]}-{moment}", _npy(pixels))

    def _problem(self, pixels: npt.NDArray[Any], name: str) -> str | None:
        """Why an image with this label cannot be used, or None when it can."""
        problem = fault(pixels, self._dataset, any_size=self._has_boxes)
        if self._has_boxes and not problem:
            objects = Objects.model_validate_json(name)
            return objects.fault(self._dataset, *pixels.shape[1:])
        return problem

    def _files(self, name: str, stem: str, content: bytes) -> Iterator[File]:
        """An image in the folder of its class, or with its objects beside it."""
        folder = "train/" if self._old and all(map(predefined_split, self._old)) else ""
        if not self._has_boxes:
            yield File(f"{folder}{name}/{stem}.npy", content)
            return
        yield File(f"{folder}{IMAGES}/{stem}.npy", content)
        yield File(f"{folder}{BOXES}/{stem}.json", name.encode())

    def _is_new(self, name: str, moment: str, copies: list[str], left_out: set[str]) -> bool:
        """Return whether an image labelled `name` at `moment` is new, compared with its copies."""
        ours = {path for path in copies if FEEDBACK.fullmatch(PurePosixPath(path).name)}
        others = [path for path in copies if path not in ours]
        if others:
            left_out |= ours
            if self._label_of(others[0]) != name:
                what = "other objects" if self._has_boxes else f"the label {name}"
                self._kept.append(f"{others[0]} has {what} at the service")
            return False
        differ = {path for path in ours if self._label_of(path) != name}
        newer = {path for path in differ if _answered(path) > moment}
        if newer:
            self._counts["older"] += 1
            left_out |= ours - newer
            return False
        left_out |= differ
        return ours <= left_out

    def _label_of(self, path: str) -> str:
        """The label of an image of `data/`, as a text."""
        if self._has_boxes:
            return _text(read_objects(paths.DATA / boxes_of(path)).objects)
        return label(path)

    def _digests(self) -> defaultdict[str, list[str]]:
        """Map the digest of the pixels to the paths of all images of `data/`."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for path in images(self._old) if self._has_boxes else self._old:
            try:
                content = (paths.DATA / path).read_bytes()
                pixels = decode(path, content).pixels
            except DataError:
                continue  # ingest reports it
            found[digest(as_chip(pixels, content, self._dataset))].append(path)
        return found

    def _images(self) -> Iterator[tuple[str, str, bytes]]:
        """Fetch the labelled images: (label, time, NPY), the newest label first."""
        dataset = self._dataset
        size = len(dataset.bands) * dataset.size**2 * np.dtype(dataset.dtype).itemsize
        size = LARGEST if self._has_boxes else size
        failed = 0
        with Service(self._url, self._key) as service:
            for request, name, moment in self._answers:
                try:
                    content = service.image(request, size + HEADER)
                except (TooLarge, Unreachable) as error:
                    failed = failed + 1 if isinstance(error, Unreachable) else 0
                    if failed == IN_A_ROW:
                        raise
                    self._bad.append(f"answer {_shown(request)}: {error}")
                    continue
                failed = 0
                if content is None:
                    self._counts["without an image"] += 1
                    continue
                yield name, moment, content

    def _print_summary(self, corrected: int) -> None:
        """Print the counts that the table of ingest lacks."""
        print(f"feedback: {len(self._answers)} labelled images at {self._url}")
        sentences = {
            "of another kind": "labels of another kind than the data have",
            "without an image": "labels without an image, which the service did not store",
            "labelled in two ways": "labels of an image with a newer label, which counts",
            "copies": "repeated labels of the same image",
            "older": "labels of an image with a newer label in the data, which counts",
        }
        for kind, sentence in sentences.items():
            if self._counts[kind]:
                print(f"feedback: {sentence}: {self._counts[kind]}")
        if corrected:
            print(f"feedback: images that have another label now: {corrected}")
        _print_some("kept as it is", self._kept)
        _print_some("bad", self._bad)


def _text(objects: Iterable[Object]) -> str:
    """A file of boxes: the same text for the same objects."""
    order = sorted(objects, key=lambda item: (item.class_, item.box))
    return Objects(group=GROUP, objects=tuple(order)).model_dump_json(by_alias=True)


def _digits(moment: datetime) -> str:
    """YYYYMMDDhhmmss, in UTC as answers are; later is larger, as text too."""
    return "".join(filter(str.isdigit, moment.replace(tzinfo=None).isoformat(timespec="seconds")))


def _answered(path: str) -> str:
    """Return the time of the label in the name of a file; empty without one."""
    found = FEEDBACK.fullmatch(PurePosixPath(path).name)
    return (found and found[1]) or ""


def _print_some(kind: str, lines: list[str]) -> None:
    for line in lines[:SHOWN]:
        print(f"{kind}: {line}")
    if len(lines) > SHOWN:
        print(f"... and {len(lines) - SHOWN} more: {kind}")


def _refuse_other_data() -> None:
    """Refuse a `data/` that differs from data.dvc: ingesting it would undo other ingests."""
    if not paths.DATA_VERSION.exists():
        return
    with silent_dvc("status") as repo, repo.Repo() as project, repo.lock_repo(project):
        is_changed = bool(project.status(targets=[str(paths.DATA_VERSION)]))
    if is_changed:
        raise SourceError(
            f"{paths.DATA}/ differs from the version in {paths.DATA_VERSION}: run "
            f"`dvc pull {paths.DATA_VERSION}`, or `dvc add {paths.DATA}` if the change is yours"
        )


def _npy(pixels: npt.NDArray[Any]) -> bytes:
    """Write NPY: the same bytes for the same pixels."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(pixels))
    return buffer.getvalue()


def _shown(text: str) -> str:
    """Shorten an untrusted text for a terminal, without control characters."""
    return ascii(text[:60])


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a date: write 2026-05-01") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
