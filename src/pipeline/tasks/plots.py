"""What the pictures of all tasks share, drawn by matplotlib: no browser, no display."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DPI = 110
BLUE, ORANGE, GREY = "#1f6f8b", "#d9822b", "#9aa5ab"

# As `service/inference/preview.py` has them; tests/repo/test_true_colour.py compares the two.
COLOURS = (("B04", "B4", "red", "r"), ("B03", "B3", "green", "g"), ("B02", "B2", "blue", "b"))
DARKEST, BRIGHTEST = 2, 98  # percentiles that become black and white


def figure(width: float, height: float) -> Figure:
    """An empty figure, inches."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG file. GitLab and CML break links to names with an underscore."""
    assert "_" not in path.name
    FigureCanvasAgg(figure).print_png(str(path), metadata={"Software": None})


def plain(names: Sequence[str]) -> list[str]:
    """Keep matplotlib from reading dollar signs in class names as mathematics."""
    return [name.replace("$", r"\$") for name in names]


def curves(history: Mapping[str, Sequence[float]]) -> Figure:
    """Draw loss and accuracy over the epochs; the keys are `train/loss`, `validation/loss`, ..."""
    drawn = figure(8.4, 3.2)
    for axes, measure in zip(drawn.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, colour in (("train", ORANGE), ("validation", BLUE)):
            values = history.get(f"{split}/{measure}", ())
            axes.plot(range(1, len(values) + 1), values, color=colour, label=split)
        axes.set_xlabel("epoch")
        axes.set_title(measure.capitalize())
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    return drawn


def true_colour(pixels: npt.NDArray[Any], bands: Sequence[str]) -> npt.NDArray[np.uint8]:
    """(bands, H, W) digital numbers -> (H, W, 3), 0..255.

    Red, green and blue are found by the names of the bands; where one is missing, the first three
    bands stand in. 8 bits are shown as they are, everything else is stretched.
    """
    names = [band.lower() for band in bands]
    known = [[names.index(n.lower()) for n in colour if n.lower() in names] for colour in COLOURS]
    chosen = [found[0] for found in known if found]
    if len(chosen) < 3:
        chosen = [0, 1, 2] if len(pixels) >= 3 else [0, 0, 0]
    shown = pixels[chosen].transpose(1, 2, 0)
    if shown.dtype == np.uint8:
        return shown
    values = shown.astype(np.float32)
    low, high = np.percentile(values, (DARKEST, BRIGHTEST))
    scaled = np.clip((values - low) / max(float(high - low), 1e-9), 0, 1)
    stretched: npt.NDArray[np.uint8] = (scaled * 255).astype(np.uint8)
    return stretched
