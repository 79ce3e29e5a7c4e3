"""What a batch costs beside the bare runtime.

    python -m benchmarks.batch [--bundle model] [--images 30000] [--rounds 3]

Without --bundle the model is the reference network of `make bench-serving`, with random weights. A
list names 1,000 chips (uncompressed TIFF, in the page cache) again and again, and `python -m
service batch` predicts them. Before and after each batch ONNX Runtime alone runs the same graph on
the same chips, decoded and in memory, in as many processes with one thread each: one image at a
time, as `/predict` does it, and 16. Efficiency is CPU-seconds of the runtime over those of the
whole command with its children: start, reading, decoding, Parquet. A batch of one image tells what
is the start.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tifffile

from benchmarks import machine
from benchmarks.serving.bundle import make
from pipeline.params import read_params
from service.inference.bundle import Bundle, decode_chip, read_bundle
from service.inference.providers import open_session
from service.inference.tasks import task_of
from service.settings import cores

CHIPS = 1000
TOGETHER = 16
BARE_RUNS = 3  # over all chips, of which the median counts
_bare: list[tuple[Any, list[str], "Chips"]] = []  # of a process that measures

Chips = npt.NDArray[Any]


class Run(NamedTuple):
    """One batch."""

    wall: float
    cpu: float


def main() -> None:
    """Measure and print."""
    options = _options()
    if options.bundle is None:
        options.bundle = make("tiff", "reference", read_params()).folder
    bundle = read_bundle(options.bundle)
    chips = vary(bundle)
    print(f"{machine.line()}; load {os.getloadavg()[0]:.1f}; n = {options.rounds} rounds")
    print(f"{options.images} images {chips.shape[1:]}, {options.workers} workers")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        few, many = write(chips, Path(folder), options.images)
        bare: dict[int, list[float]] = {1: [], TOGETHER: []}
        runs, starts = [], []
        given = (bundle.graph, list(task_of(bundle.manifest).outputs), chips)
        spawn = get_context("spawn")
        with ProcessPoolExecutor(options.workers, spawn, begin_bare, given) as pool:
            for _ in range(options.rounds):
                measure_bare(pool, options.workers, bare)
                starts.append(run(few, options))
                runs.append(run(many, options))
                measure_bare(pool, options.workers, bare)
    report(options.images, bare, runs, starts)


def _options() -> Namespace:
    parser = ArgumentParser(prog="python -m benchmarks.batch", description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="default: the reference network")
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument("--folder", type=Path, help="for the chips; default: the system's")
    return parser.parse_args()


def vary(bundle: Bundle) -> Chips:
    """Chips like the golden ones, all different."""
    wanted = bundle.manifest.input
    golden = [decode_chip(one.chip, wanted) for one in bundle.manifest.golden]
    random = np.random.default_rng(0)
    chips = [np.roll(golden[i % len(golden)], i, axis=2) for i in range(CHIPS)]
    return np.stack([(chip * random.uniform(0.8, 1)).astype(wanted.dtype) for chip in chips])


def write(chips: Chips, folder: Path, count: int) -> tuple[Path, Path]:
    """Write the chips, a list of one of them, and one with so many lines."""
    names = [f"{number:04d}.tif" for number in range(len(chips))]
    for name, chip in zip(names, chips, strict=True):
        path = folder / name
        tifffile.imwrite(path, chip, photometric="minisblack", planarconfig="separate")
    lines = (names * (count // len(names) + 1))[:count]
    few, many = folder / "few.txt", folder / "many.txt"
    few.write_text(names[0], encoding="ascii")
    many.write_text("\n".join(lines), encoding="ascii")
    return few, many


def measure_bare(bare: ProcessPoolExecutor, workers: int, found: dict[int, list[float]]) -> None:
    """CPU microseconds an image of ONNX Runtime alone, in all processes at once."""
    for together, times in found.items():
        every = bare.map(bare_cost, [together] * workers)
        times.append(statistics.mean(every))


def begin_bare(graph: bytes, outputs: list[str], chips: Chips) -> None:
    """Open the graph in a process that has nothing else to do."""
    _bare.append((open_session(graph, "cpu"), outputs, chips))


def bare_cost(together: int) -> float:
    """CPU microseconds an image, of several runs over all chips."""
    ((session, outputs, chips),) = _bare
    session.run(outputs, {"chips": chips[:together]})
    taken = []
    for _ in range(BARE_RUNS):
        started = time.process_time()
        for start in range(0, len(chips), together):
            session.run(outputs, {"chips": chips[start : start + together]})
        taken.append(time.process_time() - started)
    return statistics.median(taken) / len(chips) * 1e6


def run(place: Path, options: Namespace) -> Run:
    """Predict a list in a process of its own, as a person does."""
    target = place.with_suffix(".parquet")
    line = [sys.executable, "-m", "service", "batch", str(place), str(target), "--overwrite"]
    line += [f"--bundle={options.bundle}", f"--workers={options.workers}"]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"error: the batch failed with code {done.returncode}: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Run(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def report(images: int, bare: dict[int, list[float]], runs: list[Run], starts: list[Run]) -> None:
    """Print the costs and their ratios."""
    cost = statistics.median(run.cpu for run in runs) / images * 1e6
    start = statistics.median(run.cpu for run in starts)
    fastest = min(run.wall for run in runs)
    for together, times in bare.items():
        middle = statistics.median(times)
        print(
            f"  runtime alone, {together:2d} at once  {middle:7.1f} CPU-us an image "
            f"({min(times):.1f} to {max(times):.1f}), {1e6 / middle:,.0f} images a CPU-second"
        )
    costs = [run.cpu / images * 1e6 for run in runs]
    print(
        f"  batch, everything           {cost:7.1f} CPU-us an image "
        f"({min(costs):.1f} to {max(costs):.1f}), {1e6 / cost:,.0f} images a CPU-second"
    )
    print(f"  of which the start          {start / images * 1e6:7.1f} ({start:.2f} CPU-s in all)")
    for together, times in bare.items():
        middle = statistics.median(times)
        lasting = cost - start / images * 1e6
        print(
            f"  efficiency, {together:2d} at once     {middle / cost:7.2f}, "
            f"without the start {middle / lasting:.2f}"
        )
    print(
        f"  fastest wall                {fastest:7.1f} s, {images / fastest:,.0f} images a second"
    )


if __name__ == "__main__":
    main()
