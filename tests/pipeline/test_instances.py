"""Instances through the stages: from images with masks to a report that judges them."""

import csv
import json
from pathlib import Path

import numpy as np
from contracts.bundle import Instances
from contracts.masks import paste
from pipeline import gate, report, train
from pipeline.bundle import quantize
from pipeline.bundle.inference import predict, session
from pipeline.bundle.manifest import read_bundle
from pipeline.data.masks import EDGE, WIDTH
from pipeline.data.prepared import read_prepared
from pipeline.model_tests.__main__ import main as judge
from tests.conftest import write_params
from tests.make.harbours import image
from tests.make.trained import OUTLINES, PORTS, metrics
from tests.pipeline.conftest import call


def test_the_model_has_learned_that_a_quarter_is_missing(outlined: Path) -> None:
    assert read_prepared().split("test").labels.shape[1:] == (100, WIDTH)
    assert metrics()["mask_ap50"] > 0.5 and metrics()["ap50"] > 0.5
    assert metrics()["mask_ap50_low"] <= metrics()["mask_ap50"] <= metrics()["mask_ap50_high"]
    graph, manifest = read_bundle()
    assert isinstance(manifest, Instances) and manifest.input.multiple == 16
    pixels = image([(10, 40, 26, 48)], 96, corner=False)[:64].transpose(2, 0, 1)[None]
    answer = predict(session(graph), pixels, ("boxes", "masks"))
    assert answer["masks"].shape == (1, 100, EDGE, EDGE)
    found, top, left = paste(answer["masks"][0, 0], answer["boxes"][0, 0].tolist(), (64, 96))
    whole = np.zeros((64, 96), bool)
    among = predict(session(graph), np.repeat(pixels, 3, axis=0), ("masks",))["masks"]
    assert np.abs(among.astype(int) - answer["masks"]).max() <= 1, "a batch of any size"
    whole[top : top + found.shape[0], left : left + found.shape[1]] = found
    true = pixels[0, 0] == 220
    assert (whole & true).sum() / (whole | true).sum() > 0.6


def test_the_gate_holds_both_and_the_report_says_both(outlined: Path) -> None:
    assert call(gate.main, "--against", "HEAD").returncode == 0
    write_params(OUTLINES | {"gate": {"min_mask_ap50": 1.0}})
    Path("reports/metrics.json").write_text(json.dumps(metrics() | {"mask_ap50": 0.7}), "utf-8")
    closed = call(gate.main, "--against", "HEAD")
    assert closed.returncode == 1 and "mask AP50: 0.7, wanted at least 1" in closed.stderr
    assert call(report.main, "--against", "HEAD").returncode == 0
    text = Path("reports/report.md").read_text("utf-8")
    assert "Mask AP50 **0." in text and "Box AP50 " in text and "| mask AP50 " in text
    for name in ("misses", "precision-recall", "reliability", "curves"):
        assert (Path("reports/pictures") / f"{name}.png").is_file()
    with Path("reports/plots/classes.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["class"] == "ship" and {"mask_ap50", "ap50"} < row.keys()


def test_tests_of_the_model_move_the_masks_too(outlined: Path) -> None:
    Path("tests.yaml").write_text(
        "tests:\n  turns: {kind: invariance, under: [turn], max_changed: 1}\n"
        "  aside: {kind: shift, pixels: [2], max_drop: 1}\n",
        "utf-8",
    )
    assert call(judge).returncode == 0
    found = {
        test["name"]: test for test in json.loads(Path("reports/tests.json").read_text())["tests"]
    }
    assert found["aside"]["measure"] == "mask AP50" and found["aside"]["state"] == "passed"
    assert found["turns"]["state"] == "passed"


def test_integers_answer_masks_of_any_size(outlined: Path) -> None:
    graph, _ = read_bundle()
    chips = read_prepared().split("train").chips
    small = quantize.quantize(graph, chips)
    large = np.tile(chips[:1], (1, 1, 1, 2))
    ours, theirs = (session(of).run(["masks"], {"chips": large})[0] for of in (small, graph))
    assert ours.shape == theirs.shape == (1, 100, EDGE, EDGE) and ours.dtype == np.uint8
    assert np.abs(ours[0, 0].astype(int) - theirs[0, 0]).mean() < 40


def test_data_with_boxes_alone_are_refused_before_training(found: Path) -> None:
    write_params(PORTS | {"model": {"task": "instances", "network": "unet-half"}})
    done = call(train.main)
    assert done.returncode == 1
    assert "needs labels of the kind masks; data/ has boxes: use one of detection" in done.stderr
