"""A model that maps, served: what `/predict`, `/samples`, `/version` and `/metrics` say of it."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.errors import BundleRefused
from service.inference.bundle import read_bundle
from service.inference.engine import Engine
from service.inference.tasks import task_of
from tests.make import bundles, maps
from tests.make.bundles import pack
from tests.make.processes import until
from tests.make.projects import Published, contents
from tests.make.server import Server, serving
from tests.make.swaps import replace, version

BARE = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return maps.make_bundle(tmp_path_factory.mktemp("segmentation") / "model")


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(bundle, tmp_path_factory.mktemp("server")) as running:
        yield running


def npy(chip: npt.NDArray[Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, chip)
    return content.getvalue()


def predict(server: Server, chip: npt.NDArray[Any]) -> httpx.Response:
    return httpx.post(f"{server.url}/predict", content=npy(chip), headers=BARE, timeout=60)


def runtime(bundle: Path, chip: npt.NDArray[Any]) -> tuple[Any, Any]:
    """Labels and confidence of a chip, from the runtime itself."""
    session = onnxruntime.InferenceSession((bundle / "model.onnx").read_bytes())
    labels, confidence = session.run(["labels", "confidence"], {"chips": chip[None]})
    return labels[0], confidence[0]


def test_a_chip_is_answered_with_the_share_of_each_class(server: Server, bundle: Path) -> None:
    chip = maps.ground(maps.CHIP, maps.CHIP, 7)
    chip[:, :10] = 0
    labels, confidence = runtime(bundle, chip)
    known = labels != 255
    answer = predict(server, chip)
    assert answer.status_code == 200
    body = answer.json()
    counts = np.bincount(labels[known], minlength=3)
    expected = dict(zip(maps.CLASSES, counts / counts.sum(), strict=True))
    assert body["shares"] == pytest.approx(expected, abs=1e-6)
    assert body["class"] == maps.CLASSES[int(counts.argmax())]
    assert body["confidence"] == pytest.approx(confidence[known].mean() / 100)
    assert body["nodata"] == pytest.approx(10 / maps.CHIP)
    assert body["model"]["tag"] == "local"
    assert "probabilities" not in body and "probability" not in body


def test_a_chip_without_data_and_one_of_another_size_are_refused(server: Server) -> None:
    empty = predict(server, np.zeros((4, maps.CHIP, maps.CHIP), np.uint16))
    assert (empty.status_code, "nodata" in empty.json()["detail"]) == (422, True)
    large = predict(server, maps.ground(50, 70))
    assert large.status_code == 422
    assert "50" in large.json()["detail"] and "70" in large.json()["detail"]
    assert predict(server, maps.ground(maps.CHIP, maps.CHIP)).status_code == 200


def test_samples_are_named_after_the_largest_class_of_their_map(
    server: Server, bundle: Path
) -> None:
    (sample,) = httpx.get(f"{server.url}/samples").json()
    content = httpx.get(f"{server.url}/samples/0").content
    chip = np.load(io.BytesIO(content))
    labels, _ = runtime(bundle, chip)
    assert sample["answer"] == maps.CLASSES[int(np.bincount(labels.ravel()).argmax())]
    assert predict(server, chip).json()["class"] == sample["answer"]
    assert httpx.get(f"{server.url}/samples/0.png").headers["content-type"] == "image/png"


def test_version_names_the_task(server: Server, tmp_path: Path) -> None:
    model = version(server)["model"]
    assert (model["task"], tuple(model["classes"])) == ("segmentation", maps.CLASSES)
    assert model["input"]["height"] == maps.CHIP
    with serving(bundles.make_bundle(tmp_path / "model"), tmp_path, workers=1) as other:
        assert version(other)["model"]["task"] == "classification"


def test_metrics_count_the_largest_class_and_measure_drift(server: Server) -> None:
    before = predictions(server)
    answers = [predict(server, maps.ground(maps.CHIP, maps.CHIP, n)).json() for n in range(12)]

    def counted() -> bool:
        now = predictions(server)
        return all(
            now.get(name, 0) - before.get(name, 0) == [a["class"] for a in answers].count(name)
            for name in maps.CLASSES
        )

    until(counted, "the counts of the classes")
    names = {family.name for family in families(server)}
    assert {"model_drift_window_seconds", "model_info"} <= names, sorted(names)


def families(server: Server) -> list[Any]:
    return list(text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text))


def predictions(server: Server) -> dict[str, float]:
    """How often each class was answered."""
    found: dict[str, float] = {}
    for family in families(server):
        for sample in family.samples:
            if sample.name == "model_predictions_total":
                name = sample.labels["class"]
                found[name] = found.get(name, 0) + sample.value
    return found


def test_a_label_corrects_the_answer_of_a_map(server: Server) -> None:
    answer = predict(server, maps.ground(maps.CHIP, maps.CHIP, 3)).json()
    other = next(name for name in maps.CLASSES if name != answer["class"])
    body = {"request_id": answer["request_id"], "label": other}
    given = httpx.post(f"{server.url}/feedback", json=body, timeout=60)
    assert given.status_code == 200, given.text
    assert (given.json()["predicted"], given.json()["correct"]) == (answer["class"], False)


def test_a_map_takes_the_place_of_another_and_not_that_of_chips_of_another_size(
    bundle: Path, tmp_path: Path
) -> None:
    project = Published(tmp_path / "project")
    project.publish("landcover@v2.0.0", contents(maps.make_bundle(tmp_path / "next", seed=1)))
    project.publish("landcover@v3.0.0", contents(bundles.make_bundle(tmp_path / "classifier")))
    with serving(bundle, tmp_path, workers=1, repository=project.folder) as server:
        assert replace(server, "landcover@v2.0.0").status_code == 200
        answer = predict(server, maps.ground(maps.CHIP, maps.CHIP))
        assert answer.json()["model"]["tag"] == "landcover@v2.0.0"
        refused = replace(server, "landcover@v3.0.0")
        assert (refused.status_code, refused.json()["step"]) == (422, "verify")
        assert version(server)["model"]["tag"] == "landcover@v2.0.0"


def test_a_golden_map_that_is_not_reproduced_is_refused(bundle: Path, tmp_path: Path) -> None:
    manifest = json.loads((bundle / "model.json").read_bytes())
    chip = maps.ground(maps.CHIP, maps.CHIP, 100)
    labels = runtime(bundle, chip)[0].copy()
    labels[:2] = (labels[:2] + 1) % 3
    golden = [{"chip": manifest["golden"][0]["chip"], "labels": pack(labels)}]
    wrong = read_bundle(maps.make_bundle(tmp_path / "wrong", golden=golden))
    with pytest.raises(BundleRefused, match=r"golden chip 0 gets another class in 6\.25% of its"):
        Engine(wrong, task_of(wrong.manifest), "cpu").self_test()
    right = read_bundle(bundle)
    Engine(right, task_of(right.manifest), "cpu").self_test()
