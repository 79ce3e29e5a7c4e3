"""The runtime alone: what the machine could do if serving cost nothing.

`session.run` in a loop on one input in memory, one thread of the runtime a call, no spinning. Both
ways to use two cores are tried, a process a core and a thread a core, over batches of 1 to 16; the
best of them is what servers are held against. It is chosen once and measured afresh in each round.

    python -m benchmarks.serving.raw BUNDLE CHIP THREADS

is the child: it reads `batch seconds` from standard input, line by line, and answers with JSON.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime

BATCHES = (1, 2, 4, 8, 16)
TRIAL = 0.4  # seconds of each arrangement, twice


class Way(NamedTuple):
    """An arrangement of the loop."""

    processes: int
    threads: int
    batch: int

    def __str__(self) -> str:
        return f"{self.processes} process(es) x {self.threads} thread(s), batch {self.batch}"


class Rate(NamedTuple):
    """What a loop reached."""

    images: float
    """Images a second."""
    cpu: float
    """CPU microseconds an image."""


class Raw:
    """Children that wait, and run the loop when asked."""

    def __init__(self, pools: dict[tuple[int, int], list["subprocess.Popen[str]"]]) -> None:
        self._pools = pools
        self.way = Way(1, 1, 1)
        self.trials: dict[Way, float] = {}

    def choose(self) -> None:
        """Find the fastest arrangement."""
        ways = [Way(*pool, batch) for pool in self._pools for batch in BATCHES]
        for _ in range(2):
            for way in ways:
                self.trials[way] = self.trials.get(way, 0) + self._run(way, TRIAL).images / 2
        self.way = max(ways, key=lambda way: self.trials[way])

    def measure(self, seconds: float) -> Rate:
        """Run the chosen arrangement."""
        return self._run(self.way, seconds)

    @property
    def pids(self) -> list[int]:
        """All children."""
        return [child.pid for pool in self._pools.values() for child in pool]

    def _run(self, way: Way, seconds: float) -> Rate:
        pool = self._pools[way.processes, way.threads]
        for child in pool:
            assert child.stdin
            child.stdin.write(f"{way.batch} {seconds}\n")
            child.stdin.flush()
        answers = []
        for child in pool:
            assert child.stdout
            answers.append(json.loads(child.stdout.readline()))
        images = sum(answer["images"] for answer in answers)
        rate = sum(answer["images"] / answer["seconds"] for answer in answers)
        return Rate(rate, sum(answer["cpu"] for answer in answers) / images * 1e6)


@contextmanager
def running(folder: Path, chip: Path) -> Iterator[Raw]:
    """Start the children; end them on leaving."""
    cores = os.cpu_count() or 1
    line = [sys.executable, "-m", "benchmarks.serving.raw", str(folder), str(chip)]
    with ExitStack() as stack:
        pools: dict[tuple[int, int], list[subprocess.Popen[str]]] = {}
        for processes, threads in {(cores, 1), (1, cores)}:
            pools[processes, threads] = [
                stack.enter_context(_child([*line, str(threads)])) for _ in range(processes)
            ]
        raw = Raw(pools)
        raw.choose()
        yield raw


@contextmanager
def _child(line: list[str]) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def session(folder: Path) -> onnxruntime.InferenceSession:
    """One thread a call, which sleeps when there is nothing to do."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        folder / "model.onnx", options, providers=["CPUExecutionProvider"]
    )


def answer(folder: Path, chip: Path) -> npt.NDArray[np.float32]:
    """Give the probabilities of the chip: what every server must answer."""
    outputs = session(folder).run(["probabilities"], {"chips": np.load(chip)[None]})
    probabilities: npt.NDArray[np.float32] = outputs[0][0]
    return probabilities


def loop(model: onnxruntime.InferenceSession, chips: npt.NDArray[Any], end: float) -> int:
    """Run until the clock says `end`; give the number of images."""
    images = 0
    while time.perf_counter() < end:
        model.run(None, {"chips": chips})
        images += len(chips)
    return images


def _answer_line(
    model: onnxruntime.InferenceSession, chip: npt.NDArray[Any], threads: int, line: str
) -> dict[str, float]:
    batch, seconds = line.split()
    chips = np.ascontiguousarray(np.repeat(chip[None], int(batch), axis=0))
    model.run(None, {"chips": chips})  # the first run of a shape plans its memory
    counts: list[int] = []
    started, cpu = time.perf_counter(), time.process_time()
    end = started + float(seconds)
    workers = [
        threading.Thread(target=lambda: counts.append(loop(model, chips, end)))
        for _ in range(threads)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    cpu, taken = time.process_time() - cpu, time.perf_counter() - started
    return {"images": sum(counts), "seconds": taken, "cpu": cpu}


def main() -> None:
    """Be the child."""
    folder, chip, threads = sys.argv[1:]
    model, pixels = session(Path(folder)), np.load(chip)
    for line in sys.stdin:
        print(json.dumps(_answer_line(model, pixels, int(threads), line)), flush=True)


if __name__ == "__main__":
    main()
