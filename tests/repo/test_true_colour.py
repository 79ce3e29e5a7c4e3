"""The report and the page of the service show one chip in the same colours."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.tasks import plots
from service.inference import preview

BANDS = [
    ("B02", "B03", "B04", "B08"),
    ("red", "green", "blue"),
    ("b", "g", "r", "nir"),
    ("band-1", "band-2", "band-3"),
    ("vv",),
]


@pytest.mark.parametrize("bands", BANDS, ids="-".join)
@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_a_chip_has_the_same_colours_in_the_report_and_on_the_page(
    bands: tuple[str, ...], kind: str
) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 255 if kind == "uint8" else 9000, (len(bands), 24, 24)).astype(kind)
    with Image.open(io.BytesIO(preview.true_colour(pixels, bands))) as page:
        assert np.array_equal(plots.true_colour(pixels, bands), np.asarray(page))


def test_both_have_one_table_of_bands_and_percentiles() -> None:
    assert plots.COLOURS == preview.COLOURS
    assert (plots.DARKEST, plots.BRIGHTEST) == (preview.DARKEST, preview.BRIGHTEST)
