"""The components of an overlay, in their order: each has to find the objects that it changes.

kustomize passes over a patch that finds no object. A GPU for the Deployment, written after the
component that makes it a Rollout, would be none, and no one would say so.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from delivery.errors import RolloutError

FILE = "kustomization.yaml"


def check_components(folder: Path) -> None:
    """Check those of a folder; what is not understood here is left to kustomize.

    Raises:
        RolloutError: one does not exist, stands behind what it would change, or changes nothing.
    """
    file = folder / FILE
    try:
        _check(folder, _read(file))
    except _Misplaced as error:
        raise RolloutError(f"{file}: component {error}") from None
    except (OSError, LookupError, TypeError, ValueError, AttributeError, yaml.YAMLError):
        return  # not of the form that kustomize reads


def _check(folder: Path, document: Any) -> None:
    named = [str(it) for it in document.get("components") or []]
    for name in named:
        if "://" not in name and not (folder / name).is_dir():
            raise _Misplaced(f"{name!a} is not there: {_known(folder)}")
        if Path(name).name == "argo":
            raise _Misplaced("argo has no strategy: take canary or blue-green, which bring it")
    there = _There(_brought(folder, document))
    for number, name in enumerate(named):
        there.later = {it for other in named[number + 1 :] for it in _all_brought(folder / other)}
        there.add(folder / name, Path(name).name)


class _Misplaced(Exception):
    """A component would change nothing."""


class _There:
    """Kinds of the objects that are there, as kustomize adds one component after the other."""

    def __init__(self, kinds: set[str]) -> None:
        self._kinds, self.later = kinds, set[str]()
        self._makers: dict[str, str] = {}
        """Kind -> component that made it another."""
        self._changers: dict[str, str] = {}
        """Kind -> the last component whose patch is for it."""

    def add(self, path: Path, name: str) -> None:
        """Add a component, under the name that the overlay has: its own components, then itself."""
        document = _read(path / FILE)
        for nested in document.get("components") or []:
            self.add(path / str(nested), name)
        self._kinds |= _brought(path, document)
        wanted, changes = set(_targets(document)), dict(_changes(document))
        for kind in sorted(wanted):
            self._find(kind, name, kind in changes)
        if wanted and not self._kinds & wanted:
            raise _Misplaced(
                f"{name} changes nothing: no {' or '.join(sorted(wanted))} is there; take it out, "
                "or take the component that brings one"
            )
        for old, new in changes.items():
            self._kinds = self._kinds - {old} | {new}
            self._makers[old] = name
        for kind in _deleted(document):
            self._kinds.discard(kind)
            if changer := self._changers.get(kind):
                raise _Misplaced(
                    f"{name} takes the {kind} away, which {changer} changes: take one of the two"
                )
        for patch in document.get("patches") or []:
            self._changers |= dict.fromkeys(_kind(patch.get("target")), name)

    def _find(self, kind: str, name: str, makes_another: bool) -> None:
        if maker := self._makers.get(kind):
            cure = "take one of the two" if makes_another else f"write {name} above {maker}"
            raise _Misplaced(
                f"{name} changes the {kind}, which {maker} before it made another kind: {cure}"
            )
        if kind not in self._kinds and kind in self.later:
            raise _Misplaced(
                f"{name} changes the {kind}, which comes from a later one: write {name} below that"
            )


def _targets(document: dict[str, Any]) -> Iterator[str]:
    """Kinds of the objects that its patches and values are for."""
    for patch in document.get("patches") or []:
        yield from _kind(patch.get("target"))
    for replacement in document.get("replacements") or []:
        for target in replacement.get("targets") or []:
            yield from _kind(target.get("select"))


def _kind(selector: Any) -> Iterator[str]:
    if isinstance(selector, dict) and selector.get("kind"):
        yield str(selector["kind"])


def _changes(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Kinds that become others: of, and to."""
    for patch in document.get("patches") or []:
        if (patch.get("options") or {}).get("allowKindChange"):
            for step in yaml.load(patch.get("patch") or "[]", yaml.CSafeLoader):
                if step.get("path") == "/kind":
                    yield str(patch["target"]["kind"]), str(step["value"])


def _deleted(document: dict[str, Any]) -> Iterator[str]:
    """Kinds whose objects it deletes."""
    for patch in document.get("patches") or []:
        if str(patch.get("patch")).startswith("$patch: delete"):
            yield from _kind(patch.get("target"))


def _all_brought(path: Path) -> set[str]:
    """Kinds of the objects of a component and of its own components."""
    document = _read(path / FILE)
    nested = [_all_brought(path / str(it)) for it in document.get("components") or []]
    return _brought(path, document).union(*nested)


def _brought(path: Path, document: dict[str, Any]) -> set[str]:
    """Kinds of the objects that a folder has itself."""
    found: set[str] = set()
    for name in document.get("resources") or []:
        resource = path / str(name)
        if resource.is_dir():
            found |= _all_brought(resource)
        elif resource.is_file():
            text = resource.read_text(encoding="utf-8")
            found |= {str(it["kind"]) for it in yaml.load_all(text, yaml.CSafeLoader) if it}
    return found


def _known(folder: Path) -> str:
    near = sorted(it.parent.name for it in folder.glob(f"../../components/*/{FILE}"))
    return f"k8s/components has {', '.join(near)}" if near else "docs/kubernetes.md lists them"


def _read(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
