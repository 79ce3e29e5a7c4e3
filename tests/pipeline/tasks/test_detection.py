"""Detection: targets, loss and decoding of the network, and what of it is graph."""

from typing import Any

import numpy as np
import pytest
import torch

from contracts.bundle import parse_manifest
from pipeline.data.chip_table import Row
from pipeline.data.dataset import MOST_OBJECTS
from pipeline.data.prepared import Split
from pipeline.errors import DataError
from pipeline.tasks import centres, objects
from pipeline.tasks import detection as task
from pipeline.tasks.matching import Found
from tests.make import harbours

BOXES = ((4.0, 6.0, 14.0, 12.0), (20.0, 20.0, 25.0, 31.0))


def targets(*boxes: tuple[float, ...], name: int = 0) -> torch.Tensor:
    """One chip with these boxes, (1, MOST_OBJECTS, 5)."""
    found = torch.full((1, MOST_OBJECTS, 5), -1.0)
    for number, box in enumerate(boxes):
        found[0, number] = torch.tensor([name, *box])
    return found


def perfect(*boxes: tuple[float, ...], size: int = 32) -> torch.Tensor:
    """Logits (1, 1 + 4, size / 2, size / 2) of a network that has found the boxes, and no more."""
    logits = torch.full((1, 5, size // 2, size // 2), -8.0)
    for left, top, right, bottom in boxes:
        row, column = int((top + bottom) / 4), int((left + right) / 4)
        logits[0, 0, row, column] = 8
        x, y = 2 * column + 1, 2 * row + 1
        distances = torch.tensor([x - left, y - top, right - x, bottom - y])
        # The whole bump: the neighbours of the centre are told to give the same box.
        for i in range(size // 2):
            for j in range(size // 2):
                if abs(i - row) <= 6 and abs(j - column) <= 6:
                    moved = torch.tensor([j - column, i - row, column - j, row - i]) * 2
                    logits[0, 1:, i, j] = torch.log((distances + moved).clamp(min=0.1) / 4)
    return logits


def test_a_perfect_answer_has_almost_no_loss_and_gives_the_boxes_back() -> None:
    logits = perfect(*BOXES)
    assert task.loss(logits, targets(*BOXES)).item() < 0.2
    assert task.loss(perfect(BOXES[0]), targets(*BOXES)).item() > 3
    boxes, scores, labels = task.answer(logits, torch.ones(1, 4, 32, 32), None)
    assert boxes.shape == (1, MOST_OBJECTS, 4) and scores.shape == labels.shape == (1, MOST_OBJECTS)
    found = sorted(boxes[0, :2].tolist())
    assert np.allclose(found, sorted(BOXES), atol=1e-4)
    assert (scores[0, :2] > 0.99).all() and (scores[0, 2:] < 0.01).all()


def test_a_chip_without_objects_has_a_loss_that_is_no_nan_and_a_gradient() -> None:
    logits = torch.zeros(2, 6, 8, 8, requires_grad=True)
    found = task.loss(logits, torch.full((2, MOST_OBJECTS, 5), -1.0))
    found.backward()
    assert np.isfinite(found.item()) and found.item() > 0
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    quiet = torch.full((2, 6, 8, 8), -9.0)
    assert task.loss(quiet, torch.full((2, MOST_OBJECTS, 5), -1.0)).item() < 1e-3


def test_the_bump_of_an_object_is_one_in_the_cell_of_its_centre() -> None:
    bumps, boxes, near = centres._wanted(targets(*BOXES, name=1), 2, 16, 16)
    assert (bumps[0, 0] == 0).all(), "no object of the other class"
    assert (bumps[0, 1] == 1).nonzero().tolist() == [[4, 4], [12, 11]]
    assert boxes[0, :, 4, 4].tolist() == list(BOXES[0])
    assert torch.equal(near[0], bumps[0, 1])


def test_weights_count_the_objects_of_a_class() -> None:
    labels = np.full((4, MOST_OBJECTS, 5), -1, np.float32)
    labels[:3, 0, 0], labels[3, 0, 0] = 0, 1
    weights = task.class_weights(labels, 2, 1.0)
    assert weights is not None and weights.tolist() == pytest.approx([4 / 6, 2.0])
    assert task.class_weights(labels, 2, 0.0) is None
    logits = torch.zeros(1, 6, 16, 16)
    heavy = task.loss(logits, targets(*BOXES), 0.0, torch.tensor([3.0, 1.0]))
    assert heavy > task.loss(logits, targets(*BOXES), 0.0, torch.tensor([1.0, 3.0]))


def test_a_network_that_finds_nothing_scores_nothing_whatever_is_background() -> None:
    quiet = torch.cat([perfect()] * 4)
    some = torch.cat([targets(), targets(), targets(), targets(*BOXES)])
    assert task.score(quiet, some).tolist() == [0] * 4
    quiet[3] = perfect(*BOXES)
    assert task.score(quiet, some).tolist() == pytest.approx([1] * 4)


def test_the_score_of_a_chip_is_its_f1() -> None:
    assert task.score(perfect(*BOXES), targets(*BOXES)).tolist() == pytest.approx([1])
    assert task.score(perfect(BOXES[0]), targets(*BOXES)).item() == pytest.approx(2 / 3)
    assert task.score(perfect(*BOXES), targets(BOXES[0])).item() == pytest.approx(2 / 3)
    assert task.score(perfect(), targets()).tolist() == [1], "nothing is there, nothing is found"
    assert task.score(perfect(BOXES[0]), targets()).tolist() == [0]


def test_no_object_is_found_where_there_are_no_data() -> None:
    numbers = torch.ones(1, 4, 32, 32)
    numbers[:, :, 16:] = 0
    _, scores, _ = task.answer(perfect(*BOXES), numbers, 0)
    assert (scores[0] > 0.5).sum() == 1


def test_boxes_end_at_the_edges_of_the_image() -> None:
    logits = perfect((-6.0, -4.0, 10.0, 8.0))
    boxes, scores, _ = task.answer(logits, torch.ones(1, 4, 32, 32), None)
    assert scores[0, 0] > 0.9
    assert boxes[0, 0].tolist() == pytest.approx([0, 0, 10, 8], abs=1e-3)


def test_an_image_with_fewer_cells_than_objects_is_answered() -> None:
    boxes, scores, labels = task.answer(torch.zeros(1, 7, 4, 4), torch.ones(1, 4, 8, 8), None)
    assert boxes.shape == (1, MOST_OBJECTS, 4)
    assert (scores[0] > 0).sum() == 48 and set(labels[0, :48].tolist()) == {0, 1, 2}


def answers(*boxes: tuple[float, ...], score: float = 0.9) -> dict[str, Any]:
    """What the graph answers for one chip."""
    found = np.zeros((1, MOST_OBJECTS, 4), np.float32)
    scores = np.zeros((1, MOST_OBJECTS), np.float32)
    for number, box in enumerate(boxes):
        found[0, number], scores[0, number] = box, score
    return {"boxes": found, "scores": scores, "labels": np.zeros((1, MOST_OBJECTS), np.int64)}


def test_answers_are_compared_box_by_box_in_any_order() -> None:
    one = answers(*BOXES)
    assert task.difference(one, one) == 0
    assert task.difference(one, answers(*reversed(BOXES))) == 0
    assert task.difference(one, answers(*BOXES, score=0.8)) == pytest.approx(0.1)
    assert task.difference(one, answers(BOXES[0])) > 0.1
    broken = answers(*BOXES) | {"scores": np.full((1, MOST_OBJECTS), np.nan)}
    assert not task.difference(one, broken) <= task.PARITY


def split(*boxes: tuple[float, ...]) -> Split:
    row = Row(0, "images/a.tif", "port", "0" * 64, split="test")
    return Split(np.ones((1, 4, 32, 32), np.uint16), targets(*boxes).numpy(), [row])


def scores(output: dict[str, Any], test: Split) -> dict[str, dict[str, Found]]:
    return objects.scores_by_chip(output, test, ("ship", "tank"), objects.by_boxes(output, test))


def test_predictions_are_written_and_read_back() -> None:
    found = scores(answers(*BOXES), split(BOXES[0]))
    assert list(found) == ["0" * 16] and list(found["0" * 16]) == ["ship"]
    item = found["0" * 16]["ship"]
    assert item.objects == 1 and len(item.right) == len(item.wrong) == 1
    lines = [objects.COLUMNS, *objects.rows({**found, "empty": {}})]
    text = "\n".join(",".join(line) for line in lines)
    again = task.parse_predictions(text, "test")
    assert again["empty"] == {} and again["0" * 16]["ship"].right == pytest.approx(item.right)


@pytest.mark.parametrize(
    "text", ["block,actual\na,b\n", "chip,class,objects,right,wrong\na,b,c,,\n"]
)
def test_another_table_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="main is not a table of boxes by chip"):
        task.parse_predictions(text, "main")


def test_a_model_that_finds_less_is_a_loss() -> None:
    good = {str(n): scores(answers(*BOXES), split(*BOXES))["0" * 16] for n in range(9)}
    blind = {chip: {"ship": Found(2, (), ())} for chip in good}
    same = task.compare(good, good, 200)
    assert same is not None and not same.is_loss and same.champion == 1
    lost = task.compare(good, blind, 200)
    assert lost is not None and lost.is_loss and (lost.fixed, lost.broken) == (0, 9)
    assert task.compare(good, {"other": {}}, 200) is None


def test_the_weakest_size_has_enough_objects() -> None:
    sizes = {"tiny": [1, 4], "small": [12, 20], "medium": [9, 10], "large": [0, 0]}
    classes = {"ship": {"sizes": sizes}}
    assert task._weakest(classes) == ("small", 0.6)
    assert task._weakest({"ship": {"sizes": {"tiny": [0, 9]}}}) is None


@pytest.mark.parametrize("threshold", [-0.1, 1.5, "high"])
def test_a_bundle_with_a_threshold_out_of_range_is_refused(
    threshold: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("bundle") / "model"
    document = harbours.make_bundle(folder, threshold=threshold).joinpath("model.json").read_bytes()
    with pytest.raises(ValueError, match="threshold"):
        parse_manifest(document)
