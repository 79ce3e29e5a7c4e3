"""Segmentation: what counts is labelled pixels, and blocks of ground."""

from typing import Any

import numpy as np
import pytest
import torch

from contracts.bundle import NODATA, parse_manifest
from pipeline.data.chip_table import Row
from pipeline.data.prepared import Split
from pipeline.errors import DataError
from pipeline.params import Evaluate
from pipeline.tasks import segmentation as task
from tests.conftest import ROOT
from tests.make.label_maps import SIZE, dataset

PARAMS = Evaluate(bootstrap_samples=100, block_size=80, calibration_bins=10, latency_runs=10)

ANY = parse_manifest((ROOT / "tests/bundle/model.json").read_bytes())  # maps need nothing of it


def split(labels: np.ndarray) -> Split:
    """Chips of 160 m side by side with these labels (N, SIZE, SIZE)."""
    rows = [
        Row(i, "images/a.tif", "", f"{i:064x}", "EPSG:32633", (160.0 * i + 80, 80.0))
        for i in range(len(labels))
    ]
    chips = np.full((len(labels), 3, SIZE, SIZE), 1000, np.uint16)
    return Split(chips, labels.astype(np.uint8), rows)


def answers(labels: np.ndarray, confidence: int = 90) -> dict[str, Any]:
    known = labels != NODATA
    return {
        "labels": labels.astype(np.uint8),
        "confidence": np.where(known, confidence, NODATA).astype(np.uint8),
    }


def test_pixels_without_a_label_change_no_loss_and_no_score() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    half = targets.clone()
    half[:, :4] = NODATA
    rest = logits[:, :, 4:], targets[:, 4:]
    assert torch.allclose(task.loss(logits, half), task.loss(*rest))
    assert torch.allclose(task.score(logits, half), task.score(*rest))
    weights = torch.tensor([0.5, 1.0, 4.0])
    assert torch.allclose(task.loss(logits, half, 0.1, weights), task.loss(*rest, 0.1, weights))


def test_a_batch_without_any_label_has_no_loss_instead_of_nan() -> None:
    nothing = torch.full((1, 4, 4), NODATA)
    assert task.loss(torch.randn(1, 3, 4, 4), nothing).item() == 0
    assert task.score(torch.randn(1, 3, 4, 4), nothing).tolist() == [0]


def test_the_loss_is_that_of_torch_where_every_pixel_has_a_label() -> None:
    logits, targets = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    expected = torch.nn.functional.cross_entropy(logits, targets)
    assert torch.allclose(task.loss(logits, targets), expected)


def test_rare_classes_get_more_weight_and_the_mean_stays() -> None:
    labels = np.array([0] * 90 + [1] * 10 + [NODATA] * 50)
    weights = task.class_weights(labels, 2, 1.0)
    assert weights is not None and weights.tolist() == pytest.approx([100 / 180, 5.0])
    assert (weights * torch.tensor([0.9, 0.1])).sum().item() == pytest.approx(1)
    assert task.class_weights(labels, 2, 0.0) is None


def test_an_epoch_that_finds_a_rare_class_is_better_than_one_with_more_pixels_right() -> None:
    targets = torch.tensor([0] * 90 + [1] * 10)
    never = torch.nn.functional.one_hot(torch.zeros(100, dtype=torch.long), 2).float()
    found = torch.tensor([0] * 78 + [1] * 22)
    often = torch.nn.functional.one_hot(found, 2).float()
    assert task.score(often, targets).mean() < task.score(never, targets).mean()
    assert task.quality(never, targets) == pytest.approx(0.45)
    assert task.quality(often, targets) == pytest.approx((78 / 90 + 10 / 22) / 2)


def test_validation_looks_at_a_bounded_number_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, targets = torch.randn(4, 3, 8, 8), torch.randint(0, 3, (4, 8, 8))
    targets[0] = NODATA
    every = task.samples(logits, targets, of=4)
    assert every[0].shape == (192, 3) and every[1].shape == (192,)
    assert torch.equal(every[0][0], logits[1, :, 0, 0])
    monkeypatch.setattr(task, "SAMPLES", 64)
    assert len(task.samples(logits, targets, of=4)[1]) == 48


def test_the_answer_is_the_likeliest_class_with_its_probability() -> None:
    logits = torch.randn(2, 5, 6, 6)
    labels, confidence = task.answer(logits, torch.ones(2, 3, 6, 6), None)
    expected = torch.softmax(logits, dim=1).max(dim=1)
    assert torch.equal(labels.long(), expected.indices)
    assert torch.equal(confidence, torch.round(100 * expected.values).to(torch.uint8))


def test_a_pixel_without_data_is_answered_as_such_and_no_other() -> None:
    numbers = torch.ones(1, 3, 4, 4)
    numbers[:, :, 0, 0] = 0
    numbers[:, 0, 1, 1] = 0  # one band only
    labels, confidence = task.answer(torch.randn(1, 2, 4, 4), numbers, 0)
    empty = labels[0] == NODATA
    assert torch.equal(empty, confidence[0] == NODATA)
    assert empty.nonzero().tolist() == [[0, 0]]


def test_confusions_are_counted_by_block_and_read_back() -> None:
    labels = np.zeros((2, SIZE, SIZE))
    labels[1] = 1
    labels[0, 0] = NODATA
    predicted = labels.copy()
    predicted[0, :, : SIZE // 2] = 1
    found = task.predictions(answers(predicted), split(labels), dataset(), PARAMS)
    assert len(found) == 8, "two chips of 160 m, four blocks of 80 m in each"
    assert sum(sum(pairs.values()) for pairs in found.values()) == 2 * SIZE**2 - SIZE
    west = found["EPSG:32633 80 m 0 0"]
    assert west == {("low", "high"): 64}
    table = task.evaluate(answers(predicted), split(labels), dataset(), PARAMS, ANY).predictions
    text = "\n".join(",".join(map(str, row)) for row in [table.head, *table.rows])
    assert task.parse_predictions(text, "test") == found


@pytest.mark.parametrize("text", ["chip,label\na,b\n", "block,actual,predicted,pixels\na,b,c,x\n"])
def test_another_table_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="main is not a table of confusions by block"):
        task.parse_predictions(text, "main")


def test_a_perfect_map_is_measured_as_such() -> None:
    labels = np.tile(np.indices((SIZE, SIZE)).sum(axis=0) % 2, (2, 1, 1))
    found = task.evaluate(answers(labels, 100), split(labels), dataset(), PARAMS, ANY)
    assert found.metrics["mean_iou"] == found.metrics["accuracy"] == 1
    assert found.metrics["mean_iou_low"] == found.metrics["mean_iou_high"] == 1
    assert found.metrics["calibration_error"] == 0
    assert found.metrics["test_blocks"] == 8 and found.metrics["test_pixels"] == 2 * SIZE**2
    assert set(found.figures) | {"curves"} == {name for name, _ in task.PICTURES}


def test_models_are_compared_on_the_blocks_that_both_were_tested_on() -> None:
    good = {f"{i}": {("a", "a"): 90, ("b", "b"): 9, ("a", "b"): 1} for i in range(30)}
    bad = {f"{i}": {("a", "a"): 80, ("b", "b"): 5, ("a", "b"): 15} for i in range(10, 50)}
    found = task.compare(good, bad, 200)
    assert found is not None and found.is_loss
    assert (found.chips, found.fixed, found.broken) == (20, 0, 20)
    assert (found.measure, found.unit) == ("mean IoU", "test blocks")
    assert found.champion == pytest.approx((90 / 91 + 9 / 10) / 2)
    assert task.compare(good, {"elsewhere": {}}, 200) is None


def test_golden_chips_have_many_classes_and_no_doubt() -> None:
    labels = np.zeros((3, SIZE, SIZE))
    labels[1:, :3] = 1
    output = answers(labels)
    output["confidence"][2] = 99
    assert task.choose_golden(output) == [2, 1]


def test_signals_of_a_chip_without_data_are_no_nan() -> None:
    output = answers(np.full((1, SIZE, SIZE), NODATA))
    assert task.signals(output)["confidence"].tolist() == [0]
    assert task.predicted_classes(output).tolist() == []


def test_colours_are_those_of_the_data_or_told_apart() -> None:
    own = dataset(colours=("#000000", "#ffffff"))
    assert task.colours(own) == ("#000000", "#ffffff")
    many = dataset(classes=tuple(f"c{i}" for i in range(24)))
    assert len(set(task.colours(many))) == 24
