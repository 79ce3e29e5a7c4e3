"""Command: a source -> checks -> `data/` and a new `data.dvc`.

    python -m pipeline.ingest synthetic
    python -m pipeline.ingest folder --path my-images --bands B02,B03,B04,B08
    python -m pipeline.ingest coco --path ships
    python -m pipeline.ingest eurosat --download rgb
    python -m pipeline.ingest feedback --url https://landcover.example.com
    python -m pipeline.ingest sentinel2 --area aoi.geojson --dates 2025-05/2025-09 --labels lulc.tif

The only code that reaches out to the world; not a stage of `dvc.yaml`.

The new version is built beside the old one and its objects are put into DVC's cache first.
Replacing `data.dvc`, one rename, is what makes it the version: killed before that nothing has
changed, killed after it `dvc checkout` finishes the work.
"""

import hashlib
import math
import shutil
import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy.typing as npt

from rich.console import Console
from rich.table import Table

from contracts import commands
from contracts.images import as_chip, is_grey, magnification
from pipeline import paths
from pipeline.data.dataset import SPLITS, Dataset, image_files, label, predefined_split
from pipeline.data.images import decode, fault
from pipeline.data.version import silent_dvc
from pipeline.errors import DataError, ParameterError, SourceError, command
from pipeline.files import write_text
from pipeline.params import read_params
from pipeline.progress import CONSOLE, track
from pipeline.sources import SOURCES, File, FinishedFile, Handling, RefusedFile, Source

SHOWN_FAULTS = 5
OBJECTS = ("images", "boxes")
KINDS = {"maps": ("images", "labels", "items"), "boxes": OBJECTS, "masks": OBJECTS}
"""Of files, of data with label maps, with boxes and with masks."""
MOST_REASONS = 20  # of bad files, in dataset.json and reports/data.json


@dataclass
class Changed:
    """How many of the usable images become chips that differ from what is in their files."""

    grey: int = 0
    """Read as RGB."""
    enlarged: int = 0
    smallest: tuple[int, ...] = ()
    """Width and height of the one with the fewest pixels."""

    def count(self, pixels: npt.NDArray[Any], content: bytes, dataset: Dataset) -> None:
        """Count an image, `pixels` as they were read from `content`."""
        bands, height, width = pixels.shape
        if len(dataset.bands) != bands and is_grey(pixels, content):
            self.grey += 1
        if dataset.fit and magnification(height, width, dataset) > 1:
            size = (width, height)
            self.smallest = min(self.smallest or size, size, key=math.prod)
            self.enlarged += 1

    def sentences(self) -> Iterator[str]:
        """The counts that are not zero."""
        if self.grey:
            yield f"grey, read as RGB: {self.grey}"
        if self.enlarged:
            width, height = self.smallest
            yield f"enlarged: {self.enlarged}, the smallest has {width} x {height} pixels"


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, or `arguments`, and ingest."""
    options = _parser().parse_args(arguments)
    source = SOURCES[options.source].from_arguments(options)
    if isinstance(source, Handling) and source.handled(options.dry_run):
        return
    ingest(source, dry_run=options.dry_run)


def ingest(source: Source, *, dry_run: bool = False) -> None:
    """Make what `source` yields the version of the data; print what that changes.

    Raises:
        DataError: too few usable files or classes; `data/` stays as it was.
    """
    cache = _dvc_cache()
    dataset = source.dataset()
    staging = paths.INCOMING
    shutil.rmtree(staging, ignore_errors=True)
    incoming = staging / paths.DATA
    before = _digests(paths.DATA)
    changed = Changed()
    after, faults = _write(source, dataset, incoming, changed)
    _refuse_useless(dataset, after, faults)
    kept = dataset.passed_over | _by_reason(faults)
    dataset.model_copy(update={"passed_over": kept}).write(incoming)
    _summary(dataset, before, after, faults)
    for sentence in changed.sentences():
        print(sentence)
    _mention_unused_split(after)
    if dry_run:
        shutil.rmtree(staging)
        print("dry run: nothing was changed")
        return
    with CONSOLE.status("storing the files in DVC's cache"):
        _commit(staging, cache)
    print(f"{paths.DATA_VERSION} is the new version; next: `dvc repro`, then commit what changed")


def _parser() -> ArgumentParser:
    parser = commands.parser("pipeline.ingest", __doc__)
    sources = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    for name, adapter in SOURCES.items():
        summary = (sys.modules[adapter.__module__].__doc__ or "").strip().splitlines()[0]
        options = sources.add_parser(name, help=summary, description=summary)
        options.add_argument(
            "--dry-run", action="store_true", help="check and report, change nothing"
        )
        adapter.add_arguments(options)
    return parser


def _write(
    source: Source, dataset: Dataset, folder: Path, changed: Changed
) -> tuple[dict[str, str], dict[str, str]]:
    """Write every usable file below `folder`; return its digest by path, and faults of others."""
    digests: dict[str, str] = {}
    faults: dict[str, str] = {}
    for file in track(source.files(), f"ingest {dataset.name}", len(source)):
        if isinstance(file, RefusedFile):
            faults[file.path] = file.reason
            continue
        if problem := _problem(file, dataset, changed):
            faults[file.path] = problem
            continue
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(file, FinishedFile):
            shutil.copyfile(file.place, target)  # no link: DVC would make the original read-only
        else:
            target.write_bytes(file.content)
        digests[file.path] = _digest(target)
    if dataset.labels == "maps":
        _remove_bad_scenes(dataset, folder, digests, faults)
    elif dataset.has_objects:
        _remove_bad_boxes(dataset, folder, digests, faults)
    return digests, faults


def _remove_bad_scenes(
    dataset: Dataset, folder: Path, digests: dict[str, str], faults: dict[str, str]
) -> None:
    """Remove each scene that cannot be used, with its labels and its item."""
    from pipeline.data import maps

    scenes = maps.scenes(digests)
    for image in track(scenes, f"check {dataset.name}", len(scenes)):
        if problem := maps.scene_fault(folder, image, dataset):
            faults[image] = problem
            item = PurePosixPath(maps.labels_of(image).replace("labels/", "items/"))
            for path in (image, maps.labels_of(image), str(item.with_suffix(".json"))):
                digests.pop(path, None)
                (folder / path).unlink(missing_ok=True)


def _remove_bad_boxes(
    dataset: Dataset, folder: Path, digests: dict[str, str], faults: dict[str, str]
) -> None:
    """Remove each image that cannot be used, with its boxes."""
    from pipeline.data import boxes

    images = boxes.images(digests)
    for image in track(images, f"check {dataset.name}", len(images)):
        try:
            boxes.read(folder, image, dataset)
        except DataError as error:
            faults[image] = str(error)
            for path in (image, boxes.boxes_of(image)):
                digests.pop(path, None)
                (folder / path).unlink(missing_ok=True)


def _problem(file: File | FinishedFile, dataset: Dataset, changed: Changed) -> str | None:
    path = PurePosixPath(file.path)
    if path.is_absolute() or ".." in path.parts:
        raise SourceError(f"{file.path!r} points outside of {paths.DATA}/")
    if kinds := KINDS.get(dataset.labels):
        return None if label(file.path) in kinds else f"not in a directory {', '.join(kinds)}"
    assert isinstance(file, File)  # a chip fits into memory
    if label(file.path) not in dataset.classes:
        return f"not in a directory of a class ({', '.join(dataset.classes)})"
    try:
        pixels = decode(file.path, file.content).pixels
    except DataError as error:
        return str(error)
    if problem := fault(as_chip(pixels, file.content, dataset), dataset):
        return problem
    changed.count(pixels, file.content, dataset)
    return None


def _by_reason(faults: dict[str, str]) -> dict[str, int]:
    """How many bad files there are of each reason; the rare ones of many reasons together."""
    found = Counter(faults.values())
    most = dict(found.most_common(MOST_REASONS))
    rest = found.total() - sum(most.values())
    return dict(sorted(most.items())) | ({"bad for other reasons": rest} if rest else {})


def _digests(folder: Path) -> dict[str, str]:
    """Digest of every file of `data/`, to count what is new and what is gone."""
    files = list(image_files(folder))
    return {path: _digest(folder / path) for path in track(files, f"read {folder}/", len(files))}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mention_unused_split(after: dict[str, str]) -> None:
    """Splits that the images bring along are used on request only, and nothing else shows it."""
    with suppress(ParameterError):  # `dvc repro` reports it
        if any(map(predefined_split, after)) and read_params().preprocess.split != "predefined":
            print(
                "the images bring splits of their own, which are not used: to use them, set "
                f"preprocess.split: predefined in {paths.PARAMS}"
            )


def _refuse_useless(dataset: Dataset, after: dict[str, str], faults: dict[str, str]) -> None:
    counts = Counter(label(path) for path in after)
    if not counts:
        first = next(iter(faults.items()), None)
        worst = f"; the first of {len(faults)} bad ones: {first[0]}: {first[1]}" if first else ""
        raise DataError(f"{dataset.name} has no usable image{worst}")
    if kinds := KINDS.get(dataset.labels):
        if not counts[kinds[0]]:
            path, reason = next(iter(faults.items()), (dataset.name, "it has no images"))
            what = "scene" if dataset.labels == "maps" else "image"
            raise DataError(f"no {what} can be used; the first: {path}: {reason}")
        return
    if len(counts) == 1:
        raise DataError(
            f"{dataset.name} has one class only ({next(iter(counts))}); wanted two or more"
        )
    for name in dataset.classes:
        if counts[name] < len(SPLITS):
            first = next((item for item in faults.items() if label(item[0]) == name), None)
            worst = f"; the first bad one: {first[0]}: {first[1]}" if first else ""
            raise DataError(
                f"class {name} has {counts[name]} usable images, {', '.join(SPLITS)} need one "
                f"each: add some, or ingest without the class{worst}"
            )


def _summary(
    dataset: Dataset, before: dict[str, str], after: dict[str, str], faults: dict[str, str]
) -> None:
    """Print files, new, removed and bad per class. A changed file counts as new and as removed."""
    new = Counter(label(path) for path, digest in after.items() if before.get(path) != digest)
    removed = Counter(label(path) for path, digest in before.items() if after.get(path) != digest)
    total = Counter(label(path) for path in after)
    bad = Counter(label(path) for path in faults)
    table = Table(
        "kind" if dataset.labels in KINDS else "class",
        title=f"{dataset.name}: {len(dataset.bands)} bands, {dataset.size} px",
    )
    for column in ("files", "new", "removed", "bad"):
        table.add_column(column, justify="right")
    for name in sorted(total | removed | bad):
        table.add_row(name or "(none)", *(str(c[name]) for c in (total, new, removed, bad)))
    table.add_section()
    table.add_row("all", *(str(c.total()) for c in (total, new, removed, bad)))
    Console().print(table)
    for reason, count in dataset.passed_over.items():
        # Feedback keeps the description of the data that it adds to.
        files = "file" if count == 1 else "files"
        print(f"passed over in {dataset.origin}: {count} {files}: {reason}")
    for path, problem in list(faults.items())[:SHOWN_FAULTS]:
        print(f"bad: {path}: {problem}")
    if len(faults) > SHOWN_FAULTS:
        print(f"... and {len(faults) - SHOWN_FAULTS} more bad files")


def _dvc_cache() -> dict[str, Any]:
    """Settings of the repository's DVC cache: its folder, kind of links, and who shares it."""
    if not Path(".dvc").is_dir():
        raise SourceError(
            "this is not a DVC repository: run it in the repository's root (or `dvc init`)"
        )
    with silent_dvc("cache"):
        from dvc.config import Config

        config = Config.from_cwd()
        given: dict[str, Any] = config["cache"]
        folder = Path(given.get("dir") or Path(config.dvc_dir) / "cache").resolve()
        kept = {name: given[name] for name in ("type", "shared") if name in given}
        return kept | {"dir": str(folder)}


def _commit(staging: Path, cache: dict[str, Any]) -> None:
    """Put the staged files into the cache, then make them the version, then lay them out."""
    # A DVC project of its own that shares the cache: nothing in the repository changes yet.
    with silent_dvc("add") as repo:
        repo.Repo.init(staging, no_scm=True).close()
        with repo.Repo(staging, config={"cache": cache}) as project:
            project.add(str(staging / paths.DATA))
    version = (staging / paths.DATA_VERSION).read_text(encoding="utf-8")
    write_text(paths.DATA_VERSION, version)  # the commit point
    _lay_out(staging / paths.DATA)
    shutil.rmtree(staging)


def _lay_out(fresh: Path) -> None:
    """Put the new files in the place of `data/`, which may be on another disk."""
    if not (paths.DATA.is_symlink() or paths.DATA.is_mount()):
        if paths.DATA.exists():
            shutil.rmtree(paths.DATA)
        shutil.move(fresh, paths.DATA)  # a rename, or a copy to another disk
        return
    # A link or a mount stays, with other files in it.
    for old in paths.DATA.iterdir():
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    for item in fresh.iterdir():
        shutil.move(item, paths.DATA / item.name)


if __name__ == "__main__":
    main()
