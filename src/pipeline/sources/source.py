"""The interface of a source of data."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import NamedTuple, Protocol, Self

from pipeline.data.dataset import Dataset


class File(NamedTuple):
    """One image file as it goes to `data/`."""

    path: str
    """`<class>/<name>` or, for a predefined split, `<split>/<class>/<name>`; forward slashes."""
    content: bytes


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

    def files(self) -> Iterator[File]:
        """Yield every file, in a stable order."""

    def __len__(self) -> int:
        """Count the files, for the progress bar."""
