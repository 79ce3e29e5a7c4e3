"""Command: the model of a revision, the champion, against the one in model/, the challenger.

    python -m pipeline.challenge                  against main
    python -m pipeline.challenge --against v1.2   against another revision

Both predict the same chips, of two sets that neither was trained on:

    pinned   in the test split of both: has the model lost or gained on what was known
    new      in today's test split, and not in the champion's data: has it learned what is new

The champion comes from DVC, cache or remote. What is found goes to reports/challenge.json, which
the report shows. It judges and does not block: that is the duty of the gate.

The verdict, by the 95 % interval of the difference in accuracy (paired bootstrap): `worse` when it
lies below zero on the pinned chips, or on the new ones; `better` when it lies above zero on
either; `no worse` otherwise. To count for `better`, and for `worse` on new chips, at least 6 chips
must be answered better by one of the two: of fewer no test can be sure.
"""

import sys
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from contracts.bundle import Manifest
from contracts.reports import CHALLENGE, Challenge, Figures, Verdict
from pipeline import paths, repository, tasks
from pipeline.arguments import parse_against
from pipeline.bundle.inference import predict, session
from pipeline.bundle.manifest import read_bundle
from pipeline.data.chip_table import CHIP_TABLE, read_chip_table
from pipeline.data.prepared import Prepared, read_prepared
from pipeline.errors import BundleError, DataError, command
from pipeline.evaluation.champion import known_pixels, read_champion
from pipeline.files import write_json
from pipeline.params import read_params

# Exact McNemar test: all of 5 differing chips in favour of one model has p = 0.063, of 6 0.031.
ENOUGH = 6

Predictions = dict[str, Any]
"""Chip, or block of ground, as reports/predictions.csv names it -> what a model predicts for it."""


@command
def main(arguments: Sequence[str] = ()) -> None:
    """Compare the two models, print the result and write it to reports/challenge.json."""
    found = challenge(parse_against("challenge", __doc__, arguments))
    write_json(CHALLENGE, found.model_dump(mode="json"))
    print(_table(found))


def challenge(against: str) -> Challenge:
    """Compare the model in model/ with the one of a revision.

    Raises:
        RevisionError: the revision does not exist.
        BundleError: a model is not at hand, altered, or not the one of artifacts/chips/.
        DataError: artifacts/chips/ or reports/predictions.csv is missing, or of another run.
    """
    commit = repository.resolve(against)
    graph, manifest = read_bundle()
    prepared = read_prepared()
    new = _predict(graph, manifest, prepared)
    _check_measured(manifest, prepared, new)
    found = read_champion(commit, against)
    if found is None:
        return _nothing(against, None, manifest, f"{against} has no model: this is the first")
    old_graph, champion = found
    if other := _other_input(champion, manifest):
        return _nothing(against, champion, manifest, f"the champion has other {other}")
    old = _predict(old_graph, champion, prepared)
    notes = ["both are the same model"] if champion.sha256 == manifest.sha256 else []
    pinned = _compare(old, new, _pinned(commit, new, notes))
    unseen = _compare(old, new, _unseen(commit, champion, prepared, notes))
    return Challenge(
        against=against,
        champion=champion.sha256,
        challenger=manifest.sha256,
        pinned=pinned,
        new=unseen,
        verdict=verdict(pinned, unseen),
        note="; ".join(notes),
    )


def verdict(pinned: Figures | None, new: Figures | None) -> Verdict | None:
    """Judge by the rule at the head of this file; None without any figures."""
    sets = [figures for figures in (pinned, new) if figures is not None]
    if not sets:
        return None
    clear = [figures for figures in sets if figures.fixed + figures.broken >= ENOUGH]
    if pinned is not None and pinned.high < 0 or any(figures.high < 0 for figures in clear):
        return "worse"
    return "better" if any(figures.low > 0 for figures in clear) else "no worse"


def _check_measured(manifest: Manifest, prepared: Prepared, new: Predictions) -> None:
    """Check that the model in model/ was measured on today's test split."""
    if not paths.PREDICTIONS.exists():
        raise DataError(f"{paths.PREDICTIONS} is missing: run `dvc repro`")
    measured = tasks.of(manifest).parse_predictions(
        paths.PREDICTIONS.read_text(encoding="utf-8"), str(paths.PREDICTIONS)
    )
    same = measured.keys() == new.keys()
    if not same or set(manifest.classes) != set(prepared.dataset.classes):
        raise BundleError(
            f"{paths.MODEL}/ was measured on other chips than {paths.CHIPS}/ holds: run `dvc repro`"
        )


def _nothing(against: str, champion: Manifest | None, manifest: Manifest, note: str) -> Challenge:
    return Challenge(
        against=against,
        champion=champion.sha256 if champion else None,
        challenger=manifest.sha256,
        pinned=None,
        new=None,
        verdict=None,
        note=f"not compared: {note}",
    )


def _other_input(champion: Manifest, challenger: Manifest) -> str:
    """What keeps the champion from answering today's chips, in words; empty when nothing does."""
    old, new = champion.input, challenger.input
    pairs = {
        "bands": (old.bands, new.bands),
        "sizes, pixels": ((old.height, old.width), (new.height, new.width)),
        "values": ((old.dtype, old.scale, old.units), (new.dtype, new.scale, new.units)),
        "classes": (tuple(sorted(champion.classes)), tuple(sorted(challenger.classes))),
    }
    for name, (before, now) in pairs.items():
        if before != now:
            return f"{name} ({_words(before)}; this one: {_words(now)})"
    return ""


def _words(values: tuple[object, ...]) -> str:
    text = ", ".join(str(value) for value in values)
    return text if len(text) <= 120 else text[:117] + "..."


def _predict(graph: bytes, manifest: Manifest, prepared: Prepared) -> Predictions:
    """Run a model over the test split."""
    task, test = tasks.of(manifest), prepared.split("test")
    output = predict(session(graph), test.chips, task.OUTPUTS)
    # A class has the index of its own model.
    described = prepared.dataset.model_copy(update={"classes": manifest.classes})
    return task.predictions(output, test, described, read_params().evaluate)


def _pinned(commit: str, new: Predictions, notes: list[str]) -> set[str]:
    """Chips that the champion was tested on, too."""
    text = repository.show(commit, paths.PREDICTIONS)
    if text is None:
        notes.append(f"no pinned chips: the champion's revision has no {paths.PREDICTIONS}")
        return set()
    task = tasks.find(read_params().model.task)
    found = new.keys() & task.parse_predictions(text, f"{paths.PREDICTIONS} of {commit[:8]}").keys()
    if not found:
        notes.append("no pinned chips: the test splits have none in common")
    return found


def _unseen(commit: str, champion: Manifest, prepared: Prepared, notes: list[str]) -> set[str]:
    """Chips that the champion's data do not hold in any split."""
    if prepared.dataset.labels == "maps":
        notes.append("no new blocks: which ground the champion knows is not recorded")
        return set()
    if prepared.dataset.has_objects:
        notes.append("no new chips: which chips of an image the champion knows is not recorded")
        return set()
    rows = prepared.split("test").rows
    try:
        known = known_pixels(commit, champion, read_chip_table(paths.CHIPS / CHIP_TABLE))
    except DataError as error:
        notes.append(f"no new chips: {error}")
        return set()
    found = {_name(row.sha256) for row in rows if row.sha256 not in known}
    if not found:
        notes.append("no new chips: the champion's data hold every test chip")
    return found


def _name(sha256: str) -> str:
    """Name of a chip in reports/predictions.csv."""
    return sha256[:16]


def _compare(champion: Predictions, challenger: Predictions, chips: set[str]) -> Figures | None:
    params = read_params()
    some = {chip: champion[chip] for chip in chips if chip in champion}
    found = tasks.find(params.model.task).compare(
        some, challenger, params.evaluate.bootstrap_samples
    )
    if found is None:
        return None
    return Figures(
        chips=found.chips,
        champion=found.champion,
        challenger=found.challenger,
        low=found.difference.low,
        high=found.difference.high,
        fixed=found.fixed,
        broken=found.broken,
    )


def _table(found: Challenge) -> str:
    """What a person reads on the terminal."""
    head = ["test chips", "n", "champion", "challenger", "difference, 95 %", "fixed", "broken"]
    rows = [
        [
            name,
            str(f.chips),
            f"{f.champion:.2%}",
            f"{f.challenger:.2%}",
            f"{f.low:+.2%} to {f.high:+.2%}",
            str(f.fixed),
            str(f.broken),
        ]
        for name, f in (("pinned", found.pinned), ("new", found.new))
        if f is not None
    ]
    lines = [tabulate(rows, head, tablefmt="simple", disable_numparse=True)] if rows else []
    lines.append(f"challenge: {found.verdict or found.note} (against {found.against})")
    if found.verdict and found.note:
        lines.append(f"note: {found.note}")
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
