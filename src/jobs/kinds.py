"""Kinds of jobs: what runs in the checkout, what is kept of it, and when it is complete."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from contracts import commit
from contracts.commit import Unreadable, folder_digest, read_bundle, read_metrics
from contracts.faults import first_fault
from jobs.errors import Refused

Words = tuple[str, ...]
Metrics = dict[str, float]


CHECK, TRAIN = (("python", "-m", f"pipeline.{name}") for name in ("params", "train"))
REPRO, PREPROCESS = ("dvc", "repro"), ("dvc", "repro", "preprocess")
SRUN = "srun"


class Incomplete(Exception):
    """A command that ended well has not left what it should."""


class Kind(NamedTuple):
    """What a kind of jobs does."""

    run: tuple[Words, ...]
    """Commands one after the other; one that fails is the last."""
    saved: Words
    """Paths that the commit of the result has."""
    check: Callable[[Path], Metrics]
    """Returns the metrics in a checkout, or raises Incomplete."""
    pushes: bool = False
    """Whether its outputs are DVC's."""
    joins: tuple[Words, ...] = ()
    """What other nodes than the first run, which check and publish nothing."""
    steps: tuple[Words, ...] = ()
    """What the first of several nodes runs in the place of `run`; on Slurm srun starts the words
    behind SRUN on all of them, elsewhere they are this node's rank."""


def complete(folder: Path) -> Metrics:
    """The metrics of a trained checkout whose bundle is whole, and is the one of dvc.lock.

    Raises:
        Incomplete: says what is missing, or differs.
    """
    from contracts import bundle  # a third of the time that a short job takes to start

    model = folder / commit.BUNDLE
    try:
        manifest = bundle.parse_manifest((model / bundle.MANIFEST).read_bytes())
        with (model / bundle.GRAPH).open("rb") as graph:
            digest = hashlib.file_digest(graph, "sha256").hexdigest()
        metrics = read_metrics((folder / commit.METRICS).read_bytes())
        locked = read_bundle((folder / commit.LOCK).read_bytes()).digest
    except FileNotFoundError as error:
        missing = Path(str(error.filename)).relative_to(folder)
        raise Incomplete(f"{missing} is missing") from None
    except ValidationError as error:
        raise Incomplete(f"model/{bundle.MANIFEST}: {first_fault(error)}") from None
    except (Unreadable, OSError) as error:
        raise Incomplete(f"the result cannot be read: {error}") from None
    if digest != manifest.sha256:
        raise Incomplete(f"model/{bundle.GRAPH} has not the SHA-256 that model.json names")
    if locked != folder_digest(model):
        raise Incomplete("model/ is not the one that dvc.lock names")
    return metrics


def answered(folder: Path) -> Metrics:
    """How many tests of the model ended how; the gate judges a model that has failed some.

    Raises:
        Incomplete: the results are missing, of another model, or some tests could not be run.
    """
    from contracts import bundle
    from contracts.model_tests import TESTS, ModelTests

    try:
        manifest = bundle.parse_manifest((folder / commit.BUNDLE / bundle.MANIFEST).read_bytes())
        found = ModelTests.model_validate_json((folder / TESTS).read_bytes())
    except FileNotFoundError as error:
        missing = Path(str(error.filename)).relative_to(folder)
        raise Incomplete(f"{missing} is missing") from None
    except (ValidationError, OSError) as error:
        why = first_fault(error) if isinstance(error, ValidationError) else error
        raise Incomplete(f"the result cannot be read: {why}") from None
    if found.model != manifest.sha256:
        raise Incomplete(f"{TESTS} is of another model")
    for test in found.tests:
        if test.state == "error":
            raise Incomplete(f"test {test.name} could not be run: {test.text}")
    return {
        "tests_" + state.replace(" ", "_"): float(count) for state, count in found.counts().items()
    }


def _anything(folder: Path) -> Metrics:
    return {}


KINDS = {
    "train": Kind(
        run=(CHECK, REPRO),
        saved=(commit.LOCK, commit.PARAMS, "reports"),
        check=complete,
        pushes=True,
        joins=(PREPROCESS, TRAIN),
        steps=(CHECK, PREPROCESS, (SRUN, *TRAIN), ("dvc", "commit", "--force", "train"), REPRO),
    ),
    "test": Kind(
        run=(
            ("dvc", "pull", "train"),
            PREPROCESS,
            ("dvc", "repro", "--force", "--single-item", "model_tests"),
        ),
        saved=(commit.LOCK, "reports"),
        check=answered,
    ),
    "command": Kind(run=(), saved=(commit.PARAMS, "reports"), check=_anything),
}
"""Name in `kind` -> what it does."""


def kind(name: str) -> Kind:
    """The kind with this name. Raises Refused."""
    if name not in KINDS:
        raise Refused(f"kind: {name!r} is not one: use {', '.join(KINDS)}")
    return KINDS[name]
