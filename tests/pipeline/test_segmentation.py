"""Segmentation through the stages: from scenes with label maps to a report that judges it."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from contracts.bundle import NODATA, Segmentation
from pipeline import compare_splits, gate, load, report, train
from pipeline.bundle.inference import predict, session
from pipeline.bundle.manifest import read_bundle
from pipeline.data.prepared import read_prepared
from tests.conftest import write_params
from tests.make.trained import SCENES, metrics
from tests.pipeline.conftest import call


def test_data_hold_pairs_of_scene_and_labels(mapped: Path) -> None:
    names = sorted(p.relative_to("data").as_posix() for p in Path("data").rglob("*.tif"))
    assert names == ["images/a.tif", "images/b.tif", "labels/a.tif", "labels/b.tif"]
    found = json.loads(Path("reports/data.json").read_text("utf-8"))
    assert found["files"] == 2 and found["chips"] == 60
    assert sum(found["classes"].values()) == 2 * 96 * 80


def test_no_pixel_of_a_place_is_in_two_splits(mapped: Path) -> None:
    seen: dict[tuple[float, float], set[str]] = {}
    for name in ("train", "validation", "test"):
        split = read_prepared().split(name)
        assert split.labels.shape == (len(split.rows), 16, 16)
        for row, labels in zip(split.rows, split.labels, strict=True):
            assert row.centre is not None
            for line, column in zip(*np.nonzero(labels != NODATA), strict=True):
                place = (row.centre[0] + 10 * column, row.centre[1] - 10 * line)
                seen.setdefault(place, set()).add(name)
    assert seen and all(len(splits) == 1 for splits in seen.values())


def test_the_model_has_learned_what_is_bright(mapped: Path) -> None:
    assert metrics()["mean_iou"] > 0.8
    assert metrics()["mean_iou_low"] <= metrics()["mean_iou"] <= metrics()["mean_iou_high"]


def test_the_bundle_says_what_tiles_need_and_answers_for_any_size(mapped: Path) -> None:
    graph, manifest = read_bundle()
    assert isinstance(manifest, Segmentation)
    assert (manifest.stride, manifest.margin, manifest.exact) == (4, 24, True)
    assert manifest.area is not None and 13.7 < manifest.area.west < manifest.area.east < 13.8
    rows = read_prepared().split("train").rows
    wide = max(row.centre[0] for row in rows if row.centre) - min(
        row.centre[0] for row in rows if row.centre
    )
    degrees = (wide + 160) / (111_320 * np.cos(np.radians(manifest.area.north)))
    assert manifest.area.east - manifest.area.west == pytest.approx(degrees, rel=0.02)
    with rasterio.open("data/images/a.tif") as scene:
        pixels = scene.read()[None, :, :92, :76]
    found = predict(session(graph), pixels, ("labels", "confidence", "statistics"))
    assert found["labels"].shape == found["confidence"].shape == (1, 92, 76)
    with rasterio.open("data/labels/a.tif") as raster:
        assert (found["labels"][0] == raster.read(1)[:92, :76]).mean() > 0.85


def test_the_gate_holds_its_own_floors_and_the_report_says_them(mapped: Path) -> None:
    assert call(gate.main, "--against", "HEAD").returncode == 0
    write_params(SCENES | {"gate": {"min_mean_iou": 0.999, "max_calibration_error": 1.0}})
    closed = call(gate.main, "--against", "HEAD")
    assert closed.returncode == 1
    assert "mean IoU: 0." in closed.stderr and "wanted at least 0.999" in closed.stderr
    assert call(report.main, "--against", "HEAD").returncode == 0
    text = Path("reports/report.md").read_text("utf-8")
    assert "Mean IoU **0." in text and "| class" in text and "pictures/maps.png" in text


def test_an_equal_model_is_no_loss_and_a_lost_class_is_one(mapped: Path) -> None:
    from pipeline.tasks import segmentation

    text = Path("reports/predictions.csv").read_text("utf-8")
    ours = segmentation.parse_predictions(text, "ours")
    same = segmentation.compare(ours, ours, 100)
    assert same is not None and not same.is_loss
    assert same.difference.low == same.difference.high == 0
    blind = {
        block: {
            (true, "low"): sum(pixels for (other, _), pixels in pairs.items() if other == true)
            for true, _ in pairs
        }
        for block, pairs in ours.items()
    }
    lost = segmentation.compare(ours, blind, 100)
    assert lost is not None and lost.is_loss


def test_a_task_that_does_not_fit_the_data_is_refused_before_training(mapped: Path) -> None:
    write_params(SCENES | {"model": {"task": "classification", "network": "resnet"}})
    found = call(train.main)
    assert found.returncode == 1
    reason = "model.task is classification, which needs labels of the kind folders; data/ has maps"
    assert f"{reason}: use one of segmentation, or ingest other data" in found.stderr


def test_a_network_without_an_answer_a_pixel_is_refused(mapped: Path) -> None:
    write_params(SCENES | {"model": {"task": "segmentation", "network": "resnet"}})
    found = call(train.main)
    assert found.returncode == 1
    able = "unet, unet-deep, pixels"
    assert f"'resnet': use one of {able}, as model.task is segmentation" in found.stderr


def test_a_bad_scene_is_quarantined_with_its_reason(mapped: Path) -> None:
    write_params(SCENES | {"load": {"max_bad_fraction": 0.5}})
    with rasterio.open("data/labels/b.tif", "r+") as raster:
        raster.write(np.full((96, 80), 9, np.uint8), 1)
    assert call(load.main).returncode == 0
    found = json.loads(Path("reports/data.json").read_text("utf-8"))
    reason = "label 9 has no class; there are 2, from 0 on"
    assert found["quarantine"] == [{"path": "images/b.tif", "reason": reason}]


def test_a_random_split_is_compared_and_shown_in_the_report_of_this_model_only(
    mapped: Path,
) -> None:
    quick = {"task": "segmentation", "network": "pixels", "width": 4}
    write_params(SCENES | {"model": quick, "train": {"epochs": 1, "batch_size": 4}})
    before = {path: path.read_bytes() for path in Path("reports").rglob("*") if path.is_file()}
    found = call(compare_splits.main)
    assert found.returncode == 0, found.stderr
    assert "compare_splits: mean IoU: 0." in found.stdout
    after = {path: path.read_bytes() for path in Path("reports").rglob("*") if path.is_file()}
    assert after.keys() - before.keys() == {Path("reports/splits.json")}
    assert {path: after[path] for path in before} == before
    assert [p.name for p in Path("artifacts").iterdir() if p.name.startswith("tmp")] == []
    call(report.main, "--against", "HEAD")
    text = Path("reports/report.md").read_text("utf-8")
    assert "## How much a random split would flatter" in text and "a random split |" in text
    document = json.loads(Path("reports/splits.json").read_text("utf-8"))
    for other in (json.dumps(document | {"model": "0" * 64}), "{}", "no JSON"):
        Path("reports/splits.json").write_text(other, "utf-8")
        assert call(report.main, "--against", "HEAD").returncode == 0
        assert "would flatter" not in Path("reports/report.md").read_text("utf-8")


def test_numbers_of_another_state_of_the_folder_are_not_compared(mapped: Path) -> None:
    lock = {"stages": {"train": {"params": {"params.yaml": {"train.epochs": 9}}}}}
    Path("dvc.lock").write_text(json.dumps(lock), "utf-8")
    found = call(compare_splits.main)
    assert found.returncode == 1 and "another state of this folder (train:" in found.stderr
    assert not Path("reports/splits.json").exists()


def test_a_model_of_a_random_split_has_nothing_to_compare(mapped: Path) -> None:
    write_params(SCENES | {"preprocess": {"split": "random"}})
    found = call(compare_splits.main)
    assert found.returncode == 1 and "preprocess.split is random already" in found.stderr
