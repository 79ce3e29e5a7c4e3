"""Which model a request names: a version, a stage, an experiment, or a name alone."""

import difflib
import re
from collections.abc import Iterable, Mapping

from contracts.tags import LONGEST, NAME, Assignment, Version, match_tag
from service.errors import NotFound, Unprocessable
from service.schemas import Experiment

DEFAULT_STAGE = "production"
NEAREST = 3  # names that an error proposes
COMPARED = 200  # names that are compared for it, the newest ones: comparing costs 10 us each
FORMS = "landcover@v1.2.0, landcover#staging (%23 in an address), experiment/12-345, or landcover"


def check_reference(text: str) -> None:
    """Refuse a text that names no model.

    Raises:
        Unprocessable: it is none of the forms.
    """
    tag = match_tag(text) if len(text) <= LONGEST else None
    if isinstance(tag, Assignment) and tag.counter:
        raise Unprocessable(f"model: {text!a} is one of many promotions: name the stage alone")
    if tag is None and not re.fullmatch(NAME, text):
        shown = text if len(text) <= 64 else text[:64] + "..."
        raise Unprocessable(f"model: {shown!a} is not the name of a model: write {FORMS}")


class Named:
    """The models of a listing by the references that name them."""

    def __init__(self, experiments: Iterable[Experiment]) -> None:
        """Index a listing."""
        self._by_tag: dict[str, Experiment] = {}
        self._stages: dict[str, Experiment] = {}
        versions: dict[str, list[tuple[Version, Experiment]]] = {}
        for item in experiments:
            self._by_tag[item.tag] = item
            if isinstance(tag := match_tag(item.tag), Version):
                versions.setdefault(tag.name, []).append((tag, item))
        self._versions: Mapping[str, list[Experiment]] = {
            name: [item for _, item in sorted(found, key=lambda it: it[0], reverse=True)]
            for name, found in versions.items()
        }
        for name, found in self._versions.items():
            for item in reversed(found):  # of several versions on a commit the highest counts
                self._stages |= {f"{name}#{stage}": item for stage in item.stages}

    def find(self, reference: str) -> Experiment:
        """Find what a reference names: a name alone is its version in production, else the highest.

        Raises:
            Unprocessable: it is no reference.
            NotFound: there is none; the message has the nearest names.
        """
        check_reference(reference)
        found = self._by_tag.get(reference) or self._stages.get(reference)
        if found is None and (versions := self._versions.get(reference)):
            found = self._stages.get(f"{reference}#{DEFAULT_STAGE}") or versions[0]
        if found is None:
            raise NotFound(f"model: {reference} is not in the registry{self._near(reference)}")
        return found

    def versions(self, name: str) -> list[str]:
        """Tags of the versions of a model, the highest first."""
        return [item.tag for item in self._versions.get(name, ())]

    def _near(self, reference: str) -> str:
        name = re.split("[@#]", reference)[0]
        known = [it for it in self._stages if it.startswith(f"{name}#")] + self.versions(name)
        close = difflib.get_close_matches(
            reference, (known or [*self._versions])[:COMPARED], NEAREST, cutoff=0.0
        )
        listed = "GET /get_experiments_metas lists all"
        return (
            f"; near it: {', '.join(close)}; {listed}" if close else f", which is empty; {listed}"
        )
