"""A process that runs the graph on tiles, which lie in memory that it shares with its parent.

It reads `Setup` as a line of JSON, then the graph, then one task a line; it answers each with a
line. It ends when its parent does: then there is nothing more to read. It knows nothing of GDAL.
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one

import json
import mmap
import os
import sys
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
TILE_OUTPUTS = ["labels", "confidence"]
SAMPLE_OUTPUTS = [*TILE_OUTPUTS, "statistics"]
BATCH = 16  # chips of a sample that run at once


class Setup(NamedTuple):
    """What all tasks have in common."""

    graph: int
    """Bytes of the graph."""
    dtype: str
    bands: int
    slots: int
    strip: tuple[int, int]
    """Rows and columns of a strip, without its margin."""
    tile: tuple[int, int]
    """Of a tile, without its margin."""
    margin: int
    window: int
    """Edge of the windows that are blended, pixels; 0 where tiles are exact."""
    classes: int
    nodata: int
    """Label and confidence of a pixel without data."""


class Memory:
    """Strips in shared memory: what goes in (bands, rows, columns), and labels and confidence."""

    def __init__(self, handle: int, setup: Setup) -> None:
        """Map the file behind a descriptor, which has at least `size_of(setup)` bytes."""
        content = mmap.mmap(handle, size_of(setup))
        inputs, outputs = _shapes(setup)
        size = int(np.prod(inputs)) * np.dtype(setup.dtype).itemsize
        self.inputs = np.frombuffer(content, setup.dtype, int(np.prod(inputs))).reshape(inputs)
        """(slots, bands, rows, columns), with the margin."""
        self.outputs = np.frombuffer(content, np.uint8, -1, size).reshape(outputs)
        """(slots, 2, rows, columns)."""


def size_of(setup: Setup) -> int:
    """Bytes of the memory."""
    inputs, outputs = _shapes(setup)
    return int(np.prod(inputs)) * np.dtype(setup.dtype).itemsize + int(np.prod(outputs))


def _shapes(setup: Setup) -> tuple[tuple[int, ...], tuple[int, ...]]:
    rows, columns = setup.strip
    around = 2 * setup.margin
    inputs = (setup.slots, setup.bands, rows + around, columns + around)
    return inputs, (setup.slots, 2, rows, columns)


class Mapper:
    """The graph, on one tile after the other."""

    def __init__(self, graph: bytes, setup: Setup) -> None:
        """Open the session."""
        self._setup = setup
        self._nodata = setup.nodata
        # The parent, which knows `Setup` and `Memory`, needs no runtime.
        from service.inference.providers import open_session

        self._session = open_session(graph, "cpu", lean=True)

    def map_tile(self, tile: Array) -> Array:
        """(bands, rows, columns) with the margin -> labels and confidence (2, rows, columns)."""
        margin = self._setup.margin
        if self._setup.window:
            return self._blend(tile)
        labels, confidence = self._run(tile)
        stop = tuple(edge - margin for edge in labels.shape)
        return np.stack([a[margin : stop[0], margin : stop[1]] for a in (labels, confidence)])

    def _run(self, chip: Array) -> tuple[Array, Array]:
        chips = np.ascontiguousarray(chip)[None]
        labels, confidence = self._session.run(TILE_OUTPUTS, {"chips": chips})
        return labels[0], confidence[0]

    def _blend(self, tile: Array) -> Array:
        """Let windows that overlap by half vote for classes, by confidence and a Hann window.

        The windows lie on a grid of the scene, and each pixel adds the same four votes in the same
        order, so that the map does not depend on the tiles.
        """
        window, step = self._setup.window, self._setup.margin
        rise = np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2
        weight = np.outer(rise, rise).astype(np.float32)
        shape = tile.shape[1:]
        votes = np.zeros((self._setup.classes, *shape), np.float32)
        total = np.zeros(shape, np.float32)
        for top in range(0, shape[0] - window + 1, step):
            for left in range(0, shape[1] - window + 1, step):
                part = np.s_[top : top + window, left : left + window]
                labels, confidence = self._run(tile[(slice(None), *part)])
                known = labels != self._nodata
                for label in np.unique(labels[known]):
                    chosen = labels == label
                    votes[(label, *part)] += np.where(chosen, weight * confidence, 0)
                total[part] += np.where(known, weight, 0)
        inner = np.s_[step : shape[0] - step, step : shape[1] - step]
        votes, total = votes[(slice(None), *inner)], total[inner]
        labels = votes.argmax(axis=0).astype(np.uint8)
        confidence = np.rint(votes.max(axis=0) / np.maximum(total, 1e-9)).astype(np.uint8)
        nothing = total == 0
        return np.stack([np.where(nothing, self._nodata, a) for a in (labels, confidence)]).astype(
            "u1"
        )

    def sample(self, chips: Array) -> dict[str, Any]:
        """What the graph says about chips (n, bands, H, W): statistics, largest class, confidence.

        A chip without data has class -1.
        """
        found: dict[str, list[Any]] = {"statistics": [], "classes": [], "confidence": []}
        for start in range(0, len(chips), BATCH):
            batch = np.ascontiguousarray(chips[start : start + BATCH])
            labels, confidence, statistics = self._session.run(SAMPLE_OUTPUTS, {"chips": batch})
            found["statistics"] += statistics.tolist()
            for chip, sure in zip(labels, confidence, strict=True):
                known = chip != self._nodata
                largest = int(np.bincount(chip[known]).argmax()) if known.any() else -1
                found["classes"].append(largest)
                found["confidence"].append(float(sure[known].mean()) / 100 if known.any() else 0.0)
        return found


def answer(task: dict[str, Any], mapper: Mapper, memory: Memory, setup: Setup) -> dict[str, Any]:
    """Do one task: map a tile of a slot, or answer chips that lie in it."""
    slot = task["slot"]
    if "sample" in task:
        shape = tuple(task["sample"])
        chips = memory.inputs[slot].reshape(-1)[: int(np.prod(shape))].reshape(shape)
        return mapper.sample(chips)
    rows, columns = setup.tile
    around, left = 2 * setup.margin, task["left"]
    tile = memory.inputs[slot][:, :, left : left + columns + around]
    memory.outputs[slot][:, :, left : left + columns] = mapper.map_tile(tile)
    return {}


def serve(lines: IO[bytes], answers: IO[bytes], handle: int) -> None:
    """Do tasks until the parent closes the pipe."""
    fields = json.loads(lines.readline())
    for name in ("strip", "tile"):
        fields[name] = tuple(fields[name])
    setup = Setup(**fields)
    memory = Memory(handle, setup)
    mapper = Mapper(lines.read(setup.graph), setup)
    for line in lines:
        try:
            found = answer(json.loads(line), mapper, memory, setup)
        except Exception as error:  # the runtime's errors share no base but this
            found = {"error": f"{type(error).__name__}: {error}"[:300]}
        answers.write(json.dumps(found).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    # What libraries print must not get between the answers.
    to_parent = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, to_parent, int(sys.argv[1]))
