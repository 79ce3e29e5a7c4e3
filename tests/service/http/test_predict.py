"""`POST /predict`: every format and way of sending gives the answer of the runtime."""

import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.schemas import Prediction
from tests.make.bundles import CLASSES, expected, make_bundle, make_chip
from tests.make.images import CHIP, CHIPS, npy, tiff
from tests.make.server import Server, serving

FILES = CHIPS | {
    "tiled TIFF in planes": tiff(CHIP, planarconfig="separate", tile=(32, 32)),
    "big-endian NPY": npy(CHIP.astype(">u2")),
}


@pytest.fixture(scope="module")
def answer(bundle: Path) -> np.ndarray[Any, Any]:
    return expected(bundle, CHIP)


def check(response: httpx.Response, answer: np.ndarray[Any, Any]) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    Prediction.model_validate(body)
    assert list(body["probabilities"]) == list(CLASSES)
    assert np.allclose(list(body["probabilities"].values()), answer, atol=2e-6)
    assert body["class"] == CLASSES[int(answer.argmax())]
    assert body["probability"] == max(body["probabilities"].values())
    return body


def test_every_format_is_answered_as_the_runtime_answers(
    server: Server, answer: np.ndarray[Any, Any]
) -> None:
    kind = {"content-type": "application/octet-stream"}
    wrong = {}
    for name, content in FILES.items():
        bare: dict[str, Any] = {"content": content, "headers": kind}
        for sent in (bare, {"files": {"file": content}}):
            try:
                check(httpx.post(server.url + "/predict", **sent), answer)
            except AssertionError as error:
                wrong[name] = str(error)
    assert not wrong


def test_pictures_are_taken_by_a_model_of_three_bands(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "model", bands=("red", "green", "blue"), dtype="uint8")
    chip = make_chip(3, 3, "uint8")
    with serving(bundle, tmp_path, workers=1) as server:
        for form in ("PNG", "JPEG"):
            file = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(chip.transpose(1, 2, 0))).save(file, form)
            seen = np.asarray(Image.open(file)).transpose(2, 0, 1)
            kind = {"content-type": f"image/{form.lower()}"}
            response = httpx.post(server.url + "/predict", content=file.getvalue(), headers=kind)
            check(response, expected(bundle, np.ascontiguousarray(seen)))


def test_the_answer_names_the_model_and_the_request(server: Server, bundle: Path) -> None:
    response = httpx.post(server.url + "/predict", files={"file": npy(CHIP)})
    digest = json.loads((bundle / "model.json").read_text(encoding="utf-8"))["sha256"]
    assert response.json()["model"] == {"name": "landcover", "tag": "local", "sha256": digest}
    assert response.json()["request_id"] == response.headers["x-request-id"]


def test_a_refusal_has_the_id_of_the_caller(server: Server) -> None:
    headers = {"x-request-id": "abc-123"}
    response = httpx.post(server.url + "/predict", files={"file": b"x"}, headers=headers)
    assert response.json()["instance"] == "urn:request:abc-123"
    assert response.headers["x-request-id"] == "abc-123"


def test_a_request_id_that_is_unsafe_in_a_log_is_replaced(server: Server) -> None:
    headers = {"x-request-id": 'a"b c'}
    response = httpx.post(server.url + "/predict", files={"file": npy(CHIP)}, headers=headers)
    assert len(response.headers["x-request-id"]) == 16
    assert response.json()["request_id"] == response.headers["x-request-id"]


def test_another_size_is_refused_with_the_size_that_is_wanted(server: Server) -> None:
    for size in (32, 63, 128, 200):
        chip = make_chip(1, size=size)
        response = httpx.post(server.url + "/predict", files={"file": npy(chip)})
        assert response.status_code == 422
        assert f"{size} x {size} pixels, wanted 64 x 64" in response.json()["detail"]
        assert "?fit=resize" in response.json()["detail"]


def test_another_size_is_resampled_when_asked_for(server: Server) -> None:
    wanted = httpx.post(server.url + "/predict", files={"file": npy(even(64, 64))}).json()
    for shape in ((32, 32), (128, 128), (200, 70)):
        file = {"file": npy(even(*shape))}
        response = httpx.post(server.url + "/predict?fit=resize", files=file)
        assert response.json()["probabilities"] == wanted["probabilities"], shape


def even(height: int, width: int) -> np.ndarray[Any, Any]:
    """A chip with one value a band."""
    return np.stack([np.full((height, width), 1000 * band + 500, np.uint16) for band in range(4)])


def test_a_large_image_is_resampled_beside_the_loop(server: Server) -> None:
    chip = even(700, 700)
    assert chip.nbytes > 1 << 20
    response = httpx.post(server.url + "/predict?fit=resize", files={"file": npy(chip)})
    assert response.status_code == 200, response.text


def test_every_fit_takes_an_image_of_any_shape(server: Server) -> None:
    thin = np.full((4, 1, 100_000), 500, np.uint16)
    for how in ("crop", "pad", "stretch"):
        for chip in (even(200, 70), even(3, 5), thin):
            answer = httpx.post(f"{server.url}/predict?fit={how}", files={"file": npy(chip)})
            assert answer.status_code == 200, (how, chip.shape, answer.text)


def test_another_value_of_fit_is_refused(server: Server) -> None:
    for query in ("fit=smaller", "fit=", "fit=crop&fit=pad", "fit=CROP"):
        response = httpx.post(f"{server.url}/predict?{query}", files={"file": npy(CHIP)})
        assert response.status_code == 422, query
        assert "fit: use one of crop, pad, stretch" in response.json()["detail"]


UNFIT = [
    (
        make_chip(1, bands=3),
        "the image has 3 bands, wanted 4 (B02, B03, B04, B08): write these bands, and no others",
    ),
    (make_chip(1).astype(np.uint8), "values are uint8, wanted uint16"),
    (make_chip(1).astype(np.int64), "values are int64, wanted uint16"),
    (np.full((4, 64, 64), np.nan, np.float32), "NaN or infinite"),
    (np.full((4, 64, 64), np.inf, np.float64), "NaN or infinite"),
    (make_chip(1)[0], "shape (64, 64), wanted (bands, height, width)"),
]


def test_an_image_that_the_model_does_not_take_is_refused_with_the_difference(
    server: Server,
) -> None:
    for chip, sentence in UNFIT:
        response = httpx.post(server.url + "/predict", files={"file": npy(chip)})
        assert response.status_code == 422, sentence
        assert sentence in response.json()["detail"]


def test_a_body_without_a_type_is_refused_with_the_cure(server: Server) -> None:
    response = httpx.post(server.url + "/predict", content=npy(CHIP))
    assert response.status_code == 415
    assert "application/octet-stream" in response.json()["detail"]


def test_a_model_that_answers_nan_fails_the_request_and_predicts_nothing(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "model", blind_when_bright=True)
    bright = np.full((4, 64, 64), 65535, np.uint16)
    with serving(bundle, tmp_path, workers=1) as server, server.client() as client:
        failed = client.post("/predict", files={"file": npy(bright)})
        assert failed.status_code == 500
        assert failed.headers["content-type"] == "application/problem+json"
        assert "local: the model returned probabilities that are NaN" in failed.json()["detail"]
        assert client.post("/predict", files={"file": npy(CHIP)}).status_code == 200
        metrics = client.get("/metrics").text.splitlines()
        listed: list[dict[str, Any]] = []
        while not listed:  # it is imported within a second or two
            listed = client.get("/feedback").json()["answers"]
    assert 'uploads_refused_total{reason="InvalidOutput"} 1.0' in metrics
    assert 'http_requests_total{handler="/predict",method="POST",status="500"} 1.0' in metrics
    counted = [line for line in metrics if line.startswith("model_predictions_total{")]
    assert sum(float(line.rpartition(" ")[2]) for line in counted) == 1
    assert [row["tag"] for row in listed] == ["local"]
    assert np.isfinite([row["probability"] for row in listed]).all()
    errors = [line for line in server.lines() if line.get("level") == "error"]
    assert [line["event"] for line in errors] == ["the model returned no prediction"]
