"""The interface of a source of data."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol, Self, runtime_checkable

from pipeline.data.dataset import Dataset


class File(NamedTuple):
    """One file as it goes to `data/`."""

    path: str
    """`<class>/<name>` or, for a predefined split, `<split>/<class>/<name>`; forward slashes. Of
    scenes with label maps: `images/<name>.tif`, `labels/<name>.tif`, `items/<name>.json`; of
    images with boxes: `images/<name>`, `boxes/<name>.json`."""
    content: bytes


class FinishedFile(NamedTuple):
    """A file that is too large for memory; ingest copies it."""

    path: str
    place: Path


class RefusedFile(NamedTuple):
    """A file that the source itself refuses; ingest counts it among the bad ones."""

    path: str
    reason: str


AnyFile = File | FinishedFile | RefusedFile


class Source(Protocol):
    """Describes a data set and yields its files; writes nothing."""

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Declare the options of `python -m pipeline.ingest <name>`."""

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Self:
        """Build the adapter from its parsed options."""

    def dataset(self) -> Dataset:
        """Describe the data set."""

    def files(self) -> Iterator[AnyFile]:
        """Yield every file, in a stable order."""

    def __len__(self) -> int:
        """Count the files, for the progress bar."""


@runtime_checkable
class Handling(Protocol):
    """A source that sometimes needs no ingest."""

    def handled(self, dry_run: bool) -> bool:
        """Do what is asked if that makes no version of the data; False: ingest goes on."""
