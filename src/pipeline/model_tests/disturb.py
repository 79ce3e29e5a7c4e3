"""What is done to the chips, and how the answers come back into the frame of the labels.

In the shapes below N is a number of chips, S the edge of a chip. Boxes are (..., 4): left, top,
right, bottom, pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.bundle import NODATA
from pipeline.data import masks
from pipeline.data.dataset import Dataset
from pipeline.data.prepared import Split
from pipeline.tasks.task import Output

Chips = npt.NDArray[Any]
"""(N, bands, S, S), digital numbers."""
Rule = Callable[[Chips, int], Chips]
"""Change chips; the number is the place of the first one, which seeds what is random."""


# Light and noise: the ground stays where it is


def gain(dataset: Dataset, factor: float) -> Rule:
    """Multiply the physical values, not the digital numbers: an offset stays."""

    def change(chips: Chips, first: int) -> Chips:
        values = (chips.astype(np.float32) + dataset.offset) * factor - dataset.offset
        return _digital(values, chips, dataset)

    return change


def noise(dataset: Dataset, sigma: float, band: int | None = None) -> Rule:
    """Add normal noise, in the units of the data; to one band, or to all."""

    def change(chips: Chips, first: int) -> Chips:
        values = chips.astype(np.float32)
        some = slice(None) if band is None else slice(band, band + 1)
        for number, chip in enumerate(values):
            rng = np.random.default_rng((first + number, band or 0))
            chip[some] += rng.normal(0, sigma * dataset.scale, chip[some].shape)
        return _digital(values, chips, dataset)

    return change


def _digital(values: npt.NDArray[np.float32], before: Chips, dataset: Dataset) -> Chips:
    """Round to what a file can hold; pixels without data stay so, and no other becomes one."""
    found = np.clip(np.rint(values), int(dataset.nodata == 0), dataset.valid_max)
    found = found.astype(before.dtype)
    if dataset.nodata is not None:
        empty = (before == dataset.nodata).all(axis=1, keepdims=True)
        found = np.where(empty, before, found)
    return np.ascontiguousarray(found)


# Moves: the ground lies elsewhere, and the answers with it


@dataclass(frozen=True)
class Move:
    """Mirror a chip, turn it by quarters, and shift it; the answers are moved back."""

    is_flipped: bool = False
    quarters: int = 0
    down: int = 0
    right: int = 0

    def rule(self, dataset: Dataset) -> Rule:
        """What enters at an edge is as in training: the mirrored inside, or nothing for boxes."""

        def change(chips: Chips, first: int) -> Chips:
            moved = chips[..., ::-1] if self.is_flipped else chips
            moved = np.rot90(moved, self.quarters, axes=(-2, -1))
            return np.ascontiguousarray(self._shift(moved, self.down, self.right, dataset))

        return change

    def _shift(self, chips: Chips, down: int, right: int, dataset: Dataset) -> Chips:
        most, size = max(abs(down), abs(right)), chips.shape[-1]
        room = ((0, 0), (0, 0), (most, most), (most, most))
        if dataset.has_objects:
            wide = np.pad(chips, room, "constant", constant_values=dataset.nodata or 0)
        else:
            wide = np.pad(chips, room, "reflect")
        top, left = most - down, most - right
        return wide[..., top : top + size, left : left + size]

    def back(self, output: Output, dataset: Dataset) -> dict[str, npt.NDArray[Any]]:
        """The answers for moved chips, where the labels have the ground."""
        if dataset.labels == "folders":
            return dict(output)
        if dataset.has_objects:
            back = {"boxes": self._boxes_back(output["boxes"], dataset.size)}
            if "masks" in output:  # cells of the boxes: they are not shifted
                turned = np.rot90(output["masks"], -self.quarters, axes=(-2, -1))
                back["masks"] = turned[..., ::-1] if self.is_flipped else turned
            return dict(output) | back
        return {name: self._map_back(of) for name, of in output.items()}

    def _map_back(self, maps: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(N, S, S); without an answer where the ground had left the chip."""
        most, size = max(abs(self.down), abs(self.right)), maps.shape[-1]
        wide = np.pad(maps, ((0, 0), (most, most), (most, most)), constant_values=NODATA)
        top, left = most + self.down, most + self.right
        found = np.rot90(
            wide[:, top : top + size, left : left + size], -self.quarters, axes=(-2, -1)
        )
        return np.ascontiguousarray(found[..., ::-1] if self.is_flipped else found)

    def _boxes_back(self, boxes: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
        left, top, right, bottom = np.moveaxis(boxes, -1, 0)
        left, right = left - self.right, right - self.right
        top, bottom = top - self.down, bottom - self.down
        for _ in range(self.quarters % 4):
            left, top, right, bottom = size - bottom, left, size - top, right
        if self.is_flipped:
            left, right = size - right, size - left
        return np.stack((left, top, right, bottom), axis=-1)

    def seen(self, output: Output, split: Split, dataset: Dataset) -> tuple[Output, Split]:
        """Answers and labels of the ground that stays in the chip: both models are judged there.

        An object belongs to it if its centre does, and is cut off at its edge, as in the data.
        """
        size, down, right = dataset.size, self.down, self.right
        if not down and not right or dataset.labels == "folders":
            return output, split
        top, bottom = max(0, -down), size - max(0, down)
        left, end = max(0, -right), size - max(0, right)
        if dataset.labels == "maps":
            labels = np.full_like(output["labels"], NODATA)
            inside = (slice(None), slice(top, bottom), slice(left, end))
            labels[inside] = output["labels"][inside]
            return dict(output) | {"labels": labels}, split
        window = np.array((left, top, end, bottom), np.float32)
        found, is_found = _cut(output["boxes"], window)
        labels = np.asarray(split.labels)
        true, is_true = _cut(labels[..., 1:5], window)
        names = np.where(is_true, labels[..., 0], -1)[..., None]
        scores = np.where(is_found, output["scores"], 0)
        seen, lines = dict(output) | {"boxes": found, "scores": scores}, labels[..., 5:]
        if dataset.labels == "masks":
            seen["masks"] = masks.recut(output["masks"], output["boxes"], found)
            lines = masks.pack(masks.recut(masks.unpack(lines), labels[..., 1:5], true))
        return seen, split._replace(labels=np.concatenate((names, true, lines), axis=-1))


def _cut(
    boxes: npt.NDArray[Any], window: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Boxes cut off at a window, and whether their centres lie in it."""
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    inside = ((centres >= window[:2]) & (centres < window[2:])).all(axis=-1)
    low, high = np.tile(window[:2], 2), np.tile(window[2:], 2)
    return boxes.clip(low, high), inside
