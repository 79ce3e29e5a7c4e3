"""The accuracy on what the model sees, as metrics."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pytest import approx

from service.feedback.accuracy import (
    STALE,
    AccuracyFile,
    AccuracySnapshot,
    AccuracyCollector,
    wilson,
)
from service.http.experiments import ExperimentList
from service.inference.bundle import parse_manifest
from service.inference.model import Serving

TAG = "landcover@v1.0.0"
CELLS = [(TAG, "Forest", "Forest", 8), (TAG, "Forest", "River", 2), ("old", "River", "River", 1)]


def serving(tag: str | None, floor: float | None) -> Serving:
    found = Serving()
    if tag is not None:
        training = SimpleNamespace(min_accuracy=floor)
        model: Any = SimpleNamespace(tag=tag, manifest=SimpleNamespace(training=training))
        found.current = model
    return found


def metrics(
    accuracy_file: AccuracyFile, tag: str | None = TAG, floor: float | None = 0.8
) -> dict[str, Any]:
    """Name and labels of every sample -> value."""
    registry = CollectorRegistry()
    registry.register(AccuracyCollector(accuracy_file, serving(tag, floor)))
    return {
        " ".join((sample.name, *sample.labels.values())): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def board_with(folder: Path, live: AccuracySnapshot) -> AccuracyFile:
    AccuracyFile(folder).write(live)
    accuracy_file = AccuracyFile(folder)  # of another worker
    accuracy_file.refresh()
    return accuracy_file


def test_objects_have_f1_precision_and_recall_and_no_accuracy(tmp_path: Path) -> None:
    objects = [(TAG, 3, 6, 2, 4), ("empty", 1, 0, 0, 0), ("blind", 1, 0, 2, 0)]
    found = metrics(board_with(tmp_path, AccuracySnapshot([], objects=objects)), floor=None)
    assert {name: found[f"model_live_{name} {TAG}"] for name in ("f1", "precision", "recall")} == {
        "f1": approx(12 / 18), "precision": approx(0.6), "recall": approx(0.75)
    }  # fmt: skip
    assert found[f"model_feedback_objects {TAG} missed"] == 2
    assert found[f"model_feedback_objects {TAG} false"] == 4
    labels = {tag: found[f"model_feedback_answers {tag}"] for tag in (TAG, "empty", "blind")}
    assert labels == {TAG: 3, "empty": 1, "blind": 1}
    assert (found["model_live_f1 blind"], found["model_live_recall blind"]) == (0, 0)
    assert not [name for name in found if "empty" in name and "live" in name]
    assert not [name for name in found if "accuracy" in name or "precision blind" in name]


def test_the_list_of_experiments_has_the_f1_and_counts_images(tmp_path: Path) -> None:
    objects = [(TAG, 3, 6, 2, 4), ("empty", 1, 0, 0, 0)]
    live = AccuracySnapshot([("old", "River", "Forest", 2)], objects=objects)
    nothing: Any = SimpleNamespace(read=dict)
    board = board_with(tmp_path, live)
    listed = ExperimentList(nothing, nothing, nothing, nothing, nothing, board)
    found = {
        tag: (seen.accuracy, seen.f1, seen.labels) for tag, seen in listed._monitoring().items()
    }
    wanted = {TAG: (None, approx(12 / 18), 3), "empty": (None, None, 1), "old": (0, None, 2)}
    assert found == wanted


def test_labels_of_classes_and_of_objects_under_one_tag_are_counted_together(
    tmp_path: Path,
) -> None:
    live = AccuracySnapshot(CELLS, objects=[(TAG, 5, 1, 1, 1)])
    found = metrics(board_with(tmp_path, live))
    assert found[f"model_feedback_answers {TAG}"] == 15
    assert found[f"model_live_accuracy {TAG}"] == 0.8


# Agresti and Coull, Approximate is Better than "Exact", The American Statistician 52 (1998), give
# the centre; the ends are those of statsmodels' proportion_confint(method="wilson").
@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (1, 1, 0.2065, 1.0)],
)
def test_the_interval_is_wilsons(right: int, count: int, low: float, high: float) -> None:
    assert list(wilson(right, count)) == approx([low, high], abs=1e-4)


def test_the_accuracy_is_the_share_of_answers_that_agree(tmp_path: Path) -> None:
    live = AccuracySnapshot(CELLS, {TAG: 0.7, "old": 0.6}, {"certain": 3, "corrected": 1}, 4000)
    found = metrics(board_with(tmp_path, live))
    assert found[f"model_live_accuracy {TAG}"] == 0.8
    assert found[f"model_live_accuracy_low {TAG}"] == approx(0.4902, abs=1e-4)
    assert found[f"model_live_accuracy_high {TAG}"] == approx(0.9433, abs=1e-4)
    assert found[f"model_feedback_answers {TAG}"] == 10
    assert found[f"model_feedback_confusion {TAG} Forest River"] == 2
    assert found["model_live_accuracy old"] == 1.0
    assert found[f"model_accuracy_floor {TAG}"] == 0.8  # what serves knows better
    assert found["model_accuracy_floor old"] == 0.6
    assert found["feedback_images certain"] == 3
    assert found["feedback_image_bytes"] == 4000
    assert found["feedback_spool_bytes"] == 0


def test_of_many_labelled_models_those_with_most_labels_and_what_serves_are_shown(
    tmp_path: Path,
) -> None:
    cells = [(f"v{number}", "Forest", "Forest", number) for number in range(1, 41)]
    live = AccuracySnapshot([*cells, (TAG, "Forest", "River", 1)])
    found = metrics(board_with(tmp_path, live))
    shown = {name.split()[1] for name in found if name.startswith("model_live_accuracy ")}
    assert shown == {TAG, *(f"v{number}" for number in range(25, 41))}


def test_without_labels_there_is_no_accuracy(tmp_path: Path) -> None:
    assert metrics(AccuracyFile(tmp_path)) == {
        f"model_accuracy_floor {TAG}": 0.8,
        "feedback_spool_bytes": 0,
    }
    found = metrics(board_with(tmp_path, AccuracySnapshot()))
    assert found[f"model_feedback_answers {TAG}"] == 0
    assert not [name for name in found if name.startswith("model_live_accuracy")]


def test_a_model_without_a_floor_has_none(tmp_path: Path) -> None:
    assert metrics(AccuracyFile(tmp_path), floor=None) == {"feedback_spool_bytes": 0}
    assert metrics(AccuracyFile(tmp_path), tag=None) == {"feedback_spool_bytes": 0}


@pytest.mark.parametrize("direction", [1, -1])  # -1: a clock that was set back since
def test_numbers_that_are_too_old_are_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: int
) -> None:
    accuracy_file = board_with(tmp_path, AccuracySnapshot(CELLS))
    then = time.time() + direction * (STALE + 1)
    monkeypatch.setattr("service.feedback.accuracy.time.time", lambda: then)
    assert not [name for name in metrics(accuracy_file) if "live" in name or "answers" in name]


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'["x", []]', b"[0, 1, 2, 3, 4, 5, 6]"])
def test_a_broken_file_changes_nothing(tmp_path: Path, content: bytes) -> None:
    accuracy_file = board_with(tmp_path, AccuracySnapshot(CELLS))
    (tmp_path / "live.json").write_bytes(content)
    os.utime(tmp_path / "live.json", (1, 1))
    accuracy_file.refresh()
    assert accuracy_file.latest() == AccuracySnapshot(CELLS)


def test_the_floor_is_the_minimum_accuracy_of_the_gate_in_the_manifest(bundle: Path) -> None:
    document = json.loads((bundle / "model.json").read_bytes())
    malformed = ["high", True, 80, None]
    floors = [(0.8, 0.8), (1, 1.0), *((value, None) for value in malformed)]
    params = [({"gate": {"min_accuracy": value}}, floor) for value, floor in floors]
    for given, floor in [*params, ({"gate": []}, None), ([], None), (None, None)]:
        document["training"]["params"] = given
        manifest = parse_manifest(json.dumps(document).encode())
        assert manifest.training.min_accuracy == floor, given
