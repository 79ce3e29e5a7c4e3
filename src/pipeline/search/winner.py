"""The winner of a search becomes one commit: trained by `dvc repro`, checked, compared, described.

The search has seen the validation split only, and chose the best of many scores there: that score
flatters. So the gain is measured on the test split, once, by the comparison of the gate: a paired
bootstrap of the winner against the parameters from before.
"""

import csv
import io
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from optuna.trial import FrozenTrial
from ruamel.yaml import YAML

from contracts import git as safe
from contracts import searches
from contracts.searches import SEARCH
from pipeline import markdown as md
from pipeline import paths, tasks
from pipeline.bundle.manifest import read_bundle
from pipeline.data.prepared import read_prepared
from pipeline.errors import DataError, RevisionError, TrainingError
from pipeline.files import write_text
from pipeline.params import Params, read_params
from pipeline.reporting.searching import headline, search_tables
from pipeline.search import results, space
from pipeline.search.journal import FOLDER
from pipeline.search.space import Point, Value
from pipeline.search.study import Search, name_of

TEXT = FOLDER / "merge-request.md"
COMMITTED = (paths.PARAMS, Path("dvc.lock"), Path("reports"), space.SEARCH)
MAIN = ("main", "master")


def propose(search: Search) -> None:
    """Train the parameters from before and the winner, check it, and commit it.

    Raises:
        DataError: there is no winner, or the search was of other data, code or parameters.
        RevisionError: the branch to commit to is there, or Git refuses the commit.
        TrainingError: a stage failed, or the winner does not give its score again.
    """
    best = search.best()
    if best is None:
        raise DataError(f"{search.name} has no complete trial: make search")
    before, point = search.space.base, results.point(search, best)
    after = search.space.params(point)
    _check(search, before, after)
    branch = "" if "CI" in os.environ else _branch(search)  # in CI, the job `commit` commits
    _set(before)
    _repro(search)
    task = tasks.find(before.model.task)
    champion = task.parse_predictions(_read(paths.PREDICTIONS), "before")
    changed = _changed(before, after)
    if changed:
        _train_winner(search, best, after)
    challenger = task.parse_predictions(_read(paths.PREDICTIONS), "now")
    found = task.compare(champion, challenger, after.evaluate.bootstrap_samples)
    winner = searches.Winner(
        model=read_bundle()[1].sha256, trial=best.number, changed=changed, units=0
    )
    if found:
        winner = winner.model_copy(
            update={
                "units": found.chips,
                "unit": found.unit,
                "measure": found.measure,
                "before": found.champion,
                "now": found.challenger,
                "low": found.difference.low,
                "high": found.difference.high,
            }
        )
    document = results.write(search, winner)
    title = headline(document)
    write_text(TEXT, "\n\n".join((f"# {title}", search_tables(document), _reproduce())) + "\n")
    print(f"search: {title}; the text of the merge request is {TEXT}")
    if not changed:
        print("search: no trial was better than params.yaml, which stays as it is")
    elif branch:
        _commit(branch, title)


def _check(search: Search, before: Params, after: Params) -> None:
    now = read_params()
    if (now.model, now.train) not in [(one.model, one.train) for one in (before, after)]:
        raise DataError("params.yaml has changed since the search: make search, or put it back")
    if name_of(search.plan, search.space, read_prepared()) != search.name:
        raise DataError("data or code of training have changed since the search: make search")


def _train_winner(search: Search, best: FrozenTrial, after: Params) -> None:
    """Train it; what fails or differs leaves everything as it was before."""
    text = paths.PARAMS.read_text(encoding="utf-8")
    try:
        _set(after)
        # A model of these parameters from another machine could lie in DVC's run cache.
        _repro(search, "--no-run-cache")
        if fault := _difference(search, best):
            raise TrainingError(fault)
    except BaseException:
        write_text(paths.PARAMS, text)
        _repro(search, "--quiet")
        raise


def _difference(search: Search, best: FrozenTrial) -> str:
    """Where the curve of the winner leaves that of the search; a sentence, or nothing."""
    measure = results.measure(search)
    text = _read(paths.CURVES / "validation" / f"{measure}.tsv")
    rows = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
    trained = [float(row[measure]) for row in rows]
    searched = [best.intermediate_values[epoch] for epoch in sorted(best.intermediate_values)]
    if trained == searched:
        return ""
    pairs = enumerate(zip(searched, trained, strict=False), start=1)
    epoch, (old, new) = next(
        ((at, pair) for at, pair in pairs if pair[0] != pair[1]),
        (min(len(trained), len(searched)) + 1, (searched[-1], trained[-1])),
    )
    return (
        f"trial {best.number} had {measure} {old!r} in the search and {new!r} by dvc repro (epoch "
        f"{epoch}): refused, params.yaml is as before. One kind of CPU and as many threads "
        f"({search.plan.threads}) give one model, a GPU does not: search and train on one machine"
    )


def _repro(search: Search, *options: str) -> None:
    environment = os.environ | {
        "OMP_NUM_THREADS": str(search.plan.threads),
        "DVC_NO_ANALYTICS": "1",
    }
    done = subprocess.run(["dvc", "repro", *options], env=environment, check=False)
    if done.returncode:
        raise TrainingError(f"dvc repro ended with {done.returncode}, see above")


def _changed(before: Params, after: Params) -> dict[str, tuple[Value, Value]]:
    old, new = before.model_dump(), after.model_dump()
    return {
        f"{section}.{key}": (old[section][key], value)
        for section in space.SECTIONS
        for key, value in new[section].items()
        if value != old[section][key]
    }


def _set(wanted: Params) -> None:
    """Change values in params.yaml, and nothing else of it."""
    current = read_params()
    point = {name: value for name, (_, value) in _changed(current, wanted).items()}
    if point:
        edit(paths.PARAMS, point)


def edit(path: Path, point: Mapping[str, Value] | Point) -> None:
    """Set values in a file of parameters; comments and order stay."""
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 4096, True
    document = yaml.load(path.read_text(encoding="utf-8"))
    for name, value in point.items():
        section, key = name.split(".")
        document[section][key] = value
    text = io.StringIO()
    yaml.dump(document, text)
    write_text(path, text.getvalue())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: dvc repro, then once more") from None


def _reproduce() -> str:
    return (
        f"All trials: {md.code(searches.TRIALS)}. To repeat it: `make search`, then "
        "`make search-winner`, on one kind of CPU."
    )


def _branch(search: Search) -> str:
    """The branch to commit to: this one, or, on main, one of the search's own that is new."""
    current = _git("branch", "--show-current")
    if current and current not in MAIN:
        return current
    branch = search.name.replace("-", "/", 1)
    if _git("branch", "--list", branch):
        raise RevisionError(
            f"branch {branch}: it is there, from a winner before: git switch {branch}, which has "
            f"it, or git branch --delete --force {branch}"
        )
    return branch


def _commit(branch: str, title: str) -> None:
    files = [str(path) for path in COMMITTED if path.exists()]
    try:
        if branch != _git("branch", "--show-current"):
            _git("switch", "--create", branch)
        _git("add", "--", *files)
        _git("commit", "--quiet", "--message", title, "--", *files)
    except RevisionError as error:
        raise RevisionError(f"{error}; {SEARCH} and params.yaml are written") from None
    print(
        f"search: committed to {branch}. To propose it: dvc push && git push --push-option "
        f"merge_request.create --set-upstream origin {branch}"
    )


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", *words], capture_output=True, text=True, check=False, env=safe.environment()
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise RevisionError(f"git {words[0]} failed: {said}")
    return done.stdout.strip()
