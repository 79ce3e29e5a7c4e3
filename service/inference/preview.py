"""Renders an image of any bands as a picture."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

COLOURS = (("B04", "B4", "red", "r"), ("B03", "B3", "green", "g"), ("B02", "B2", "blue", "b"))
DARKEST, BRIGHTEST = 2, 98  # percentiles that become black and white
LONGEST = 512  # pixels of the longer side; the browser enlarges what is smaller


def true_colour(pixels: npt.NDArray[Any], bands: Sequence[str]) -> bytes:
    """Render (bands, height, width) as PNG.

    Red, green and blue are found by the names of the bands; the first three stand in where the
    names do not say. Pictures of 8 bits are shown as they are, everything else is stretched.
    """
    content = io.BytesIO()
    picture(pixels, bands, LONGEST).save(content, "PNG")
    return content.getvalue()


def picture(pixels: npt.NDArray[Any], bands: Sequence[str], longest: int) -> Image.Image:
    """Render (bands, height, width) as above, with at most `longest` pixels on a side."""
    step = max(1, -(-max(pixels.shape[1:]) // longest))
    shown = pixels[visible(len(pixels), bands)][:, ::step, ::step]  # (3, h, w)
    return Image.fromarray(_to_bytes(shown).transpose(1, 2, 0))


def visible(count: int, bands: Sequence[str]) -> list[int]:
    """Indices of what is shown as red, green and blue."""
    names = [name.lower() for name in bands] if len(bands) == count else []
    chosen = [
        next((names.index(name.lower()) for name in colour if name.lower() in names), -1)
        for colour in COLOURS
    ]
    if -1 not in chosen:
        return chosen
    return [0, 1, 2] if count >= 3 else [0, 0, 0]


def _to_bytes(shown: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if shown.dtype == np.uint8:
        return shown
    with np.errstate(over="ignore"):
        values = np.nan_to_num(shown.astype(np.float32), posinf=0, neginf=0)
    low, high = np.percentile(values, (DARKEST, BRIGHTEST))
    scaled: npt.NDArray[np.float32] = (values - low) / max(float(high - low), 1e-9)
    stretched: npt.NDArray[np.uint8] = (np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return stretched
