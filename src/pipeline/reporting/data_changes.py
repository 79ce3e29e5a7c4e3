"""What changed in the data between a revision and now, from DVC's listing of `data/`."""

from collections import Counter
from typing import NamedTuple

from pipeline import paths, repository
from pipeline.data.dataset import label
from pipeline.evaluation.champion import data_listing, not_at_hand


class DataChange(NamedTuple):
    """Chips added and removed per class; a chip that was altered counts as both."""

    added: Counter[str]
    removed: Counter[str]
    total: Counter[str]
    """Chips per class now."""


def data_change(commit: str) -> DataChange | str | None:
    """Compare the data with those of a commit.

    None when they are the same; a sentence when a comparison is impossible.
    """
    before = repository.show(commit, paths.DATA_VERSION)
    if before is None:
        return f"{paths.DATA_VERSION} is new"
    if before == paths.DATA_VERSION.read_text(encoding="utf-8"):
        return None
    try:
        old, new = data_listing(commit), data_listing(None)
    except not_at_hand() as error:
        return (
            f"not compared, a version is neither here nor in the remote ({error}): give this "
            "machine access to the remote, or push both versions from one that has them "
            "(dvc push --all-branches data.dvc); a version that was given up may stay away"
        )
    return DataChange(
        added=Counter(label(path) for path, md5 in new.items() if old.get(path) != md5),
        removed=Counter(label(path) for path, md5 in old.items() if new.get(path) != md5),
        total=Counter(label(path) for path in new),
    )
