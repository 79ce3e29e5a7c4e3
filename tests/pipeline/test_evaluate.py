"""Evaluate measures the file that ships: metrics, plots and predictions of the test split."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import evaluate
from pipeline.bundle.inference import predict, session
from pipeline.bundle.manifest import read_bundle
from pipeline.data.prepared import read_prepared
from pipeline.tasks.predictions import parse_table
from tests.pipeline.conftest import call


def test_metrics_are_those_of_the_onnx_file(trained: Path) -> None:
    metrics = json.loads(Path("reports/metrics.json").read_text(encoding="utf-8"))
    test = read_prepared().split("test")
    found = predict(session(read_bundle()[0]), test.chips, ["probabilities"])["probabilities"]
    assert metrics["accuracy"] == pytest.approx((found.argmax(axis=1) == test.labels).mean())
    assert metrics["accuracy_low"] <= metrics["accuracy"] <= metrics["accuracy_high"]
    assert metrics["test_chips"] == len(test.labels) == 12
    assert 0 < metrics["latency_p50_ms"] <= metrics["latency_p95_ms"]
    assert metrics["model_size_mib"] == pytest.approx(
        Path("model/model.onnx").stat().st_size / 2**20, abs=1e-3
    )


def test_every_class_is_scored(trained: Path) -> None:
    classes = json.loads(Path("reports/classes.json").read_text(encoding="utf-8"))
    assert list(classes) == ["class-0", "class-1", "class-2"]
    assert sum(score["support"] for score in classes.values()) == 12
    assert set(classes["class-0"]) == {"precision", "recall", "f1", "support"}


def test_predictions_name_every_test_chip(trained: Path) -> None:
    predictions = parse_table(Path("reports/predictions.csv").read_text(encoding="utf-8"), "test")
    assert set(predictions) == {row.sha256[:16] for row in read_prepared().split("test").rows}
    metrics = json.loads(Path("reports/metrics.json").read_text(encoding="utf-8"))
    right = [item.label == item.predicted for item in predictions.values()]
    assert np.mean(right) == pytest.approx(metrics["accuracy"])


def test_plots_are_data_for_dvc_and_pictures_for_people(trained: Path) -> None:
    plots = Path("reports/plots")
    with (plots / "confusion.csv").open(encoding="utf-8", newline="") as file:
        pairs = list(csv.DictReader(file))
    assert len(pairs) == 12 and set(pairs[0]) == {"actual", "predicted"}
    assert sorted(path.name for path in plots.iterdir()) == [
        "classes.csv",
        "confusion.csv",
        "reliability.csv",
    ]
    pictures = sorted(Path("reports/pictures").iterdir())
    assert [path.name for path in pictures] == [
        "confusion.png",
        "curves.png",
        "mistakes.png",
        "reliability.png",
    ]
    for picture in pictures:
        with Image.open(picture) as image:
            assert min(image.size) > 300
            assert len(image.getcolors(maxcolors=2**24) or ()) > 10  # not blank


def test_evaluating_twice_gives_the_same_answers(trained: Path) -> None:
    before = Path("reports/predictions.csv").read_bytes()
    evaluate.main()
    assert Path("reports/predictions.csv").read_bytes() == before


def test_a_missing_bundle_says_what_to_run(trained: Path) -> None:
    shutil.rmtree("model")
    result = call(evaluate.main)
    assert result.returncode == 1
    assert "model/ is missing: run `dvc repro`" in result.stderr


def test_a_bundle_of_other_classes_is_refused(trained: Path) -> None:
    path = Path("artifacts/chips/dataset.json")
    path.write_text(
        path.read_text(encoding="utf-8").replace("class-1", "class-9"), encoding="utf-8"
    )
    result = call(evaluate.main)
    assert result.returncode == 1
    assert "trained on other classes or bands" in result.stderr
