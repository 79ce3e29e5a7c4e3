"""Where the images of a batch lie: a folder, a list of paths, a zip archive, an S3 prefix.

A source is listed once, by `open_source`, and travels to the workers, which read from it.
"""

import codecs
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from contracts.images import SUFFIXES
from service import s3
from service.errors import NotFound, ServiceError, TooLarge, Unprocessable
from service.files import reason

JUNK = "__MACOSX"  # of archives that a Mac packs
BOMB = (200, 1 << 30)  # an archive that unpacks to so many times its size, and to so many bytes
MAX_LIST = 1 << 30  # bytes of a list
HEAD = 1 << 16  # bytes of a list that are looked at, to tell text from anything else

Content = bytes | ServiceError
"""A file, or why it cannot be read."""


class Item(NamedTuple):
    """One image."""

    path: str
    """What the table calls it."""
    key: str | int
    """Where its source finds it."""
    mark: str
    """Changes when its content does: size and time, checksum, or ETag."""


class Source(Protocol):
    """Interface of a place with images; it can be pickled."""

    def read(self, items: Sequence[Item], limit: int) -> Iterator[Content]:
        """Read files of at most `limit` bytes, in order."""


class Listing(NamedTuple):
    """A source and what is in it."""

    source: Source
    items: list[Item]
    passed_over: int
    """Files whose names do not end as those of images do."""


def open_source(place: str) -> Listing:
    """List the images of a place: its kind is seen from the place itself.

    Raises:
        ServiceError: it is not there, is none of the four, or has no images.
    """
    if place.startswith("s3://"):
        found = _list_s3(place)
    elif not (path := Path(place)).exists():
        raise NotFound(f"IN {place}: there is no such file or folder: check the path")
    elif path.is_dir():
        found = _list_folder(path)
    elif path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
        found = _list_zip(path)
    else:
        found = _read_list(path)
    if not found.items:
        others = f"; {found.passed_over} other files were passed over" if found.passed_over else ""
        raise Unprocessable(
            f"IN {place}: there is no image in it{others}: names of images end in "
            f"{', '.join(SUFFIXES)}"
        )
    return found


class Files(NamedTuple):
    """Files of this machine; the key is the path below `folder`."""

    folder: str

    def read(self, items: Sequence[Item], limit: int) -> Iterator[Content]:
        """Read whole files."""
        for item in items:
            try:
                yield _read_file(os.path.join(self.folder, str(item.key)), limit)
            except ServiceError as error:
                yield error
            except (OSError, ValueError) as error:
                why = reason(error) if isinstance(error, OSError) else "the path is invalid"
                yield Unprocessable(f"the file cannot be read: {why}")


class Zip(NamedTuple):
    """An archive; the key is the number of the entry. Nothing is unpacked to disk."""

    path: str

    def read(self, items: Sequence[Item], limit: int) -> Iterator[Content]:
        """Unpack entries in memory."""
        archive = _opened(self.path)
        entries = archive.infolist()
        for item in items:
            try:
                yield _read_entry(archive, entries[int(item.key)], limit)
            except ServiceError as error:
                yield error
            except (zipfile.BadZipFile, zlib.error, LZMAError, OSError, EOFError, ValueError):
                yield Unprocessable("the entry of the archive is damaged: pack it again")
            except (NotImplementedError, RuntimeError):
                yield Unprocessable("the entry is packed in a way that cannot be read: use deflate")


class S3(NamedTuple):
    """Objects below a prefix; the key is bucket and key."""

    def read(self, items: Sequence[Item], limit: int) -> Iterator[Content]:
        """Fetch objects, several at once."""
        wanted = [str(item.key) for item in items if _size(item) <= limit]
        found = s3.fetch(wanted)
        for item in items:
            yield found.get(str(item.key)) or too_large(_size(item), limit)


def too_large(size: int, limit: int) -> TooLarge:
    """Refuse a file for its size."""
    return TooLarge(
        f"the file has {size} bytes; at most {limit} are read (SERVICE_MAX_UPLOAD): cut the image "
        "into chips"
    )


def _list_folder(folder: Path) -> Listing:
    items, others = [], 0
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = os.path.join(place, name)
            if not _is_image(name):
                others += not name.startswith(".")
                continue
            key = os.path.relpath(path, folder)
            items.append(Item(PurePosixPath(key).as_posix(), key, _mark(path)))
    items.sort()
    return Listing(Files(str(folder)), items, others)


def _read_list(path: Path) -> Listing:
    """Read one path a line; one that is not absolute is below the folder of the list."""
    if path.stat().st_size > MAX_LIST:
        raise Unprocessable(f"IN {path.name}: a list has at most {MAX_LIST} bytes: split it")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Unprocessable(f"IN {path.name} cannot be read: {reason(error)}") from None
    if b"\0" in content[:HEAD] or path.suffix.lower() in SUFFIXES:
        raise Unprocessable(
            f"IN {path.name} is neither a folder, a zip archive nor a list of paths, one a line: "
            "for one image give its folder"
        )
    lines = content.removeprefix(codecs.BOM_UTF8).splitlines()
    names = [os.fsdecode(line) for line in lines if line.strip()]
    folder = path.parent
    items = [Item(name, name, _mark(os.path.join(folder, name))) for name in names]
    return Listing(Files(str(folder)), items, 0)


def _list_zip(path: Path) -> Listing:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else "it is no zip archive, or cut off"
        raise Unprocessable(
            f"IN {path.name} cannot be read: {why}: pack or copy it again"
        ) from None
    ratio, least = BOMB
    if (total := sum(entry.file_size for entry in entries)) > max(
        least, ratio * path.stat().st_size
    ):
        raise Unprocessable(
            f"IN {path.name} would unpack to {total} bytes, over {ratio} times its size: if you "
            "trust it, unpack it and give the folder"
        )
    items, others = [], 0
    for number, entry in enumerate(entries):
        inner = PurePosixPath(entry.filename)
        if inner.is_absolute() or ".." in inner.parts or "\\" in entry.filename:
            raise Unprocessable(
                f"IN {path.name} has an entry {entry.filename!a}, a path outside of the archive: "
                "pack it again, with paths below one folder"
            )
        if entry.is_dir() or any(part.startswith((".", JUNK)) for part in inner.parts):
            continue
        if _is_image(inner.name):
            items.append(Item(entry.filename, number, f"{entry.CRC:08x} {entry.file_size}"))
        else:
            others += 1
    return Listing(Zip(str(path)), items, others)


def _list_s3(place: str) -> Listing:
    found = s3.listing(place)
    items = [
        Item(f"s3://{key}", key, f"{size} {tag}")
        for key, (size, tag) in sorted(found.items())
        if _is_image(key)
    ]
    return Listing(S3(), items, len(found) - len(items))


def _size(item: Item) -> int:
    return int(item.mark.split()[0])


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not os.path.basename(name).startswith(".")


def _mark(path: str) -> str:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def _read_file(path: str, limit: int) -> bytes:
    # A pipe without a writer would keep an open that waits for ever. A file object would cost more
    # than all calls here.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise Unprocessable("it is not a plain file")
        if status.st_size > limit:
            raise too_large(status.st_size, limit)
        content = os.read(handle, status.st_size + 1)
        while len(content) < status.st_size and (more := os.read(handle, limit)):
            content += more
        return content
    finally:
        os.close(handle)


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> bytes:
    if entry.flag_bits & 1:
        raise Unprocessable("the entry is encrypted: pack it again without a password")
    if entry.file_size > limit:
        raise too_large(entry.file_size, limit)
    with archive.open(entry) as file:
        return file.read(entry.file_size)


@cache
def _opened(path: str) -> zipfile.ZipFile:
    """The archive, open until the worker ends."""
    return zipfile.ZipFile(path)
