"""Instances: the loss of masks, what of it is graph, and measures that a hand can check."""

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data import masks
from pipeline.data.chip_table import Row
from pipeline.data.dataset import MOST_OBJECTS, Dataset
from pipeline.data.prepared import Split
from pipeline.params import Gate
from pipeline.tasks import instances as task
from pipeline.tasks import centres, objects, prototypes
from pipeline.tasks.prototypes import PROTOTYPES

BOXES = ((4.0, 6.0, 16.0, 14.0), (18.0, 20.0, 28.0, 30.0))
SIZE = 32


def shape(box: tuple[float, ...], full: bool = False) -> np.ndarray:
    """Pixels (SIZE, SIZE) of a box; its upper half is left out unless it is full."""
    left, top, right, bottom = map(int, box)
    found = np.zeros((SIZE, SIZE), bool)
    found[top if full else (top + bottom) // 2 : bottom, left:right] = True
    return found


def targets(*boxes: tuple[float, ...]) -> torch.Tensor:
    """One chip with the lower halves of these boxes, (1, MOST_OBJECTS, 5 + E)."""
    found = np.full((1, MOST_OBJECTS, masks.WIDTH), -1, np.float32)
    for number, box in enumerate(boxes):
        cells = masks.sample(shape(box), np.array(box))
        found[0, number] = (0, *box, *masks.pack(cells))
    return torch.from_numpy(found)


def logits(wanted: np.ndarray, strength: float = 1.0) -> torch.Tensor:
    """Logits of a chip whose first prototype is what is wanted, and whose boxes are elsewhere."""
    high = SIZE // task.STEP
    found = torch.zeros(1, 5 + 2 * PROTOTYPES, high, high)
    found[:, 0] = -8
    found[:, 5] = strength
    halves = torch.from_numpy(wanted[::2, ::2].astype(np.float32))
    found[:, 5 + PROTOTYPES] = 16 * halves - 8
    return found


def test_right_masks_have_less_loss_than_none_and_wrong_ones_more() -> None:
    wanted = targets(*BOXES)
    true = shape(BOXES[0]) | shape(BOXES[1])
    boxes_alone = centres.loss(logits(true)[:, :5], wanted[..., :5]).item()
    right, unsure, wrong = (
        task.loss(found, wanted).item() - boxes_alone
        for found in (logits(true), logits(true, 0), logits(~true))
    )
    assert 0 < right < 0.4 < unsure < wrong


def test_a_chip_without_objects_has_a_loss_that_is_no_nan_and_a_gradient() -> None:
    found = torch.zeros(2, 6 + 2 * PROTOTYPES, 8, 8, requires_grad=True)
    loss = task.loss(found, torch.full((2, MOST_OBJECTS, masks.WIDTH), -1.0))
    loss.backward()
    assert np.isfinite(loss.item()) and found.grad is not None
    assert torch.isfinite(found.grad).all()


def test_many_chips_have_the_mean_loss_of_their_objects() -> None:
    true = logits(shape(BOXES[0]))
    few, many = targets(BOXES[0]), torch.cat([targets(BOXES[0])] * 70)  # more than AT_ONCE
    assert task.loss(true, few).item() == pytest.approx(
        task.loss(torch.cat([true] * 70), many).item(), rel=1e-5
    )


def test_the_lines_of_torch_are_those_of_numpy() -> None:
    cells = np.random.default_rng(0).random((2, 3, masks.EDGE, masks.EDGE)) < 0.5
    lines = torch.from_numpy(masks.pack(cells))
    assert np.array_equal(prototypes.unpack(lines).numpy().astype(bool), cells)
    assert torch.equal(prototypes.pack(torch.from_numpy(cells)), lines)


def test_maps_are_sampled_between_their_cells_and_no_further() -> None:
    line = torch.arange(16.0)
    maps = torch.stack((line.expand(16, 16), line[:, None].expand(16, 16)))[None]  # (1, 2, 16, 16)
    boxes = torch.tensor([[[-8.0, 2.0, 40.0, 26.0]]])
    found = prototypes.combine(maps, boxes, torch.eye(2)[None, None])[0, 0]
    place = (np.arange(masks.EDGE) + 0.5) / masks.EDGE
    x, y = (-8 + 48 * place) / 2 - 0.5, (2 + 24 * place) / 2 - 0.5
    assert np.allclose(found[0].numpy(), x.clip(0, 15)[None], atol=1e-5)
    assert np.allclose(found[1].numpy(), y.clip(0, 15)[:, None], atol=1e-5)
    grid = torch.from_numpy(np.stack(np.meshgrid(x, y), axis=-1) * 2 / 16 - 15 / 16)[None].float()
    other = torch.nn.functional.grid_sample(maps, grid, padding_mode="border", align_corners=False)
    assert torch.allclose(found, other[0], atol=1e-5), "as torch samples"


def test_what_borders_on_no_data_keeps_its_mask() -> None:
    found = logits(shape(BOXES[1]))
    found[0, 0, 12, 11] = 8  # the centre of the box
    edges = torch.tensor([5.0, 5.0, 5.0, 5.0])
    found[0, 1:5] = torch.log(edges / 4)[:, None, None]
    full, empty = torch.ones(1, 4, SIZE, SIZE), torch.ones(1, 4, SIZE, SIZE)
    empty[:, :, :18] = 0
    answers = [task.answer(found, numbers, 0) for numbers in (full, empty)]
    (_, scores, _, ours), (_, others, _, theirs) = answers
    assert scores[0, 0] > 0.9 and scores[0, 0] == others[0, 0]
    assert torch.equal(ours[0, 0], theirs[0, 0]) and ours[0, 0].float().std() > 50


def answers(*found: tuple[tuple[float, ...], bool], score: float = 0.9) -> dict[str, Any]:
    """What the graph answers for one chip: boxes, and whether their masks are full."""
    edge, output = masks.EDGE, {"labels": np.zeros((1, MOST_OBJECTS), np.int64)}
    output["boxes"] = np.zeros((1, MOST_OBJECTS, 4), np.float32)
    output["scores"] = np.zeros((1, MOST_OBJECTS), np.float32)
    output["masks"] = np.zeros((1, MOST_OBJECTS, edge, edge), np.uint8)
    for number, (box, full) in enumerate(found):
        output["boxes"][0, number], output["scores"][0, number] = box, score
        output["masks"][0, number] = 255 * masks.sample(shape(box, full), np.array(box))
    return output


def split(*boxes: tuple[float, ...]) -> Split:
    row = Row(0, "images/a.tif", "port", "0" * 64, split="test")
    return Split(np.ones((1, 4, SIZE, SIZE), np.uint16), targets(*boxes).numpy(), [row])


def test_an_object_is_found_if_its_mask_is() -> None:
    inside = (4.0, 6.0, 16.0, 16.0)
    output = answers((BOXES[0], False), (BOXES[1], True), (inside, False))
    chips = split(*BOXES)
    every = np.zeros(MOST_OBJECTS, bool)
    every[:3] = True
    iou = task.by_masks(output, chips)(0, every, chips.labels[0][:, 0] >= 0)
    assert iou[0].tolist() == [1, 0]
    assert iou[1].tolist() == [0, 0.5], "the box is right, and its mask is twice as large"
    assert iou[2, 0] == 0.5, "3 lines of 6"
    boxes = objects.by_boxes(output, chips)(0, every, chips.labels[0][:, 0] >= 0)
    assert boxes[1].tolist() == [0, 1]


def test_scores_go_by_masks_and_by_boxes_apart() -> None:
    thin = (4.0, 6.0, 16.0, 8.0)
    output = answers((BOXES[0], True), (thin, True))
    output["masks"][0, 0, 8:] = 0  # the upper third alone: not the object
    chips, data = split(BOXES[0]), Dataset.model_construct(classes=("ship",))
    by_masks = task.predictions(output, chips, data, None)["0" * 16]["ship"]  # type: ignore
    by_boxes = objects.scores_by_chip(output, chips, ("ship",), objects.by_boxes(output, chips))
    assert len(by_masks.right) == 0 and len(by_masks.wrong) == 2
    assert len(by_boxes["0" * 16]["ship"].right) == 1
    found = task.compare({"a": {"ship": by_masks}}, by_boxes and {"a": by_boxes["0" * 16]}, 50)
    assert found is not None and found.measure == "mask AP50" and found.challenger > 0


def test_answers_are_compared_mask_by_mask_in_any_order() -> None:
    one = answers((BOXES[0], False), (BOXES[1], True))
    assert task.difference(one, answers((BOXES[1], True), (BOXES[0], False))) == 0
    assert task.difference(one, answers((BOXES[0], True), (BOXES[1], True))) == pytest.approx(0.5)
    rounded = one | {"masks": one["masks"].copy()}
    rounded["masks"][0, 0, 0, :6] ^= 1
    assert 0 < task.difference(one, rounded) < task.PARITY


def test_the_gate_and_the_headline_tell_masks_from_boxes() -> None:
    metrics = dict.fromkeys(
        ("mask_ap50", "mask_ap50_low", "mask_ap50_high", "f1", "threshold", "recall"), 0.5
    ) | {"ap50": 0.75, "test_objects": 9, "test_chips": 3, "test_groups": 1}
    said = task.headline(metrics)
    assert said.startswith("Mask AP50 **0.500**") and said.endswith("Box AP50 0.750.")
    fields: dict[str, Any] = {"min_accuracy": 0, "min_recall": 0, "max_calibration_error": 1}
    fields |= {"max_latency": 1, "max_model_size": 1, "compare": True}
    gate = Gate(**fields, min_ap50=0.8, min_mask_ap50=0.4)
    checks = {check.name: check.passed for check in task.floors(metrics, {}, gate)}
    assert checks == {
        "mask AP50": True,
        "box AP50": False,
        "recall of all objects (the lowest)": True,
    }
