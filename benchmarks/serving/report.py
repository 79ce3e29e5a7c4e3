"""Samples -> Markdown tables for docs/benchmarks.md, and JSON with all that was measured."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.serving import queueing
from benchmarks.serving.load import CONNECTIONS
from benchmarks.serving.samples import LOAD, Sample, Window
from benchmarks.serving.servers import CONTENDERS, CORES
from benchmarks.serving.swaps import LOAD as SWAP_LOAD
from benchmarks.serving.swaps import Swaps
from pipeline.markdown import table

LATE = 0.01  # share of paced requests sent late that is worth a word
QUIET = 0.05  # share of the machine that others may take before a measurement is dropped

HEADERS = (
    "server",
    "req/s, 32 connections (least to most)",
    "of raw",
    "req/s, 8 connections",
    "CPU-us a request",
    "E_cpu",
    "p50 / p99, ms",
    "p99 of M/M/c",
    "start, s",
    "PSS / largest RSS, MB",
    "n",
)

LEGEND = f"""Medians over n rounds. Raw: `session.run` in a loop, measured before and after each
server; "of raw" is taken sample by sample. E_cpu: CPU-us of raw an image over CPU-us of the server
a request. p50 and p99 at {LOAD:.0%} of the server's own saturation, requests at random (Poisson).
p99 of M/M/c: that p99 over the p99 of one queue before as many servers as cores, with exponential
service times of the mean that saturation showed. Start: from the start of the process to the
first right answer. The client, wrk, shares the machine."""

Keep = Callable[[float], bool]


def kind_section(samples: Sequence[Sample], way: str, keep: Keep) -> str:
    """Write the table of one kind of upload, and the comparison below it."""
    good = [sample for sample in samples if not sample.failure and sample.many]
    names = [item.name for item in CONTENDERS if any(s.contender == item.name for s in good)]
    rows = [_raw_row(samples, keep)]
    rows += [_row(name, [s for s in good if s.contender == name], keep) for name in names]
    parts = [table(HEADERS, rows), f"Raw was fastest as {way}.", *_comparisons(good, keep)]
    dropped = _dropped(good, keep)
    if dropped:
        parts.append(
            f"{dropped} measurements were dropped: others took over {QUIET:.0%} of the machine."
        )
    late = [s.paced.result.late / s.paced.result.requests for s in good if s.paced]
    if max(late, default=0) > LATE:
        parts.append(
            f"Up to {max(late):.0%} of the paced requests had to wait for one of {CONNECTIONS} "
            "connections to be free: their wait is in no percentile."
        )
    parts += [f"Failed: {s.contender}, round {s.round + 1}: {s.failure}" for s in _failed(samples)]
    return "\n\n".join(parts)


def swap_section(swaps: Swaps) -> str:
    """Write the table of the swaps under load."""
    head = ("load", "requests", "failed", "late", "p50, ms", "p99, ms", "worst, ms")
    loads = (("no swaps", swaps.calm), (f"{len(swaps.seconds)} swaps", swaps.swapping))
    rows = [
        (title, f"{r.requests:,}", f"{r.errors}", f"{r.late / max(1, r.requests):.1%}")
        + (f"{r.p50:.1f}", f"{r.p99:.1f}", f"{r.worst:.1f}")
        for title, r in loads
    ]
    return "\n\n".join(
        (
            f"Hot swaps at {swaps.rate:,.0f} requests/s, {SWAP_LOAD:.0%} of saturation:",
            table(head, rows),
            f"A swap by tag took {_middle(swaps.seconds[::2], '.2f')} s, a rollback "
            f"{_middle(swaps.seconds[1::2], '.2f')} s (medians). Wrong model in the answer after "
            f"a swap: {swaps.wrong} of {swaps.checked}. Late: all {CONNECTIONS} connections were "
            "waiting when a request was due; that wait is in no percentile.",
        )
    )


def as_json(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """Give all samples as plain dictionaries."""
    return [plain(sample) for sample in samples]


def _raw_row(samples: Sequence[Sample], keep: Keep) -> tuple[str, ...]:
    # Neighbours share a measurement.
    bare = dict.fromkeys(b for s in samples for b in (s.before, s.after) if b)
    kept = [item for item in bare if keep(item.others)]
    rates = _spread([item.rate for item in kept])
    cpu = _middle([item.cpu for item in kept])
    return ("raw ONNX Runtime", rates, "1", "", cpu, "1", "", "", "", "", str(len(kept)))


def _row(name: str, samples: Sequence[Sample], keep: Keep) -> tuple[str, ...]:
    many = [s for s in samples if keep(s.others())]
    kept_paced = [s.paced for s in samples if s.paced and keep(s.paced.others)]
    paced = [window.result for window in kept_paced]
    memory = [s.memory for s in samples if s.memory]
    return (
        next(item.title for item in CONTENDERS if item.name == name),
        _spread([_window(s).result.rate for s in many]),
        _middle([_window(s).result.rate / s.raw for s in many], ".2f"),
        _middle([s.few.result.rate for s in samples if s.few and keep(s.few.others)]),
        _middle([_window(s).cpu for s in many]),
        _middle([_efficiency(s) for s in many], ".2f"),
        f"{_middle([r.p50 for r in paced], '.1f')} / {_middle([r.p99 for r in paced], '.1f')}",
        _middle([_beside_a_perfect_queue(s) for s in samples if s.paced in kept_paced], ".2f"),
        _middle([s.start for s in samples], ".1f"),
        f"{_middle([m.pss for m in memory])} / {_middle([m.largest_rss for m in memory])}",
        str(len(many)),
    )


def _comparisons(samples: Sequence[Sample], keep: Keep) -> list[str]:
    """Hold each way of asking this service against the fastest peer."""
    rates: dict[str, float] = {}
    for name in {sample.contender for sample in samples}:
        kept = [_window(s).result.rate for s in samples if s.contender == name and keep(s.others())]
        if kept:
            rates[name] = statistics.median(kept)
    peers = {name: rate for name, rate in rates.items() if not name.startswith("ours")}
    if not peers:
        return []
    best = max(peers, key=lambda name: peers[name])
    return [
        f"{name} / fastest peer ({best}): {rates[name] / peers[best]:.2f}"
        for name in ("ours", "ours-bare")
        if name in rates
    ]


def _window(sample: Sample) -> Window:
    assert sample.many
    return sample.many


def _beside_a_perfect_queue(sample: Sample) -> float:
    assert sample.many and sample.few and sample.paced
    each = CORES / max(sample.many.result.rate, sample.few.result.rate)  # seconds of a core
    return sample.paced.result.p99 / (1e3 * each * queueing.percentile(CORES, LOAD))


def _efficiency(sample: Sample) -> float:
    cpu = [sample.before.cpu, sample.after.cpu] if sample.after else [sample.before.cpu]
    return statistics.mean(cpu) / _window(sample).cpu


def _dropped(samples: Sequence[Sample], keep: Keep) -> int:
    shares = [s.others() for s in samples]
    shares += [w.others for s in samples for w in (s.few, s.paced) if w]
    return sum(not keep(share) for share in shares)


def _failed(samples: Sequence[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.failure]


def _middle(values: Sequence[float], form: str = ",.0f") -> str:
    return format(statistics.median(values), form) if values else "-"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def plain(value: Any) -> Any:
    """Named tuples become dictionaries, all the way down."""
    if hasattr(value, "_asdict"):
        return {name: plain(item) for name, item in value._asdict().items()}
    return value
