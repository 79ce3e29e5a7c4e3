"""Objects: real ships in ports that were not trained on, simulated harbours, masks, and latency.

    make bench-detection SHIPS=path/to/ships
    python -m benchmarks.detection --path ships --splits 42 1 2      one training for each split
    python -m benchmarks.detection                        the simulated harbours alone
    python -m benchmarks.detection --task instances       one of them

SHIPS is a folder in COCO's format whose images have a field `port`. Runs ingest, load, preprocess,
train and evaluate with SETTINGS on top of params.yaml below `artifacts/bench/`. A port is in one
split alone; another `preprocess.seed` is another split. The threshold of F1 is chosen on the
validation ports. The settings were chosen on validation ports, and no test port was looked at.
"""

import json
import statistics
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.eurosat import prepare, run, write_params
from pipeline import paths
from pipeline.bundle.inference import session

FOLDER = Path("artifacts/bench")
SIZE, RUNS, WARM_UP = 256, 100, 10
SETTINGS: dict[str, dict[str, Any]] = {
    "model": {"name": "harbour", "task": "detection", "network": "unet-half", "width": 16},
    "train": {
        "epochs": 200,
        "batch_size": 16,
        "progressive": False,
        "patience": 0,
        "brightness": 0.3,
        "colour": 0.2,
        "zoom": 0.25,
    },
}
HARBOUR = SETTINGS | {"train": SETTINGS["train"] | {"epochs": 25, "colour": 0.0, "zoom": 0.0}}
TASKS = ("detection", "instances")


def main() -> None:
    """Run what was asked for, and print what it took and reached."""
    parser = ArgumentParser(prog="python -m benchmarks.detection", description=__doc__)
    parser.add_argument("--path", type=Path, help="folder of ships, with annotations.json")
    parser.add_argument("--splits", type=int, nargs="+", default=[42], help="preprocess.seed")
    parser.add_argument("--epochs", type=int, help="of the ships, to try something out")
    parser.add_argument("--task", choices=TASKS, nargs="+", default=TASKS, help="of the harbours")
    arguments = parser.parse_args()
    print(machine.line())
    for task in arguments.task:
        harbour(task)
    if arguments.path:
        ships(arguments.path.resolve(), arguments.splits, arguments.epochs)


def harbour(task: str) -> None:
    """Train on the simulated harbour, with boxes alone or with masks."""
    folder = FOLDER / f"harbour-{task}"
    prepare(folder, HARBOUR | {"model": HARBOUR["model"] | {"task": task}})
    run(folder, "ingest", "synthetic-harbour", *(["--masks"] if task == "instances" else []))
    started = time.perf_counter()
    for stage in ("load", "preprocess", "train", "evaluate"):
        run(folder, stage)
    print(f"{task}: {told(folder)}; the stages took {time.perf_counter() - started:.0f} s")
    latency(folder)


def ships(path: Path, splits: list[int], epochs: int | None) -> None:
    """Train once for each split of the ports."""
    folder = FOLDER / "ships"
    chosen = SETTINGS | {"train": SETTINGS["train"] | ({"epochs": epochs} if epochs else {})}
    prepare(folder, chosen)
    run(folder, "ingest", "coco", "--path", str(path), "--group", "port")
    run(folder, "load")
    reached = []
    for seed in splits:
        write_params(folder, chosen | {"preprocess": {"seed": seed}})
        for stage in ("preprocess", "train", "evaluate"):
            run(folder, stage)
        print(f"ships, split {seed}, {ports(folder)}: {told(folder)}", flush=True)
        reached.append(read(folder))
    for name in ("ap50", "f1"):
        values = [metrics[name] for metrics in reached]
        print(f"{name} over {len(values)} splits: mean {statistics.mean(values):.3f}")
    latency(folder)


def read(folder: Path) -> dict[str, float]:
    """What evaluate measured."""
    found: dict[str, float] = json.loads((folder / paths.METRICS).read_text(encoding="utf-8"))
    return found


def told(folder: Path) -> str:
    """AP50 with its interval, and F1, in words."""
    found = read(folder)
    what, boxes = ("mask_", f"box AP50 {found['ap50']:.3f}, ") if "mask_ap50" in found else ("", "")
    return (
        f"{what}AP50 {found[f'{what}ap50']:.3f} (95 % interval by images "
        f"{found[f'{what}ap50_low']:.3f} to {found[f'{what}ap50_high']:.3f}), {boxes}"
        f"F1 {found['f1']:.3f} at {found['threshold']:g}, "
        f"{found['test_objects']} objects in {found['test_chips']} chips of "
        f"{found['test_groups']} groups"
    )


def ports(folder: Path) -> str:
    """The groups that were tested on."""
    lines = (folder / paths.CHIPS / "manifest.csv").read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split(",") for line in lines]
    return "tested on " + ", ".join(sorted({row[3] for row in rows if row[1] == "test"}))


def latency(folder: Path) -> None:
    """Time one image of SIZE x SIZE pixels in four bands on one thread."""
    model = session((folder / paths.MODEL / "model.onnx").read_bytes(), threads=1)
    chips = np.random.default_rng(0).integers(0, 20_000, (1, 4, SIZE, SIZE)).astype(np.uint16)
    wall, cpu = [], []
    for _ in range(WARM_UP + RUNS):
        started, used = time.perf_counter(), time.thread_time()
        model.run(None, {"chips": chips})
        wall.append(1000 * (time.perf_counter() - started))
        cpu.append(1000 * (time.thread_time() - used))
    low, middle, high = np.percentile(wall[WARM_UP:], (5, 50, 95))
    print(
        f"{SIZE} x {SIZE} x 4 on one thread: median {middle:.1f} ms (5 to 95 %: {low:.1f} to "
        f"{high:.1f}), {np.median(cpu[WARM_UP:]):.1f} ms of CPU, {RUNS} runs"
    )


if __name__ == "__main__":
    main()
