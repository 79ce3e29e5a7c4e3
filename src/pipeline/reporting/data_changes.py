"""What changed in the data between a revision and now, from DVC's listing of `data/`."""

from collections import Counter
from typing import NamedTuple

from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc_data.index import DataIndexError

from pipeline import paths, repository
from pipeline.data.dataset import FILE_NAME, label


class DataChange(NamedTuple):
    """Chips added and removed per class; a chip that was altered counts as both."""

    added: Counter[str]
    removed: Counter[str]
    total: Counter[str]
    """Chips per class now."""


def data_change(commit: str) -> DataChange | str | None:
    """Compare the data with those of a commit.

    None when they are the same; a sentence when they can not be compared.
    """
    before = repository.show(commit, paths.DATA_VERSION)
    if before is None:
        return f"{paths.DATA_VERSION} is new"
    if before == paths.DATA_VERSION.read_text(encoding="utf-8"):
        return None
    try:
        old, new = _listing(commit), _listing(None)
    except (DvcException, DataIndexError, OSError) as error:
        return (
            f"not compared, a version is not at hand ({error}): dvc fetch --all-branches data.dvc"
        )
    return DataChange(
        added=Counter(label(path) for path, md5 in new.items() if old.get(path) != md5),
        removed=Counter(label(path) for path, md5 in old.items() if new.get(path) != md5),
        total=Counter(label(path) for path in new),
    )


def _listing(commit: str | None) -> dict[str, str]:
    """Path below `data/` -> md5 of every image of a version."""
    files = DVCFileSystem(".", rev=commit).find(f"/{paths.DATA}", detail=True)
    root = f"/{paths.DATA}/"
    return {
        path.removeprefix(root): info["dvc_info"]["entry"].hash_info.value
        for path, info in files.items()
        if path != root + FILE_NAME
    }
