"""The candidate of a merge request: its tag, and its bundle if the checkout has it."""

import re
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from contracts.commit import BUNDLE, folder_digest
from delivery.dvc import read_lock
from delivery.errors import RegistryError, TrainingFailed
from delivery.experiment.experiment import COMMITTED, RECORD, Committed, Experiment
from delivery.git import ORIGIN, Repository
from delivery.registry.registry import Registry
from delivery.registry.state import model_digest

Record = TypeVar("Record", bound=BaseModel)


class Candidate(NamedTuple):
    """The model that a merge request proposes."""

    tag: str
    bundle: Path | None
    """The folder model/, if it contains this model."""


def find_candidate(registry: Registry, iid: str) -> Candidate:
    """Find the candidate of a merge request.

    Raises:
        DeliveryError: no model was trained, or its tag was not pushed.
    """
    tag = _find_tag(registry, iid)
    repository, folder = registry.repository, registry.repository.folder / BUNDLE
    digest = model_digest(repository, repository.commit(tag))
    at_hand = folder.is_dir() and folder_digest(folder) == digest
    return Candidate(tag, folder if at_hand else None)


def published(repository: Repository, iid: str) -> dict[str, str]:
    """Tags of the merge request's experiments on origin with their commits, newest first."""
    refs = f"refs/tags/experiment/{iid}-*"
    words = ("fetch", "--quiet", "--no-tags", "--prune", "--end-of-options", ORIGIN)
    repository.git(*words, f"+{refs}:{refs}")
    found: dict[int, tuple[str, str]] = {}
    for tag, commit in repository.tags(f"experiment/{iid}-*").items():
        if number := re.fullmatch(rf"experiment/{iid}-([0-9]{{1,18}})", tag):
            found[int(number[1])] = (tag, commit)
    return dict(found[number] for number in sorted(found, reverse=True))


def _find_tag(registry: Registry, iid: str) -> str:
    tags = published(registry.repository, iid)
    if _read(RECORD, Experiment(state="done")).state != "done":
        raise TrainingFailed(
            "the training of this pipeline failed or was cancelled: see the job train"
        )
    committed = _read(COMMITTED, Committed())
    if committed.tag:
        if committed.tag not in tags:
            raise RegistryError(
                f"{committed.tag[:64]!a} is not a tag of merge request {iid} on {ORIGIN}: "
                f"{committed.note or 'see the job commit'}"
            )
        return committed.tag
    outs = [out for stage in read_lock().values() for out in stage.get("outs", [])]
    digest = next((out.get("md5") for out in outs if out.get("path") == BUNDLE), None)
    for tag, commit in tags.items():
        if digest and model_digest(registry.repository, commit) == digest:
            return tag
    for record in registry.versions():
        if digest and record.digest == digest:
            return record.version.tag
    raise RegistryError(
        f"no tag has the model that dvc.lock names ({digest}): run the job train, which tags it"
    )


def _read(path: Path, absent: Record) -> Record:
    """The record that a job of this pipeline left; `absent` if the job did not run."""
    try:
        return type(absent).model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return absent
    except ValidationError:
        raise TrainingFailed(f"{path} is broken: run the job train again") from None
