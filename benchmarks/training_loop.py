"""How much of the bare speed the training loop keeps.

    python -m benchmarks.training_loop

Bare: forward, backward and optimizer step, over and over on one batch that is already in memory.
Loop: `pipeline.train.train` as it is, with augmentation, schedule, logging, validation and
checkpoints. Both in turn, on random chips of EuroSAT RGB's shape with the network and batch size of
params.yaml; the ratio is taken pair by pair.
"""

import os
import statistics
import tempfile
import time
from argparse import ArgumentParser

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks import machine
from pipeline import paths
from pipeline.data.chip_table import Row, write_chip_table
from pipeline.data.dataset import SPLITS, Dataset
from pipeline.data.prepared import Prepared, read_prepared
from pipeline.files import write_json
from pipeline.params import Params, read_params
from pipeline.train import train
from pipeline.training.hardware import choose_device, choose_precision
from pipeline.training.models import Predictor, build
from pipeline.training.optimizer import build_optimizers

COUNTS = {"train": 4096, "validation": 256, "test": 16}


def main() -> None:
    """Print the rates and their ratio."""
    parser = ArgumentParser(prog="python -m benchmarks.training_loop", description=__doc__)
    parser.add_argument("--pairs", type=int, default=3, help="bare and loop in turn (default: 3)")
    pairs = parser.parse_args().pairs
    params = read_params()
    short = params.train.model_copy(update={"epochs": 2, "patience": 0, "progressive": False})
    params = params.model_copy(update={"train": short})
    print(machine.line())
    os.environ["DVC_NO_ANALYTICS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        prepared = random_chips()
        ratios = []
        for pair in range(pairs):
            bare, loop = bare_rate(params, prepared), loop_rate(params, prepared)
            ratios.append(loop / bare)
            print(f"pair {pair + 1}: bare {bare:,.0f} images/s, loop {loop:,.0f} images/s")
    print(f"loop / bare: median {statistics.median(ratios):.3f}, n = {pairs}: {sorted(ratios)}")


def random_chips() -> Prepared:
    """Write random chips as preprocess would."""
    folder = paths.CHIPS
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    classes = tuple(f"class-{index}" for index in range(10))
    for split in SPLITS:
        count = COUNTS[split]
        np.save(folder / f"{split}.npy", rng.integers(0, 256, (count, 3, 64, 64), np.uint8))
        rows += [
            Row(i, f"{split}-{i}", classes[i % 10], f"{split}{i}", split=split)
            for i in range(count)
        ]
    write_chip_table(folder / "manifest.csv", rows)
    write_json(folder / "statistics.json", {"mean": [127.0] * 3, "std": [74.0] * 3})
    Dataset(
        name="random",
        classes=classes,
        bands=("B04", "B03", "B02"),
        dtype="uint8",
        size=64,
        scale=255,
        units="none",
        valid_max=255,
        origin="random numbers",
        licence="none",
    ).write(folder)
    return read_prepared()


def bare_rate(params: Params, prepared: Prepared) -> float:
    """Images a second of forward, backward and step on one batch, after a warm-up."""
    p = params.train
    device = choose_device(p.device)
    precision = choose_precision(p, device)
    model = Predictor(build(params.model, 3, 10), prepared.mean, prepared.std).to(device)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizers = build_optimizers(model, p)
    inputs = torch.rand(p.batch_size, 3, 64, 64, device=device) * 255
    inputs = inputs.to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (p.batch_size,), device=device)
    steps = COUNTS["train"] // p.batch_size
    for step in range(5 + steps):
        if step == 5:
            _wait(device)
            started = time.perf_counter()
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            logits = model(inputs)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=p.label_smoothing)
        model.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    _wait(device)
    return steps * p.batch_size / (time.perf_counter() - started)


def loop_rate(params: Params, prepared: Prepared) -> float:
    """Images a second of the second epoch of a real run; the first one warms up."""
    result = train(params, prepared)
    result.checkpoints.clear()
    return result.history[-1]["images_per_second"]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
