"""Segmentation of a small real scene, and boosted trees on the same folds.

    make bench-slovenia SLOVENIA=path/to/slovenia
    python -m benchmarks.slovenia --path slovenia --folds 0 1 2      deal the blocks three times

SLOVENIA is a folder with `scene_4.tif` (13 bands, uint16) and `lulc.tif`, of the examples of
eo-learn; four bands and four classes are used. Blocks of 25 pixels (250 m) are dealt to five folds;
each fold is tested once, by a training on all labels of the other four, and the five confusion
matrices are added. No block chooses the epoch: validation sees the labels of the training, so that
as many train as for the trees. The stages run with SETTINGS on top of params.yaml, below
`artifacts/bench/slovenia/`.
"""

import io
import shutil
import time
from argparse import ArgumentParser
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio

from benchmarks import machine
from benchmarks.eurosat import prepare
from contracts.bundle import NODATA
from pipeline import ingest, load, paths, preprocess, train
from pipeline.bundle.inference import predict, session
from pipeline.bundle.manifest import read_bundle
from pipeline.data.prepared import read_prepared
from pipeline.tasks import confusion, overlap

FOLDER = Path("artifacts/bench/slovenia")
BANDS = {"B02": 2, "B03": 3, "B04": 4, "B08": 8}  # name -> its number in the file
CLASSES = {2: "forest", 3: "grassland", 4: "shrubland", 8: "artificial"}
EDGE, FOLDS, SIZE = 25, 5, 104  # pixels of a block; of a chip that holds the scene
TRAIN: dict[str, Any] = {
    "epochs": 150,  # of one step
    "batch_size": 2,
    "learning_rate": 0.02,
    "label_smoothing": 0.0,
    "progressive": False,
    "max_shift": 0,
    "brightness": 0.0,
    "patience": 0,
}
MODEL = {"name": "slovenia", "task": "segmentation"}
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "unet": {"model": MODEL | {"network": "unet", "width": 16}, "train": TRAIN},
    "mirrored": {"model": MODEL | {"network": "pixels", "width": 48}, "train": TRAIN},
    "north-up": {
        "model": MODEL | {"network": "pixels", "width": 48},
        "train": TRAIN | {"mirror": False, "noise": 0.4},
    },
}
TREES = "trees"


def main() -> None:
    """Train and test each fold, and print what all of them together reached."""
    parser = ArgumentParser(prog="python -m benchmarks.slovenia", description=__doc__)
    parser.add_argument("--path", type=Path, required=True, help="folder of the scene")
    parser.add_argument("--folds", type=int, nargs="+", default=[0], help="seeds of the deal")
    known = [*SETTINGS, TREES]
    parser.add_argument("--settings", nargs="+", default=known, choices=known)
    arguments = parser.parse_args()
    for name in ("scene_4.tif", "lulc.tif"):
        if not (arguments.path / name).is_file():
            parser.error(f"--path {arguments.path}: wanted a folder with {name}")
    print(machine.line())
    for seed in arguments.folds:
        for name in arguments.settings:
            started = time.process_time()
            if name == TREES:
                table = trees(arguments.path, seed)
            else:
                table = sum(
                    (network(arguments.path, SETTINGS[name], seed, fold) for fold in range(FOLDS)),
                    np.zeros((len(CLASSES),) * 2, np.int64),
                )
            each = (
                f"{c} {overlap.scores(table, i).iou:.3f}" for i, c in enumerate(CLASSES.values())
            )
            print(
                f"deal {seed}, {name}: mean IoU {overlap.mean_iou(table):.4f}, accuracy "
                f"{table.trace() / table.sum():.4f} of {table.sum():,} pixels ({', '.join(each)}), "
                f"{(time.process_time() - started) / FOLDS:.0f} CPU-s a fold",
                flush=True,
            )


def deal(height: int, width: int, seed: int) -> npt.NDArray[np.int64]:
    """The fold of each pixel; what is over at an edge belongs to the block before."""
    rows, columns = (
        np.minimum(np.arange(length) // EDGE, length // EDGE - 1) for length in (height, width)
    )
    blocks = rows[:, None] * (width // EDGE) + columns
    count = blocks.max() + 1
    fold_of = np.empty(count, np.int64)
    fold_of[np.random.default_rng(seed).permutation(count)] = np.arange(count) % FOLDS
    chosen: npt.NDArray[np.int64] = fold_of[blocks]
    return chosen


def network(
    path: Path, settings: dict[str, dict[str, Any]], seed: int, fold: int
) -> npt.NDArray[np.int64]:
    """Train on four folds by the stages; the confusion matrix of the fifth."""
    source = FOLDER.with_name("slovenia-scene")
    write_scene(path, source)
    prepare(FOLDER, settings | {"preprocess": {"split": "predefined"}})
    classes = ",".join(f"{value}={name}" for value, name in CLASSES.items())
    options = ["--images", str(source.resolve() / "scene.tif"), "--classes", classes]
    options += ["--labels", str(source.resolve() / "labels.tif"), "--size", str(SIZE)]
    with chdir(FOLDER), redirect_stdout(io.StringIO()):
        ingest.main(["scenes", *options])
        divide(paths.DATA, seed, fold)
        for stage in (load, preprocess, train):
            stage.main()
        test = read_prepared().split("test")
        found = predict(session(read_bundle()[0]), test.chips, ("labels",))["labels"]
    height, width = rasterio.open(path / "lulc.tif").shape
    asked = np.full(test.labels.shape[1:], False)
    asked[:height, :width] = deal(height, width, seed) == fold
    known = asked & (test.labels[0] != NODATA)
    return confusion.count(test.labels[0][known], found[0][known], list(CLASSES.values()))


def write_scene(path: Path, target: Path) -> None:
    """Write the four bands with their names, and the labels."""
    target.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path / "scene_4.tif") as scene:
        profile = scene.profile | {"count": len(BANDS), "driver": "GTiff"}
        with rasterio.open(target / "scene.tif", "w", **profile) as written:
            written.write(scene.read(list(BANDS.values())))
            for index, name in enumerate(BANDS):
                written.set_band_description(index + 1, name)
    shutil.copyfile(path / "lulc.tif", target / "labels.tif")


def divide(data: Path, seed: int, fold: int) -> None:
    """Lay the scene into each split: without the labels of the fold, but all into `test`."""
    with rasterio.open(data / "labels/scene.tif") as raster:
        labels, profile = raster.read(1), raster.profile
    height, width = labels.shape
    tested = deal(height, width, seed) == fold
    for split, hidden in (
        ("train", tested),
        ("validation", tested),
        ("test", np.zeros_like(tested)),
    ):
        for kind in ("images", "labels"):
            (data / split / kind).mkdir(parents=True)
        shutil.copyfile(data / "images/scene.tif", data / split / "images/scene.tif")
        with rasterio.open(data / split / "labels/scene.tif", "w", **profile) as written:
            written.write(np.where(hidden, profile["nodata"], labels).astype(labels.dtype), 1)
    for kind in ("images", "labels"):
        shutil.rmtree(data / kind)


def trees(path: Path, seed: int) -> npt.NDArray[np.int64]:
    """Boosted trees on the 3 x 3 pixels around each, in four bands; their confusion matrix."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    with rasterio.open(path / "scene_4.tif") as raster:
        scene = raster.read(list(BANDS.values()))
    with rasterio.open(path / "lulc.tif") as raster:
        values = raster.read(1)
    height, width = values.shape
    around = np.pad(scene, ((0, 0), (1, 1), (1, 1)), "reflect")
    inputs = np.concatenate(
        [around[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    )
    folds = deal(height, width, seed)
    table = np.zeros((len(CLASSES),) * 2, np.int64)
    classes = list(CLASSES)
    for fold in range(FOLDS):
        known = np.isin(values, classes)
        seen, tested = known & (folds != fold), known & (folds == fold)
        model = HistGradientBoostingClassifier(max_iter=100, early_stopping=False, random_state=0)
        model.fit(inputs[:, seen].T, values[seen])
        found = np.searchsorted(classes, model.predict(inputs[:, tested].T))
        np.add.at(table, (np.searchsorted(classes, values[tested]), found), 1)
    return table


if __name__ == "__main__":
    main()
