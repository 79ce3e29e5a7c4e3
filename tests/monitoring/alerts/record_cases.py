"""Series, and the values of the recording rules; cases.py explains the notation."""

from collections.abc import Mapping
from typing import NamedTuple

from tests.monitoring.alerts.cases import TAG, answers, confidence, drift, model, times


class Record(NamedTuple):
    """The samples of one recording rule: labels besides `job` and `namespace`, and value.

    Values are rounded to six digits after the point.
    """

    name: str
    series: Mapping[str, str]
    at: str
    values: list[tuple[Mapping[str, str], float]]


FAILING = answers("0+90x4500", "0+10x4500")
SLOW = times("0+57x4500", "0+60x4500")
PREDICTIONS = dict(
    [
        model("model_predictions_total", "0+3x200", **{"class": "Forest"}),
        model("model_predictions_total", "0+1x200", **{"class": "River"}),
        model("model_predictions_total", "0x200", **{"class": "Pasture"}),
    ]
)
IDLE = {key: "7x200" for key in PREDICTIONS}
OF_TAG = {"tag": TAG}
REFERENCE = {
    f'model_reference_class_share{{tag="{TAG}",class="River",instance="{name}"}}': "0.25x60"
    for name in ("a", "b")
}
ENTROPY = dict([model("model_entropy_sum", "0+1.5x60"), model("model_entropy_count", "0+6x60")])
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")


def of_class(**values: float) -> list[tuple[Mapping[str, str], float]]:
    """A sample a class."""
    return [({**OF_TAG, "class": name}, value) for name, value in values.items()]


def _of_windows() -> list[Record]:
    found = []
    for window in WINDOWS:
        rules: list[tuple[str, Mapping[str, str], float]] = [
            ("requests:rate", FAILING, 1.666667),
            ("errors:ratio_rate", FAILING, 0.1),
            ("errors:burnrate", FAILING, 20.0),
            ("slow:ratio_rate", SLOW, 0.05),
            ("slow:burnrate", SLOW, 5.0),
        ]
        for name, series, value in rules:
            metric = f"namespace_job:predict_{name}{window}"
            found.append(Record(metric, series, "73h", [({}, value)]))
    return found


RECORDS = [
    *_of_windows(),
    # No error was ever counted: none is zero of them. No request: no ratio at all.
    Record("namespace_job:predict_errors:ratio_rate1h", SLOW, "2h", [({}, 0.0)]),
    Record("namespace_job:predict_errors:ratio_rate5m", answers("5x200", "5x200"), "2h", []),
    Record("namespace_job:predict_slow:ratio_rate5m", times("5x200", "5x200"), "2h", []),
    Record("namespace_job_tag:model_predictions:rate5m", PREDICTIONS, "2h", [(OF_TAG, 0.066667)]),
    Record(
        "namespace_job_tag_class:model_predictions:increase1h",
        PREDICTIONS,
        "2h",
        of_class(Forest=180, River=60, Pasture=0),
    ),
    Record("namespace_job_tag:model_predictions:increase1h", PREDICTIONS, "2h", [(OF_TAG, 240)]),
    Record(
        "namespace_job_tag_class:model_predictions:share1h",
        PREDICTIONS,
        "2h",
        of_class(Forest=0.75, River=0.25, Pasture=0),
    ),
    Record("namespace_job_tag_class:model_predictions:share1h", IDLE, "2h", []),
    Record(
        "namespace_job_tag_class:model_reference_class_share:max",
        REFERENCE,
        "30m",
        of_class(River=0.25),
    ),
    Record(
        "namespace_job_tag:model_reference_confidence:max",
        confidence(0.5, 10),
        "30m",
        [(OF_TAG, 0.8)],
    ),
    Record(
        "namespace_job_tag:model_confidence:increase15m",
        confidence(0.5, 10),
        "30m",
        [(OF_TAG, 150)],
    ),
    Record(
        "namespace_job_tag:model_confidence:mean15m", confidence(0.5, 10), "30m", [(OF_TAG, 0.5)]
    ),
    Record("namespace_job_tag:model_confidence:mean15m", confidence(0.5, 0), "30m", []),
    Record("namespace_job_tag:model_entropy:mean15m", ENTROPY, "30m", [(OF_TAG, 0.25)]),
    Record(
        "namespace_job_tag_signal_measure:model_drift:ratio",
        drift("0.3x60"),
        "30m",
        [({**OF_TAG, "signal": "mean/B02", "measure": "psi"}, 1.5)],
    ),
]
