"""A bundle whose drift can be measured: its reference is what its model says about a folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from tests.make.bundles import CLASSES, STATISTICS, make_bundle, make_chip

BINS = 10  # as the pipeline makes them
CHIPS = 120


def write_chips(folder: Path, count: int = CHIPS) -> list[Path]:
    """Write chips as NPY, (bands, height, width), into two folders."""
    paths = [folder / f"class-{number % 2}" / f"{number:03d}.npy" for number in range(count)]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, make_chip(5000 + number))
    return paths


def watched_bundle(folder: Path, chips: list[Path], seed: int = 0, **changes: Any) -> Path:
    """Write a bundle whose reference are these chips; `changes` replace fields of its manifest."""
    bundle = make_bundle(folder, seed=seed, **changes)
    session = onnxruntime.InferenceSession(
        (bundle / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"]
    )
    pixels = np.stack([np.load(path) for path in chips])  # (N, B, H, W)
    names = ["probabilities", "statistics"]
    probabilities, statistics = session.run(names, {"chips": pixels})
    manifest = json.loads((bundle / "model.json").read_bytes())
    signals = {
        f"{name}/{band}": histogram(statistics[:, b, s])
        for s, name in enumerate(STATISTICS)
        for b, band in enumerate(manifest["input"]["bands"])
    }
    signals["confidence"] = histogram(probabilities.max(axis=1))
    counts = np.bincount(probabilities.argmax(axis=1), minlength=len(CLASSES))
    manifest["reference"] = {
        "samples": len(chips),
        "signals": signals,
        "classes": dict(zip(CLASSES, counts.tolist(), strict=True)),
    }
    (bundle / "model.json").write_text(json.dumps(manifest), encoding="utf-8")
    return bundle


def histogram(values: npt.NDArray[np.float32]) -> dict[str, list[float]]:
    """Bins of equal counts."""
    edges = np.unique(np.quantile(values.astype(np.float64), np.linspace(0, 1, BINS + 1)))
    counts, _ = np.histogram(values, edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}
