"""Detection through the stages: from images with boxes to a report that judges it."""

import json
from pathlib import Path

import numpy as np
import pytest

from contracts.bundle import Detection
from pipeline import gate, load, report, train
from pipeline.bundle.inference import predict, session
from pipeline.bundle.manifest import read_bundle
from pipeline.data.prepared import read_prepared
from pipeline.ingest import ingest
from pipeline.sources.coco import Coco
from tests.conftest import write_params
from tests.make.harbours import image, make_coco, write_document
from tests.make.trained import PORTS, metrics
from tests.pipeline.conftest import call


def test_no_port_is_in_two_splits_and_all_boxes_are_there(found: Path) -> None:
    document = json.loads(Path("reports/data.json").read_text("utf-8"))
    assert document["chips"] == document["files"] == 30 and document["classes"] == {"ship": 25}
    seen: dict[str, set[str]] = {}
    boxes = 0
    for name in ("train", "validation", "test"):
        split = read_prepared().split(name)
        boxes += int((split.labels[..., 0] >= 0).sum())
        for row in split.rows:
            seen.setdefault(row.label, set()).add(name)
    assert boxes == 25 and len(seen) == 5 and all(len(splits) == 1 for splits in seen.values())


def test_the_model_has_learned_what_is_bright(found: Path) -> None:
    assert metrics()["ap50"] > 0.5
    assert metrics()["ap50_low"] <= metrics()["ap50"] <= metrics()["ap50_high"]
    assert metrics()["test_objects"] == 5 and metrics()["test_groups"] == 1


def test_the_bundle_answers_for_any_multiple_and_knows_its_threshold(found: Path) -> None:
    graph, manifest = read_bundle()
    assert isinstance(manifest, Detection) and manifest.input.multiple == 16
    assert 0 < manifest.threshold < 1 and len(manifest.golden) == 2
    pixels = image([(8, 40, 16, 48), (60, 10, 76, 18)], 96)[:64].transpose(2, 0, 1)[None]
    answer = predict(session(graph), pixels, ("boxes", "scores", "labels", "statistics"))
    assert answer["boxes"].shape == (1, 100, 4)
    sure = answer["boxes"][0][answer["scores"][0] >= manifest.threshold]
    for wanted in ((8, 40, 16, 48), (60, 10, 76, 18)):
        assert np.abs(sure - np.array(wanted)).max(axis=1).min() < 4


def test_the_gate_holds_its_own_floors_and_the_report_says_them(found: Path) -> None:
    assert call(gate.main, "--against", "HEAD").returncode == 0
    write_params(PORTS | {"gate": {"min_ap50": 1.0, "min_size_recall": 0.3}})
    Path("reports/metrics.json").write_text(json.dumps(metrics() | {"ap50": 0.7}), "utf-8")
    closed = call(gate.main, "--against", "HEAD")
    assert closed.returncode == 1 and "AP50: 0.7, wanted at least 1" in closed.stderr
    assert call(report.main, "--against", "HEAD").returncode == 0
    text = Path("reports/report.md").read_text("utf-8")
    assert "AP50 **0." in text and "## Recall by size" in text and "pictures/misses.png" in text
    for name in ("misses", "precision-recall", "reliability", "curves"):
        assert (Path("reports/pictures") / f"{name}.png").is_file()


def test_an_equal_model_is_no_loss(found: Path) -> None:
    from pipeline.tasks import detection

    ours = detection.parse_predictions(Path("reports/predictions.csv").read_text("utf-8"), "ours")
    same = detection.compare(ours, ours, 100)
    assert same is not None and not same.is_loss and same.difference == (0, 0)


def test_a_task_or_a_network_that_does_not_fit_is_refused_before_training(found: Path) -> None:
    write_params(PORTS | {"model": {"task": "segmentation", "network": "unet"}})
    other = call(train.main)
    assert other.returncode == 1 and "data/ has boxes: use one of detection" in other.stderr
    write_params(PORTS | {"model": {"task": "detection", "network": "unet"}})
    other = call(train.main)
    assert other.returncode == 1
    assert "'unet': use one of unet-half, as model.task is detection" in other.stderr


def test_a_bad_image_is_quarantined_with_its_reason(found: Path) -> None:
    write_params(PORTS | {"load": {"max_bad_fraction": 0.5}})
    Path("data/boxes/porta_001.json").chmod(0o644)
    Path("data/boxes/porta_001.json").write_text('{"group": "porta"', "utf-8")
    assert call(load.main).returncode == 0
    document = json.loads(Path("reports/data.json").read_text("utf-8"))
    (bad,) = document["quarantine"]
    assert bad["path"] == "images/porta_001.png" and "boxes/porta_001.json: " in bad["reason"]


def test_refused_images_are_left_out_with_their_boxes(
    found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = make_coco(tmp_path / "ports")
    document["annotations"][0]["category_id"] = 5
    write_document(tmp_path / "ports", document)
    (tmp_path / "ports" / "portb_002.png").unlink()
    ingest(Coco(tmp_path / "ports"), dry_run=True)
    said = capsys.readouterr().out
    assert "porta_001.png: annotation 100 has the unknown category 5" in said
    assert "images │    22" in said and "boxes  │    22" in said
