"""The section of the report about a search: the winner, the best trials, importance and cost.

reports/search.json can say anything in a merge request, so its texts are for `markdown.code` only.
"""

from contracts.searches import CURVES, IMPORTANCE, SEARCH, Search, Winner
from pipeline import markdown as md
from pipeline import paths
from pipeline.reporting.documents import parse, titled


@titled("Search")
def search_section(model: str) -> str:
    """What the search found whose winner is the bundle with the SHA-256 `model`; else nothing."""
    found = parse(Search, SEARCH)
    if found is None or found.winner is None or found.winner.model != model:
        return ""
    pictures = [
        f"![{title}]({path.relative_to(paths.REPORT.parent).as_posix()})"
        for path, title in ((CURVES, "Curves of the trials"), (IMPORTANCE, "Importance"))
        if path.is_file()
    ]
    return "\n\n".join((f"## {headline(found)}", search_tables(found), *pictures))


def headline(found: Search) -> str:
    """The gain, its interval and its cost, in one line."""
    trials = f"{found.complete + found.pruned + found.failed} trials"
    hours = f"{found.seconds / 3600:.1f} h" if found.seconds > 3600 else _minutes(found.seconds)
    winner = found.winner
    if winner is None or not winner.changed:
        return f"Search: nothing better than params.yaml in {trials}, {hours}"
    if not winner.units:
        return f"Search: a new winner of {trials}, {hours}"
    gain = f"{100 * (winner.now - winner.before):+.1f} points"
    interval = f"95 % {100 * winner.low:+.1f} to {100 * winner.high:+.1f}"
    return f"Search: {gain} of {_word(winner.measure)} ({interval}), {trials}, {hours}"


def _word(text: str) -> str:
    return "".join(c for c in text if c.isalnum() or c in " _-")


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"


def search_tables(found: Search) -> str:
    """Parameters that change, the gain, the best trials, and what it cost."""
    parts = []
    if found.winner:
        parts.append(_gain(found, found.winner))
        if found.winner.changed:
            rows = [
                [md.code(n), md.code(a), md.code(b)] for n, (a, b) in found.winner.changed.items()
            ]
            parts.append(md.table(["parameter", "before", "now"], rows))
    names = list(dict.fromkeys(name for trial in found.best for name in trial.params))
    rows = [
        [
            str(trial.number),
            f"{trial.score:.4f}",
            str(trial.epochs),
            *(md.code(_short(trial.params.get(name, "-"))) for name in names),
        ]
        for trial in found.best
    ]
    head = ["trial", f"validation {_word(found.objective)}", "epochs", *map(md.code, names)]
    parts.append(md.table(head, rows))
    if found.importance:
        shares = ", ".join(f"{md.code(n)} {share:.0%}" for n, share in found.importance.items())
        parts.append(f"Importance: {shares}.")
    parts.append(_cost(found))
    return "\n\n".join(parts)


def _gain(found: Search, winner: Winner) -> str:
    if not winner.changed:
        return "No trial was better than the parameters from before."
    best = found.best[0].score if found.best else 0.0
    text = f"Trial {winner.trial} gave its score again by `dvc repro`, epoch for epoch."
    if winner.units:
        text += (
            f" On {winner.units} {_word(winner.unit)}, which the search has not read: "
            f"{_word(winner.measure)} {winner.before:.2%} before, {winner.now:.2%} now, "
            f"**{winner.now - winner.before:+.2%}** (95 % {winner.low:+.2%} to {winner.high:+.2%})."
        )
    if found.default is not None:
        text += (
            f" On the validation split it rose from {found.default:.4f} to {best:.4f}, the best of "
            "many, which flatters."
        )
    return text


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cost(found: Search) -> str:
    gpu = f", {_minutes(found.gpu_seconds)} of them on a GPU" if found.gpu_seconds else ""
    return (
        f"{found.complete} trials complete, {found.pruned} pruned, {found.failed} failed, "
        f"{found.interrupted} interrupted and trained again: {found.epochs} epochs in "
        f"{_minutes(found.seconds)} of training{gpu}, on {md.code(found.hardware)}. Sampler "
        f"{md.code(found.sampler)}, pruner {md.code(found.pruner)}, seed {found.seed}; "
        f"it ended: {md.code(found.why or found.state)}."
    )
