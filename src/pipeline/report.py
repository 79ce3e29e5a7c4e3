"""Command: the report of a merge request, `reports/report.md` with its pictures.

    python -m pipeline.report                   against main
    python -m pipeline.report --against v1.2    against another revision

The verdict stands first. The report is written also when the gate is closed: that is when it is
read most.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any


from contracts.bundle import Manifest
from contracts.documents import read_yaml
from contracts.reports import DRIFT, larger_is_better
from pipeline import markdown as md
from pipeline import paths, repository, tasks
from pipeline.arguments import parse_against
from pipeline.bundle.manifest import read_bundle
from pipeline.errors import GateError, command
from pipeline.tasks.comparison import Comparison
from pipeline.files import write_text
from pipeline.gate import another_state, compare_with, judge, other_model, read, warn_of
from pipeline.params import read_params
from pipeline.reporting.data_changes import data_change
from pipeline.reporting.costs import job_section
from pipeline.reporting.model_tests import model_test_checks, model_test_section
from pipeline.reporting.searching import search_section
from pipeline.reporting.splits import split_section
from pipeline.reporting.sections import challenge_section, drift_section
from pipeline.tasks.task import Check, Metric

METRICS = (
    Metric("latency_p50_ms", "latency p50, ms", "{:.2f}"),
    Metric("latency_p95_ms", "latency p95, ms", "{:.2f}"),
    Metric("model_size_mib", "model size, MiB", "{:.2f}"),
)
"""Of every task; a task has some of its own besides."""


@command
def main(arguments: Sequence[str] = ()) -> None:
    """Write the report."""
    against = parse_against("report", __doc__, arguments)
    warn_of(another_state())
    text = report(against)
    write_text(paths.REPORT, text)
    print(f"report: {paths.REPORT}: {text.partition(chr(10))[0].lstrip('# ')}")


def report(against: str) -> str:
    """Compose the report, Markdown."""
    params = read_params()
    task = tasks.find(params.model.task)
    metrics, classes = read(paths.METRICS), read(paths.CLASSES)
    _, manifest = read_bundle()
    commit = repository.resolve(against)
    tested = model_test_checks(manifest.sha256)
    try:
        comparison, note = compare_with(against, params)
        checks = judge(metrics, classes, params, comparison, note, tested)
    except GateError as error:
        comparison = None
        checks = [
            *judge(metrics, classes, params, None, "", tested)[:-1],
            Check("comparison with the base", False, str(error)),
        ]
    base = f"{md.code(against)} ({commit[:8]})"
    other = other_model(commit, params)
    foreign = f"Not compared: {base} has {other[0]} {md.code(other[1])}." if other else ""
    before, classes_before = (
        {} if other else json.loads(repository.show(commit, path) or "{}")
        for path in (paths.METRICS, paths.CLASSES)
    )
    sections = (
        _verdict(manifest, task.headline(metrics), checks, comparison, base),
        drift_section(repository.show(commit, DRIFT)),
        challenge_section(manifest.sha256),
        search_section(manifest.sha256),
        job_section(manifest.sha256),
        _metrics((*task.METRICS, *METRICS), metrics, before, base),
        foreign,
        _params(params.model_dump(mode="json"), repository.show(commit, paths.PARAMS), base),
        f"## Data changes\n\n{foreign}" if other else _data(commit, base),
        *task.sections(classes, classes_before),
        model_test_section(manifest.sha256),
        split_section(task, manifest.sha256),
        "\n\n".join(_picture(name, title) for name, title in task.PICTURES),
        _origin(manifest),
    )
    return "\n\n".join(filter(None, sections)) + "\n"


def _verdict(
    manifest: Manifest,
    sentence: str,
    checks: list[Check],
    comparison: Comparison | None,
    base: str,
) -> str:
    missed = sum(not check.passed for check in checks)
    state = f"❌ the gate is closed ({missed} missed)" if missed else "✅ the gate is open"
    if comparison:
        low, high = comparison.difference
        gain = f"**{comparison.challenger - comparison.champion:+.2%}** ({low:+.2%} to {high:+.2%})"
        sentence += (
            f" Against {base}, on {comparison.chips} shared {comparison.unit}: "
            f"{comparison.measure} {gain}, "
            f"{comparison.fixed} of them better, {comparison.broken} worse."
        )
    rows = [
        [md.code(c.name), "✅" if c.passed else "❌ **missed**", md.code(c.text)] for c in checks
    ]
    title = f"# {manifest.name}: {state}"
    return "\n\n".join((title, sentence, md.table(["floor", "verdict", "measured"], rows, text=3)))


def _metrics(
    metrics: Sequence[Metric], now: dict[str, Any], before: dict[str, Any], base: str
) -> str:
    rows = []
    for key, name, form in metrics:
        old = before.get(key)
        row = [name, form.format(now[key]), "-", "-"]
        if old is not None:
            row[2:] = [form.format(old), md.arrow(now[key] - old, larger_is_better(key))]
        rows.append(row)
    return f"## Metrics\n\n{md.table(['metric', 'this', base, 'change'], rows)}"


def _flat(params: dict[str, Any]) -> dict[str, Any]:
    return {f"{s}.{k}": v for s, section in params.items() for k, v in dict(section).items()}


def _params(now: dict[str, Any], before: str | None, base: str) -> str:
    new, old = _flat(now), _flat(read_yaml(before) if before else {})
    rows = [
        [md.code(key), md.code(old.get(key, "-")), md.code(new.get(key, "-"))]
        for key in sorted(new.keys() | old.keys())
        if new.get(key) != old.get(key)
    ]
    body = md.table(["parameter", base, "this"], rows) if rows else "None."
    return f"## Parameter changes\n\n{body}"


def _data(commit: str, base: str) -> str:
    change = data_change(commit)
    if change is None:
        return f"## Data changes\n\nNone: the data of {base}."
    if isinstance(change, str):
        return f"## Data changes\n\n{md.code(change)}"
    rows = [
        [
            md.code(name),
            f"+{change.added[name]}",
            f"-{change.removed[name]}",
            str(change.total[name]),
        ]
        for name in sorted(change.total | change.removed)
    ]
    total = [f"+{change.added.total()}", f"-{change.removed.total()}", str(change.total.total())]
    table = md.table(["class", "added", "removed", "chips now"], [*rows, ["**all**", *total]])
    return f"## Data changes\n\n{table}"


def _picture(name: str, title: str) -> str:
    path = (paths.PICTURES / f"{name}.png").relative_to(paths.REPORT.parent)
    return f"## {title}\n\n![{title}]({path.as_posix()})"


def _origin(manifest: Manifest) -> str:
    training = manifest.training
    rows = [
        ["trained", md.code(f"{training.seconds:.0f} s on {training.hardware}")],
        ["finished", md.code(training.finished)],
        ["commit", md.code(training.git_revision)],
        ["data", md.code(training.data_version)],
        ["bundle", md.code(manifest.sha256)],
    ]
    return f"## Where it comes from\n\n{md.table(['', ''], rows, text=2)}"


if __name__ == "__main__":
    main(sys.argv[1:])
