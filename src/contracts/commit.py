"""The facts of a commit, however broken its files are: metrics, parameters, data, model.

Each reader takes the bytes of one file and returns plain values that fit into JSON, or raises
`Unreadable` with a sentence. YAML is imported by what parses it: the server of the service parses
nothing, its child process does.
"""

import functools
import hashlib
import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import yaml

METRICS = "reports/metrics.json"
PARAMS = "params.yaml"
DATA = "data.dvc"
LOCK = "dvc.lock"
BUNDLE = "model"
"""The output that dvc.lock has for the model bundle."""

LARGEST = 2**20  # bytes of a file that is parsed
DEEPEST = 64  # levels of YAML; PyYAML recurses in C, and a thousand times as many end the process
LONGEST = 200  # characters of a text that is passed on
MOST = 200  # entries of a mapping or a list that are passed on

_MD5 = re.compile(r"[0-9a-f]{32}(?:\.dir)?")
_AUTHOR = re.compile(rb"author .*> (\d{1,12}) ([+-])(\d{2})(\d{2})")


class Unreadable(Exception):
    """A file at a commit cannot be used; the message goes on after the file's name."""


class Bundle(NamedTuple):
    """What dvc.lock says of model/."""

    digest: str
    """md5, with `.dir` at the end for a folder."""
    hash_name: str
    """`md5`, or `md5-dos2unix` in files that DVC 2 wrote."""


def read_metrics(content: bytes) -> dict[str, float]:
    """Return the numbers of reports/metrics.json; what is not a finite number is left out."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise Unreadable("is not JSON") from None
    if not isinstance(document, dict):
        raise Unreadable("is not a table of metrics")
    numbers = ((_text(name), _number(value)) for name, value in document.items())
    found = {name: number for name, number in numbers if number is not None}
    if not found:
        raise Unreadable("holds no numbers")
    return dict(list(found.items())[:MOST])


def read_params(content: bytes) -> dict[str, dict[str, Any]]:
    """Return params.yaml by section; deeper values than a list of scalars become their type."""
    document = _load(content)
    if not isinstance(document, dict) or not all(isinstance(it, dict) for it in document.values()):
        raise Unreadable("does not consist of sections with values")
    return {
        _text(section): {_text(key): _plain(value) for key, value in list(values.items())[:MOST]}
        for section, values in list(document.items())[:MOST]
    }


def read_data(content: bytes) -> str:
    """Return the md5 that data.dvc names."""
    try:
        return _md5(_load(content)["outs"][0]["md5"])
    except (KeyError, IndexError, TypeError):
        raise Unreadable("names no md5 of the data") from None


def read_bundle(content: bytes) -> Bundle:
    """Return what dvc.lock says of the output with exactly the path `model`."""
    try:
        out = _entry(content, "outs", BUNDLE)
    except (KeyError, TypeError, AttributeError, StopIteration):
        raise Unreadable(f"names no output {BUNDLE}") from None
    try:
        digest = _md5(out["md5"])
    except (KeyError, TypeError):
        raise Unreadable(f"names no md5 of the output {BUNDLE}") from None
    return Bundle(digest, "md5" if out.get("hash") == "md5" else "md5-dos2unix")


def read_trained_on(content: bytes) -> str:
    """Return the md5 of the folder data/ that the pipeline read, as dvc.lock has it."""
    try:
        return _md5(_entry(content, "deps", "data")["md5"])
    except (KeyError, TypeError, AttributeError, StopIteration):
        raise Unreadable("names no data that a stage read") from None


def folder_digest(folder: Path) -> str:
    """The md5 by which DVC names a folder: that of its listing, sorted by path."""
    listing = []
    for path in filter(Path.is_file, folder.rglob("*")):
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        listing.append({"md5": md5, "relpath": path.relative_to(folder).as_posix()})
    listing.sort(key=lambda entry: entry["relpath"])
    text = json.dumps(listing, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def read_commit(content: bytes) -> tuple[datetime, str]:
    """Return author date and first line of the message of a raw commit object."""
    header, _, message = content.partition(b"\n\n")
    lines = message.decode("utf-8", errors="replace").strip().splitlines() or [""]
    return _author_date(header), _text(lines[0])


def _author_date(header: bytes) -> datetime:
    if not (found := _AUTHOR.search(header)):
        return datetime.fromtimestamp(0, UTC)
    offset = timedelta(hours=int(found[3]), minutes=int(found[4]))
    try:
        zone = timezone(-offset if found[2] == b"-" else offset)
        return datetime.fromtimestamp(int(found[1]), zone)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def _entry(content: bytes, side: str, path: str) -> dict[str, Any]:
    """The entry of dvc.lock for a path; `side` is `outs` or `deps`."""
    stages = _load(content)["stages"].values()
    entries = [entry for stage in stages for entry in stage.get(side, ())]
    found: dict[str, Any] = next(entry for entry in entries if entry["path"] == path)
    return found


def _md5(value: object) -> str:
    """Check the digest of a file or a folder; raises TypeError."""
    if not isinstance(value, str) or not _MD5.fullmatch(value):
        raise TypeError("not an md5")
    return value


@functools.cache
def _loader() -> "type[yaml.CSafeLoader]":
    import yaml

    from contracts import documents

    class Loader(documents.Loader):
        """Knows no merge keys: a few lines of them, merged into each other, can fill the memory."""

        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
                raise Unreadable("uses merge keys (<<), which are not read")

    return Loader


def _load(content: bytes) -> Any:
    import yaml

    try:
        text = content.decode("utf-8")
        if _may_be_deep(text):
            _refuse_depth(text)
        return yaml.load(text, Loader=_loader())
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError):
        raise Unreadable("is not YAML") from None


def _may_be_deep(text: str) -> bool:
    """Tell cheaply whether YAML could nest deeply, so that ordinary files are read only once."""
    return text.count("[") + text.count("{") > DEEPEST or any(
        len(line) - len(line.lstrip()) > DEEPEST or line.count("-") + line.count("?") > DEEPEST
        for line in text.splitlines()
    )


def _refuse_depth(text: str) -> None:
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.events.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.events.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise Unreadable(f"nests deeper than {DEEPEST} levels")


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _plain(value: object) -> Any:
    """Return a value that JSON holds and that stays small: aliases in YAML can multiply it."""
    if isinstance(value, list):
        return [_scalar(item) for item in value[:MOST]]
    return _scalar(value)


def _scalar(value: object) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value if _number(value) is not None else "not a finite number"
    if isinstance(value, dict | list | set | tuple):
        return f"({type(value).__name__} of {len(value)})"
    return _text(value)


def _text(value: object) -> str:
    """Return a short text that can be written as UTF-8."""
    if isinstance(value, tuple | frozenset):  # keys of YAML, which can nest
        return f"({type(value).__name__} of {len(value)})"
    shown = value[:LONGEST] if isinstance(value, str) else str(value)[:LONGEST]
    return shown.encode("utf-8", errors="replace").decode("utf-8")


READERS: dict[str, Callable[[bytes], object]] = {
    METRICS: read_metrics,
    PARAMS: read_params,
    DATA: read_data,
    LOCK: read_bundle,
}
