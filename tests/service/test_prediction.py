"""The prediction use case without HTTP: an image in, an answer out, observed and recorded once."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.container import Container
from service.errors import InvalidOutput, Unprocessable, UnsupportedMedia
from service.inference.bundle import read_bundle
from service.inference.model import Model
from service.settings import read_settings
from tests.make.bundles import CLASSES, expected, make_bundle, make_chip


class Recorded(list[tuple[str, int, float]]):
    """A recorder that keeps predictions in a list."""

    def record(
        self, request_id: str, model: Model, best: int, probability: float, chip: Any
    ) -> None:
        self.append((request_id, best, probability))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "model", blind_when_bright=True)


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@pytest.fixture
def container(
    bundle: Path, tmp_path: Path, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> Container:
    (tmp_path / "counters").mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "counters"))
    container = Container()
    container.settings.override(read_settings(state=tmp_path / "state"))
    container.recorder.override(recorded)
    container.serving().switch(Model("landcover@v1.0.0", read_bundle(bundle)))
    return container


def npy(chip: np.ndarray[Any, Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, chip)
    return content.getvalue()


def counted(container: Container) -> float:
    container.observations().flush()
    return sum(
        float(record["predictions"].sum()) for _, record in container.observations().totals()
    )


def refused(container: Container, reason: str) -> float:
    found: float = container.metrics().refused.labels(reason)._value.get()
    return found


def test_an_image_is_answered_observed_and_recorded_once(
    container: Container, bundle: Path, recorded: Recorded
) -> None:
    chip = make_chip(5)
    body, tag = asyncio.run(container.predictor().predict(npy(chip), "", "abc"))
    probabilities = expected(bundle, chip)
    best, answer = int(probabilities.argmax()), json.loads(body)
    assert tag == "landcover@v1.0.0"
    assert answer["class"] == CLASSES[best]
    assert np.allclose(list(answer["probabilities"].values()), probabilities, atol=1e-6)
    assert (answer["request_id"], answer["model"]["tag"]) == ("abc", tag)
    assert recorded == [("abc", best, answer["probability"])]
    assert counted(container) == 1


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (npy(make_chip(1, bands=3)), Unprocessable),
        (b"no image", UnsupportedMedia),
        (npy(np.full((4, 64, 64), 65535, np.uint16)), InvalidOutput),
    ],
    ids=["bands", "format", "NaN"],
)
def test_an_image_without_a_prediction_is_counted_as_refused_and_not_recorded(
    container: Container, recorded: Recorded, content: bytes, error: type[Exception]
) -> None:
    before = refused(container, error.__name__)
    for _ in range(2):
        with pytest.raises(error):
            asyncio.run(container.predictor().predict(content, "", "abc"))
    assert refused(container, error.__name__) == before + 2
    assert (recorded, counted(container)) == ([], 0)


def test_a_broken_model_is_logged_once(
    container: Container, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        with pytest.raises(InvalidOutput, match="landcover@v1.0.0: the model returned"):
            bright = npy(np.full((4, 64, 64), 65535, np.uint16))
            asyncio.run(container.predictor().predict(bright, "", "abc"))
    assert [record.message for record in caplog.records] == ["the model returned no prediction"]
