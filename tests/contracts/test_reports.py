"""The documents in reports/: one schema for who writes and who reads."""

from datetime import UTC, datetime

import pytest

from contracts.reports import Alert, Drift, larger_is_better
from pipeline.report import METRICS
from pipeline.tasks import classification


def test_the_better_direction_of_a_metric_follows_from_the_words_of_its_name() -> None:
    larger = ("accuracy", "macro_f1", "auc", "mean_iou", "recall_oversized", "colossal_score")
    smaller = ["log_loss", "perplexity", "val/perplexity", "latency_p95_ms", "model_size_mib"]
    smaller += ["calibration_error", "RMSE", "brier"]
    assert [name for name in larger if not larger_is_better(name)] == []
    assert [name for name in smaller if larger_is_better(name)] == []


def test_the_metrics_of_the_report_have_the_direction_that_they_had() -> None:
    metrics = (*classification.METRICS, *METRICS)
    larger = {metric.key for metric in metrics if larger_is_better(metric.key)}
    assert larger == {"accuracy", "macro_f1"}


@pytest.mark.parametrize("received", ["2026-05-01T12:00:00", "2026-05-01T14:00:00+02:00"])
def test_a_moment_is_written_in_utc_and_in_whole_seconds(received: str) -> None:
    drift = Drift.model_validate({"received": received, "status": "firing", "alerts": []})
    assert drift.received == datetime(2026, 5, 1, 12, tzinfo=UTC)
    assert drift.model_dump(mode="json")["received"] == "2026-05-01T12:00:00+00:00"


def test_a_document_of_a_newer_version_is_read_without_what_is_unknown() -> None:
    alert = {"alertname": "Drift\u202e", "summary": "x" * 600, "silenced": True}
    document = {"received": "2026-05-01T12:00:00Z", "status": "firing", "alerts": [alert]}
    drift = Drift.model_validate(document | {"newer": 1})
    assert drift.alerts == (Alert(alertname="Drift", summary="x" * 500),)
