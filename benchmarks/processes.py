"""How much two processes gain over one.

    python -m benchmarks.processes

Trains on random chips of EuroSAT RGB's shape with 128 images a step, by one and by two processes in
turn, each with one thread, at the widths 12 and 32. Wall time needs two idle cores. Efficiency by
CPU time, seconds of one process over the sum of both, also holds on busy ones.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import machine
from benchmarks.training_loop import random_chips
from pipeline import train
from pipeline.data.prepared import read_prepared
from pipeline.params import read_params
from pipeline.progress import EpochProgress
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.processes import join

WIDTHS = (12, 32)
BATCH = 128
FOUND = Path("found.json")


class Rate(NamedTuple):
    """What an epoch took."""

    images_per_second: float
    cpu: float
    """Seconds of all processes."""


def main() -> None:
    """Print rates and efficiency of each width."""
    parser = ArgumentParser(prog="python -m benchmarks.processes", description=__doc__)
    parser.add_argument("--pairs", type=int, default=3, help="one and two in turn (default: 3)")
    parser.add_argument("--rank", type=int, metavar="WIDTH", help="be one of the processes")
    arguments = parser.parse_args()
    if arguments.rank:
        return work(arguments.rank)
    print(machine.line())
    root = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"PYTHONPATH": f"{root}:{root / 'src'}", "OMP_NUM_THREADS": "1"}
        Path(folder, "params.yaml").write_bytes(Path("params.yaml").read_bytes())
        os.chdir(folder)
        random_chips()
        for width in WIDTHS:
            pairs = [(measure(width, 1), measure(width, 2)) for _ in range(arguments.pairs)]
            wall = [two.images_per_second / one.images_per_second for one, two in pairs]
            cpu = [one.cpu / two.cpu for one, two in pairs]
            one, two = (
                statistics.median(rate.images_per_second for rate in of)
                for of in zip(*pairs, strict=True)
            )
            print(
                f"width {width}: {one:,.0f} and {two:,.0f} images/s, {statistics.median(wall):.2f} "
                f"times; efficiency by CPU time {statistics.median(cpu):.2f}, n = {len(pairs)}: "
                f"{min(cpu):.2f} to {max(cpu):.2f}"
            )


def measure(width: int, processes: int) -> Rate:
    """Start the processes, and read what the first one found."""
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}")
    rank = ("-m", "benchmarks.processes", "--rank", str(width))
    subprocess.run((sys.executable, *launcher, *rank), check=True, capture_output=True)
    return Rate(**json.loads(FOUND.read_text(encoding="utf-8")))


def work(width: int) -> None:
    """Train two epochs as one of the processes; the second one counts."""
    params, prepared = read_params(), read_prepared()
    changes = {"batch_size": BATCH, "epochs": 2, "progressive": False, "processes": "auto"}
    params = params.model_copy(
        update={
            "train": params.train.model_copy(update=changes | {"device": "cpu"}),
            "model": params.model.model_copy(update={"width": width}),
        }
    )
    with join(params.train) as group, EpochProgress(2, 1, shown=False) as bar:
        run = train.setup(params, prepared, train.open_data(params, prepared), group)
        checkpoints = Checkpoints("bench")
        before = 0.0
        for record in train.epochs(run, train.Progress(threads=1), checkpoints, bar):
            cpu = torch.tensor(time.process_time() - before)
            before = time.process_time()
        group.add(cpu)
        if group.is_first:
            checkpoints.clear()
            rate = Rate(record["images_per_second"], cpu.item())
            FOUND.write_text(json.dumps(rate._asdict()), encoding="utf-8")


if __name__ == "__main__":
    main()
