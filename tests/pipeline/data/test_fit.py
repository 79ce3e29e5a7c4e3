"""Images of any size: a chip in training is the chip that the service makes of the same file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contracts.bundle import Input
from contracts.images import FITS, Fit
from pipeline import load, paths
from pipeline.data.chip_table import CHIP_TABLE, read_chip_table
from pipeline.data.dataset import Dataset
from pipeline.ingest import ingest
from pipeline.sources.folder import Folder
from service.inference.decode import decode

SIZES = [(40, 40), (90, 60), (31, 77), (200, 20), (16, 12)]


@pytest.mark.parametrize("fit", FITS)
def test_training_and_service_make_the_same_chip_of_an_image(
    repository: Path, tmp_path: Path, fit: Fit
) -> None:
    rng = np.random.default_rng(0)
    for name in ("Train/maize", "Test/rye"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for index, size in enumerate(SIZES):
            pixels = rng.integers(0, 255, (*size, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "mine" / name / f"{index}.JPG", "JPEG")

    ingest(Folder(tmp_path / "mine", size=32, fit=fit))
    load.main()

    dataset = Dataset.read(paths.RAW)
    assert (dataset.size, dataset.fit) == (32, fit)
    wanted = Input(
        **dataset.model_dump(
            include={"dtype", "bands", "scale", "units", "nodata", "valid_max", "resolution", "fit"}
        ),
        height=32,
        width=32,
    )
    rows, chips = read_chip_table(paths.RAW / CHIP_TABLE), np.load(paths.RAW / "chips.npy")
    assert len(rows) == 2 * len(SIZES)
    for row in rows:
        served = decode((paths.DATA / row.path).read_bytes(), wanted, 1 << 20)
        assert np.array_equal(chips[row.row], served), row.path
