"""The sections of the report about a retraining: what asked for it, and what came of it."""

from collections.abc import Sequence

from contracts.reports import DRIFT, Alert, Challenge, Drift, Figures
from pipeline import markdown as md
from pipeline.reporting.documents import new_drift, read_challenge, titled

SHOWN = 12  # alerts and signals that are listed; all of them stand in drift.json
VERDICTS = {
    "better": "✅ **better** than",
    "no worse": "✅ **no worse** than",
    "worse": "❌ **worse** than",
}
SETS = (("in the test split of both", "pinned"), ("new to the champion", "new"))


@titled("Why: drift")
def drift_section(before: str | None) -> str:
    """Why this was trained; empty when no alert asked for it.

    Args:
        before: drift.json of the base; None when there was none.
    """
    drift = new_drift(before)
    if drift is None:
        return ""
    return "\n\n".join(filter(None, ("## Why: drift", _alerts(drift), _signals(drift.alerts))))


@titled("Champion and challenger")
def challenge_section(challenger: str) -> str:
    """How the bundle with the SHA-256 `challenger` fares; empty when it was not compared.

    The verdict on another bundle says nothing about this one, and is left out.
    """
    found = read_challenge()
    if found is None or found.challenger != challenger:
        return ""
    rows = [
        _figures(name, figures)
        for name, key in SETS
        if (figures := getattr(found, key)) is not None
    ]
    head = ["test chips", "n", "champion", "challenger", "difference, 95 %", "fixed", "broken"]
    table = md.table(head, rows) if rows else ""
    return "\n\n".join(filter(None, ("## Champion and challenger", _verdict(found), table)))


def _verdict(found: Challenge) -> str:
    note = md.code(found.note) if found.note else ""
    if found.verdict is None or found.champion is None:
        return note or "Not compared."
    model = f"the model of {md.code(found.against)} ({md.code(found.champion[:12])})"
    sentence = f"The new model is {VERDICTS[found.verdict]} {model}."
    return f"{sentence} {note}".rstrip()


def _figures(name: str, figures: Figures) -> list[str]:
    return [
        name,
        str(figures.chips),
        f"{figures.champion:.2%}",
        f"{figures.challenger:.2%}",
        f"{figures.low:+.2%} to {figures.high:+.2%}",
        str(figures.fixed),
        str(figures.broken),
    ]


def _alerts(drift: Drift) -> str:
    """One line an alert name and sentence, with the time since when."""
    since: dict[tuple[str, str], str] = {}
    for alert in drift.alerts:
        key = (alert.alertname, alert.summary)
        since[key] = min(since.get(key, alert.starts_at), alert.starts_at)
    lines = [
        f"- {md.code(name)}: {md.code(summary)}, since {md.code(start)}"
        for (name, summary), start in list(since.items())[:SHOWN]
    ]
    if more := len(since) - SHOWN:
        lines += [f"- and {more} more in {md.code(DRIFT)}"] if more > 0 else []
    count = f"{len(drift.alerts)} alert{'s' if len(drift.alerts) != 1 else ''}"
    received = md.code(drift.received.isoformat(timespec="seconds"))
    return "\n".join([f"{count} {md.code(drift.status)}, received {received}.", "", *lines])


def _signals(alerts: Sequence[Alert]) -> str:
    """A table of what drifted, where the labels of the alerts say so."""
    columns = ("signal", "measure", "class", "score", "value", "threshold", "tag")
    rows = [alert.labels for alert in alerts if {"signal", "class"} & alert.labels.keys()]
    used = [name for name in columns if any(name in labels for labels in rows)]
    cells = [[md.code(labels.get(name, "-")) for name in used] for labels in rows]
    unique = [list(row) for row in dict.fromkeys(map(tuple, cells))]
    if not unique:
        return ""
    more = f"\n\nand {len(unique) - SHOWN} more" if len(unique) > SHOWN else ""
    return md.table(used, unique[:SHOWN], text=len(used)) + more
