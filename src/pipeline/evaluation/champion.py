"""The model of an earlier revision, and what its data held: from Git, and from DVC by its name.

DVC looks into the cache of this machine first and into the remote then.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from contracts.bundle import Input, Manifest
from contracts.images import as_chip
from pipeline import paths, repository
from pipeline.bundle.manifest import read_bundle
from pipeline.data.chip_table import Row
from pipeline.data.dataset import FILE_NAME
from pipeline.data.images import decode, digest
from pipeline.errors import BundleError, DataError
from pipeline.progress import track


def open_files(commit: str | None) -> Any:
    """Files of a commit, or of today, as Git and DVC have them.

    DVC takes a second to import; commands that compare nothing do not wait for it.
    """
    from dvc.api import DVCFileSystem

    return DVCFileSystem(".", rev=commit)


def not_at_hand() -> tuple[type[Exception], ...]:
    """Errors of a file that neither cache nor remote has."""
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexError

    return DvcException, DataIndexError, OSError


def read_champion(commit: str, name: str) -> tuple[bytes, Manifest] | None:
    """Fetch and verify the bundle of a commit; None when it has none.

    Raises:
        BundleError: neither cache nor remote has it, or it is altered; `name` is what to call the
            commit.
    """
    source = f"/{paths.MODEL}"
    with TemporaryDirectory() as folder:
        target = Path(folder) / paths.MODEL.name
        try:
            files = open_files(commit)
            if not files.exists(source):
                return None
            files.get(source, str(target), recursive=True)
        except not_at_hand() as error:
            raise BundleError(
                f"{paths.MODEL}/ of {name} is not at hand ({_first_line(error)}): give this machine"
                f" access to the remote (`dvc fetch --all-branches {paths.MODEL}` tries it)"
            ) from None
        try:
            return read_bundle(target)
        except BundleError as error:
            raise BundleError(f"{paths.MODEL}/ of {name}, as DVC has it: {error}") from None


def known_pixels(commit: str, champion: Manifest, rows: list[Row]) -> set[str]:
    """SHA-256 of the pixels of every image in the data of a commit.

    Args:
        rows: chips of today; an old file that is still there need not be opened again.

    Raises:
        DataError: the training data of the champion are unknown; the message has the reason.
    """
    trained_on, named = champion.training.data_version, repository.data_version(commit)
    if trained_on != named:
        raise DataError(
            f"the champion was trained on the data {trained_on}, its revision names {named}"
        )
    try:
        before, now = data_listing(commit), data_listing(None)
        sha_of = {row.path: row.sha256 for row in rows}
        at_hand = {md5: sha_of[path] for path, md5 in now.items() if path in sha_of}
        found = {at_hand[md5] for md5 in before.values() if md5 in at_hand}
        gone = [path for path, md5 in before.items() if md5 not in at_hand]
        files = open_files(commit)
        for path in track(gone, "earlier data", len(gone)):
            content = files.cat_file(f"/{paths.DATA}/{path}")
            found |= _pixels(path, content, champion.input)
    except not_at_hand() as error:
        raise DataError(f"the champion's data are not at hand ({_first_line(error)})") from None
    return found


def _pixels(path: str, content: bytes, wanted: Input) -> set[str]:
    try:
        pixels = decode(path, content).pixels
    except DataError:
        return set()  # load has left it out then, too
    return {digest(as_chip(pixels, content, wanted))}


def data_listing(commit: str | None) -> dict[str, str]:
    """Path below `data/` -> md5 of every image, at a commit or now.

    Raises:
        DvcException, DataIndexError, OSError: DVC does not have it at hand.
    """
    root = f"/{paths.DATA}/"
    files = open_files(commit)
    found: dict[str, Any] = files.find(root.rstrip("/"), detail=True)
    return {
        path.removeprefix(root): info["dvc_info"]["entry"].hash_info.value
        for path, info in found.items()
        if path != root + FILE_NAME and "dvc_info" in info
    }


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
