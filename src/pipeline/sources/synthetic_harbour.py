"""Simulated harbours with boxes of ships and storage tanks, and masks, by the sample's simulator.

A chip is water with a quay of paved ground. Ships lie in the water, some with a wake; tanks stand
on the quay. What the simulator lays out it also writes down as boxes, and with `--masks` as pixels:
those that an object covers by more than half. A harbour is a group: its chips have water of one
colour, in one season.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Self

import numpy as np
import numpy.typing as npt

from contracts.masks import Rle, encode_rle
from pipeline.data.boxes import BOXES, IMAGES, Object, Objects
from pipeline.data.dataset import Dataset
from pipeline.errors import SourceError
from pipeline.sources import painters
from pipeline.sources.scene import CELL, GRID, Array, Scene, mix, soft
from pipeline.sources.source import File
from pipeline.sources.synthetic import (
    RESOLUTION,
    geotiff,
    observe,
    simulated,
)

CLASSES = ("ship", "tank")
MOST = 99  # harbours, and chips of one
SHIPS, TANKS = (1, 5), (0, 4)  # of a chip
TRIES = 20  # places that are tried for an object
APART = 20.0  # metres around an object that no other one has


class SyntheticHarbour:
    """Simulated harbours: the same bytes for the same seed.

    Raises:
        SourceError: an option is out of range.
    """

    def __init__(
        self, harbours: int = 12, chips: int = 20, seed: int = 0, masks: bool = False
    ) -> None:
        for option, value, least in (("harbours", harbours, 3), ("chips", chips, 1)):
            if not least <= value <= MOST:
                raise SourceError(f"--{option} is {value}; choose {least} to {MOST}")
        if seed < 0:
            raise SourceError(f"--seed is {seed}; choose 0 or more")
        self._harbours, self._chips, self._seed = harbours, chips, seed
        self._masks = masks

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Declare how many harbours, and which."""
        parser.add_argument("--harbours", type=int, default=12, help="3 to 99 (default: 12)")
        parser.add_argument("--chips", type=int, default=20, help="of each (default: 20)")
        parser.add_argument("--seed", type=int, default=0, help="another seed, another coast")
        parser.add_argument("--masks", action="store_true", help="with the pixels of each object")

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Self:
        """Build the simulator."""
        return cls(arguments.harbours, arguments.chips, arguments.seed, arguments.masks)

    def dataset(self) -> Dataset:
        """Describe the chips."""
        labels = "masks" if self._masks else "boxes"
        return simulated("harbour-sample", CLASSES, "synthetic_harbour", labels=labels)

    def files(self) -> Iterator[File]:
        """Yield each chip and its boxes, harbour by harbour."""
        for harbour in range(self._harbours):
            group = f"harbour-{harbour:02d}"
            rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(harbour,)))
            vigour, turbidity = rng.uniform(0.2, 0.9), rng.uniform(0, 0.7)
            for number in range(self._chips):
                scene = Scene(rng, vigour)
                ground, objects = _paint(scene, turbidity, self._masks)
                west = 640.0 * (harbour * MOST + number)
                name = f"{group}_{number:02d}"
                yield File(f"{IMAGES}/{name}.tif", geotiff(observe(ground, rng), west, 0.0))
                text = Objects(group=group, objects=objects).model_dump_json(by_alias=True)
                yield File(f"{BOXES}/{name}.json", f"{text}\n".encode())

    def __len__(self) -> int:
        return 2 * self._harbours * self._chips


def _paint(scene: Scene, turbidity: float, masks: bool) -> tuple[Array, tuple[Object, ...]]:
    """Ground (4, GRID, GRID) reflectance, and what stands in it."""
    ground: Array = painters.water(scene, turbidity) * scene.texture(40, 0.03)
    _, across = scene.axes(bend=scene.draw(0, 20))
    shore = scene.draw(-100, 200)  # metres from the middle
    quay = mix(scene.material("concrete"), scene.material("asphalt"), scene.patches(90, 0.5))
    if scene.chance(0.5):
        quay = mix(quay, scene.material("grass"), scene.patches(120, 0.3))
    ground = mix(ground, quay * scene.texture(60, 0.05), soft((across - shore) / CELL))
    distance = across - shore  # from the water's edge, metres; positive on land
    taken: npt.NDArray[np.bool_] = np.zeros((GRID, GRID), bool)
    objects = []
    for name, (least, most) in zip(CLASSES, (SHIPS, TANKS), strict=True):
        for _ in range(int(scene.rng.integers(least, most + 1))):
            found = _place(scene, name, distance, taken)
            if found is None:
                continue
            body, wake = found
            material = "metal roof" if name == "tank" else scene_colour(scene)
            ground = mix(ground, scene.material("sand"), 0.25 * wake)
            ground = mix(ground, scene.material(material), body)
            mask = _mask(body) if masks else None
            objects.append(Object(**{"class": name}, box=_box(body), mask=mask))
    return ground, tuple(objects)


def scene_colour(scene: Scene) -> str:
    """Material of a ship's deck."""
    return ("metal roof", "clay tile", "concrete")[scene.rng.integers(3)]


def _place(
    scene: Scene, name: str, distance: Array, taken: npt.NDArray[np.bool_]
) -> tuple[Array, Array] | None:
    """Shape and wake of an object where it has room, 0..1; None where it has none."""
    for _ in range(TRIES):
        along, across = scene.axes()
        along, across = along - scene.draw(-290, 290), across - scene.draw(-290, 290)
        if name == "tank":
            radius = scene.draw(20, 40)
            body, wake = soft((radius - np.hypot(along, across)) / CELL), np.zeros_like(along)
        else:
            length, width = scene.draw(60, 220), scene.draw(20, 36)
            bow = width * np.clip(along / length - 0.3, 0, 0.2) * 4  # it narrows to the front
            body = soft((length / 2 - np.abs(along)) / CELL) * soft(
                ((width - bow) / 2 - np.abs(across)) / CELL
            )
            behind = soft((-along - length / 2) / CELL) * soft((length / 2 + along + 150) / CELL)
            wake = behind * soft((width / 3 - np.abs(across)) / CELL) * scene.chance(0.4)
        solid = body > 0.5
        edge = np.zeros_like(solid)
        edge[:2], edge[-2:], edge[:, :2], edge[:, -2:] = True, True, True, True
        stands = (
            distance[solid].min(initial=9e9) > 5
            if name == "tank"
            else (distance[solid].max(initial=-9e9) < -5)
        )
        reach = int(APART // CELL)
        if solid.any() and stands and not (solid & (edge | taken)).any():
            for shift in range(-reach, reach + 1, reach):
                for axis in (0, 1):
                    taken |= np.roll(solid, shift, axis)
            return body, wake
    return None


def _box(body: Array) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of what is covered, pixels."""
    rows, columns = (np.flatnonzero((body > 0.5).any(axis=axis)) for axis in (1, 0))
    cells = RESOLUTION / CELL
    left, top = float(columns[0] / cells), float(rows[0] / cells)
    return left, top, float((columns[-1] + 1) / cells), float((rows[-1] + 1) / cells)


def _mask(body: Array) -> Rle:
    """The pixels that are covered by more than half."""
    cells = int(RESOLUTION / CELL)
    pixels = body.reshape(GRID // cells, cells, GRID // cells, cells).mean(axis=(1, 3)) > 0.5
    return Rle(size=pixels.shape, counts=tuple(encode_rle(pixels, 0, 0, pixels.shape)))
