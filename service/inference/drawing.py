"""Draws the objects that were found: over the picture of an image, or alone."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from contracts.masks import decode_rle
from service.inference.preview import picture

# Told apart by the colour-blind (Okabe and Ito 2008), on dark water and bright ground.
COLOURS = ("#e69f00", "#56b4e9", "#f0e442", "#cc79a7", "#009e73", "#d55e00", "#0072b2")
SHOWN = 512  # pixels: a smaller picture is enlarged, so that lines and letters can be seen
LARGEST = 2048  # pixels: a larger one is shrunk
LINE = 2  # pixels
FILL = 90  # opacity of a mask within its outline, of 255
FORMS = {"image/png": "PNG", "image/jpeg": "JPEG"}
"""Media types of a drawing -> their names in Pillow."""

Object = Mapping[str, Any]
"""As an answer has it: class, score, box; and the mask, if the model has masks."""


def draw_objects(
    drawn: Image.Image, objects: Sequence[Object], classes: Sequence[str], scale: float = 1.0
) -> None:
    """Draw boxes, or masks, with class and score on a picture, in place.

    Args:
        drawn: the picture, RGB or RGBA.
        objects: boxes in pixels of the image that was answered.
        classes: of the model: the colour of a class depends on its place.
        scale: pixels of the picture for one of the image.
    """
    draw = ImageDraw.Draw(drawn)
    for item in reversed(objects):  # the surest on top
        left, top, right, bottom = (at * scale for at in item["box"])
        colour = COLOURS[classes.index(item["class"]) % len(COLOURS)]
        if "mask" in item:
            _draw_mask(drawn, item, colour, scale)
        else:
            edges = (left - 1, top - 1, max(left, right), max(top, bottom))
            draw.rectangle(edges, outline=colour, width=LINE)
        text = f"{item['class']} {item['score']:.2f}"
        place = (max(0, left - 1), top - 12 if top >= 12 else bottom + 1)
        around = draw.textbbox(place, text)
        draw.rectangle(around, fill="#000000")
        draw.text(place, text, fill=colour)


def _draw_mask(drawn: Image.Image, item: Object, colour: str, scale: float) -> None:
    """Fill the mask of an object, so that what is below it shows, and draw its outline."""
    (high, wide), counts = item["mask"]["size"], item["mask"]["counts"]
    left, right = int(item["box"][0]), min(wide, int(item["box"][2]) + 1)
    pixels = decode_rle(counts, (high, wide), left, right)
    lines = np.flatnonzero(pixels.any(axis=1))
    if not len(lines):
        return
    pixels = pixels[lines[0] : lines[-1] + 1]
    size = tuple(max(1, round(edge * scale)) for edge in pixels.shape[::-1])
    shape = Image.fromarray(pixels.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
    inner = ImageOps.expand(shape, LINE).filter(ImageFilter.MinFilter(2 * LINE + 1))
    inner = ImageOps.crop(inner, LINE)
    opacity = np.where(np.asarray(inner) > 0, np.uint8(FILL), np.asarray(shape))
    layer = Image.new("RGBA", shape.size, colour)
    layer.putalpha(Image.fromarray(opacity))
    place = (round(left * scale), round(int(lines[0]) * scale))
    if drawn.mode == "RGBA":
        drawn.alpha_composite(layer, place)
    else:
        drawn.paste(layer, place, layer)


def annotated(
    pixels: npt.NDArray[Any],
    bands: Sequence[str],
    answer: Mapping[str, Any],
    form: str,
    overlay: bool = False,
) -> bytes:
    """Encode the picture of an image with its objects.

    Args:
        pixels: (bands, height, width), as it was answered.
        answer: with `objects`, and `counts` of all classes.
        form: media type, of FORMS.
        overlay: the objects alone, on nothing: to be laid over the image.
    """
    _, height, width = pixels.shape
    longest = max(height, width)
    scale = max(1, SHOWN // longest) if longest <= LARGEST else LARGEST / longest
    size = (round(width * scale), round(height * scale))
    if overlay:
        drawn = Image.new("RGBA", size)
    else:
        drawn = picture(pixels, bands, LARGEST).resize(size, Image.Resampling.NEAREST)
    draw_objects(drawn, answer["objects"], tuple(answer["counts"]), scale)
    content = io.BytesIO()
    if form == "image/jpeg":  # without the usual halving of colour, which thin lines do not survive
        drawn.convert("RGB").save(content, FORMS[form], quality=90, subsampling=0)
    else:
        drawn.save(content, FORMS[form])
    return content.getvalue()
