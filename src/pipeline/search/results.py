"""What a search leaves in reports/: search.json, one line a trial in search.csv, two pictures."""

import csv
import io
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from contracts import searches
from contracts.searches import CURVES, IMPORTANCE, SEARCH, TRIALS
from pipeline import tasks
from pipeline.files import write_text
from pipeline.search.study import SURPLUS, Search, counts, outcome, seconds_of
from pipeline.search.workers import show
from pipeline.tasks import plots

TOP = 5
FEW = 5  # complete trials, below which importance says nothing


def write(search: Search, winner: searches.Winner | None = None) -> searches.Search:
    """Write all of it."""
    found = document(search).model_copy(update={"winner": winner})
    write_text(SEARCH, found.model_dump_json(indent=2) + "\n")
    write_text(TRIALS, table(search))
    CURVES.parent.mkdir(parents=True, exist_ok=True)
    _draw_curves(search)
    if found.importance:
        _draw_importance(found.importance)
    else:
        IMPORTANCE.unlink(missing_ok=True)
    return found


def document(search: Search) -> searches.Search:
    """The figures of a search."""
    trials, best = search.trials(), top(search)
    word, why = search.state
    failed = [t for t in trials if t.state == TrialState.FAIL and outcome(t).get("kind") != SURPLUS]
    spent = seconds_of(trials)
    default = [t.value for t in _complete(trials) if point(search, t) == search.space.default()]
    return searches.Search(
        name=search.name,
        written=datetime.now(UTC).replace(microsecond=0),
        state=word,
        why=why,
        objective=measure(search),
        sampler=search.plan.sampler,
        pruner=search.plan.pruner,
        seed=search.plan.seed,
        threads=search.plan.threads,
        hardware=search.study.user_attrs.get("hardware", ""),
        complete=len(_complete(trials)),
        pruned=sum(t.state == TrialState.PRUNED for t in trials),
        failed=sum(map(counts, failed)),
        interrupted=sum(not counts(t) for t in failed),
        epochs=sum(outcome(t).get("epochs", 0) for t in trials),
        seconds=round(spent.all, 1),
        gpu_seconds=round(spent.gpu, 1),
        default=next(iter(default), None),
        best=tuple(
            searches.Trial(
                number=t.number,
                score=t.value or 0.0,
                epochs=len(t.intermediate_values),
                seconds=round(outcome(t)["seconds"], 1),
                params=point(search, t),
            )
            for t in best
        ),
        importance=importance(search),
    )


def measure(search: Search) -> str:
    """What is compared on the validation split."""
    if search.plan.objective == "loss":
        return "loss"
    return tasks.find(search.space.base.model.task).QUALITY


def point(search: Search, trial: FrozenTrial) -> dict[str, Any]:
    """The values of a trial; of params.yaml where that lies outside of the space."""
    found: dict[str, Any] = trial.user_attrs.get("point") or trial.params
    return found


def _complete(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.state == TrialState.COMPLETE]


def top(search: Search) -> list[FrozenTrial]:
    """The best trials, each point once."""
    seen: list[dict[str, Any]] = []
    found = []
    for trial in sorted(_complete(search.trials()), key=search.rank):
        if point(search, trial) not in seen:
            seen.append(point(search, trial))
            found.append(trial)
    return found[:TOP]


def importance(search: Search) -> dict[str, float]:
    """Share of each parameter in the differences between scores; empty after few trials."""
    trials = [t for t in _complete(search.trials()) if not t.user_attrs.get("outside")]
    if len(trials) < FEW or len({trial.value for trial in trials}) < 2:
        return {}
    try:
        with warnings.catch_warnings(action="ignore"):
            study = optuna.create_study(direction=search.study.direction)
            study.add_trials(trials)
            found = optuna.importance.get_param_importances(
                study,
                evaluator=optuna.importance.FanovaImportanceEvaluator(seed=search.plan.seed),
            )
    except (ValueError, RuntimeError):  # no parameter that all complete trials share, for example
        return {}
    return {name: round(float(share), 4) for name, share in found.items()}


def table(search: Search) -> str:
    """One line a trial, CSV."""
    names = [axis.name for axis in search.space.axes]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "score", "epochs", "seconds", "again", *names, "why"])
    for trial in search.trials():
        facts, values = outcome(trial), point(search, trial)
        score = "" if trial.value is None else repr(trial.value)
        row = [trial.number, _word(trial), score, facts.get("epochs", 0)]
        row += [f"{facts.get('seconds', 0):.2f}", trial.user_attrs.get("origin", "")]
        writer.writerow([*row, *(values.get(name, "") for name in names), facts.get("why", "")])
    return text.getvalue()


def _word(trial: FrozenTrial) -> str:
    if trial.state != TrialState.FAIL:
        return trial.state.name.lower()
    return str(outcome(trial).get("kind") or "interrupted")


def headline(search: Search) -> str:
    """The search in one line."""
    found, best = document(search), search.best()
    trials = found.complete + found.pruned + found.failed
    score = f"best {best.value:.4f} of trial {best.number}" if best else "none is complete"
    why = f" ({found.why})" if found.why else ""
    return f"{search.name}: {found.state}{why}, {trials} trials, {found.objective}: {score}"


def summary(search: Search) -> str:
    """The search in some lines."""
    found = document(search)
    lines = [
        headline(search),
        f"{found.complete} complete, {found.pruned} pruned, {found.failed} failed, "
        f"{found.interrupted} interrupted; {found.epochs} epochs in {found.seconds / 60:.1f} min",
    ]
    if found.default is not None:
        lines.append(f"params.yaml: {found.default:.4f}")
    for trial in found.best:
        facts = "  ".join(f"{name}={show(value)}" for name, value in trial.params.items())
        lines.append(f"trial {trial.number}: {trial.score:.4f}  {facts or 'params.yaml'}")
    shares = "  ".join(f"{name} {share:.0%}" for name, share in found.importance.items())
    return "\n".join(lines + ([f"importance: {shares}"] if shares else []))


def _draw_curves(search: Search) -> None:
    """Every trial's curve, and the best score so far."""
    drawn = plots.figure(8.4, 3.2)
    left, right = drawn.subplots(1, 2)
    best = search.best()
    for trial in search.trials():
        values = trial.intermediate_values
        is_best = best is not None and trial.number == best.number
        colour = plots.ORANGE if is_best else plots.GREY
        if trial.state == TrialState.COMPLETE and not is_best:
            colour = plots.BLUE
        left.plot(list(values), list(values.values()), color=colour, zorder=3 if is_best else 2)
    left.set_xlabel("epoch")
    left.set_title(f"Validation {measure(search)}; grey: pruned")
    scores = [(t.number, t.value) for t in _complete(search.trials()) if t.value is not None]
    right.scatter([n for n, _ in scores], [v for _, v in scores], s=12, color=plots.BLUE)
    choose = min if search.plan.objective == "loss" else max
    so_far = [choose(v for _, v in scores[: i + 1]) for i in range(len(scores))]
    right.step([n for n, _ in scores], so_far, where="post", color=plots.ORANGE)
    right.set_xlabel("trial")
    right.set_title("Complete trials, and the best so far")
    for axes in (left, right):
        axes.grid(alpha=0.25)
    plots.save(drawn, CURVES)


def _draw_importance(shares: dict[str, float]) -> None:
    drawn = plots.figure(6.0, 0.8 + 0.3 * len(shares))
    axes = drawn.subplots()
    names = list(reversed(shares))
    axes.barh(names, [shares[name] for name in names], color=plots.BLUE)
    axes.set_title("Importance")
    plots.save(drawn, IMPORTANCE)
