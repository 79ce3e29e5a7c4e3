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
        self, request_id: str, model: Model, best: int, probability: float, chip: Any, *_: Any
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
    body, tag, *_ = asyncio.run(container.predictor().predict(npy(chip), "", "abc"))
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


def test_a_caller_chooses_the_model_that_answers_whatever_serves(
    container: Container, tmp_path: Path, recorded: Recorded
) -> None:
    other = make_bundle(tmp_path / "other", seed=1, bands=("B02", "B03", "B04"), name="ships")
    ships, chip = Model("ships@v2.0.0", read_bundle(other)), make_chip(5, bands=3)
    body, tag, *_ = asyncio.run(container.predictor().predict(npy(chip), "", "abc", model=ships))
    assert tag == json.loads(body)["model"]["tag"] == "ships@v2.0.0"
    found = list(json.loads(body)["probabilities"].values())
    assert np.allclose(found, expected(other, chip), atol=1e-6)
    assert [item[0] for item in recorded] == ["abc"]
    with pytest.raises(Unprocessable):
        asyncio.run(container.predictor().predict(npy(make_chip(5)), "", "abc", model=ships))
    assert ships.in_flight == 0
    assert asyncio.run(container.predictor().predict(npy(make_chip(5)), "", "b")).tag != tag


def test_a_model_counts_as_in_flight_while_a_large_image_is_decoded(
    container: Container, bundle: Path
) -> None:
    model = Model("landcover@v1.0.0", read_bundle(bundle))
    large = npy(np.concatenate([make_chip(1)] * 40, axis=2))  # 1.3 MB: a thread decodes it

    async def main() -> int:
        task = asyncio.ensure_future(container.predictor().predict(large, "", "abc", model=model))
        await asyncio.sleep(0)
        found = model.in_flight
        with pytest.raises(Unprocessable):
            await task
        return found

    assert asyncio.run(main()) == 1
    assert model.in_flight == 0


def test_a_broken_model_is_logged_once(
    container: Container, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        with pytest.raises(InvalidOutput, match="landcover@v1.0.0: the model returned"):
            bright = npy(np.full((4, 64, 64), 65535, np.uint16))
            asyncio.run(container.predictor().predict(bright, "", "abc"))
    assert [record.message for record in caplog.records] == ["the model returned no prediction"]


class Runs(list[int]):
    """How many chips went through the graph in each run."""

    def __init__(self, model: Model, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        model.at_once = at_once
        infer = model.engine.infer

        def counted(chips: Any) -> Any:
            self.append(len(chips))
            return infer(chips)

        monkeypatch.setattr(model.engine, "infer", counted)


def together(container: Container, images: list[bytes], model: Model | None = None) -> list[Any]:
    """Send images at the same moment; answers or errors, in their order."""
    predict = container.predictor().predict

    async def main() -> list[Any]:
        asked = [predict(image, "", f"{i}", model=model) for i, image in enumerate(images)]
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(main())


def test_images_that_wait_share_a_run_where_the_model_gains_by_that(
    container: Container, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [npy(make_chip(number)) for number in range(7)]
    alone = [answer[:4] for answer in together(container, images)]
    assert all(answer[2] >= 0 and 0 < answer[3] <= 1 for answer in alone), "class and confidence"
    recorded.clear()
    runs = Runs(container.serving().model(), 4, monkeypatch)
    assert [answer[:4] for answer in together(container, images)] == alone
    assert runs == [1, 4, 2], "the first waits for nobody, then as many as may"
    assert [item[0] for item in recorded] == [f"{i}" for i in range(7)]


def test_images_do_not_share_a_run_where_the_model_gains_nothing(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(container.serving().model(), 1, monkeypatch)
    together(container, [npy(make_chip(number)) for number in range(4)])
    assert runs == [1, 1, 1, 1]


def test_a_bad_image_in_a_shared_run_is_refused_and_counted_alone(
    container: Container, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(container.serving().model(), 4, monkeypatch)
    before = refused(container, "Unprocessable")
    good, bad = npy(make_chip(5)), npy(make_chip(1, bands=3))
    answers = together(container, [good, good, bad, good])
    assert isinstance(answers[2], Unprocessable)
    assert [json.loads(answers[i].body)["request_id"] for i in (0, 1, 3)] == ["0", "1", "3"]
    assert (runs, refused(container, "Unprocessable")) == ([1, 2], before + 1)
    assert [item[0] for item in recorded] == ["0", "1", "3"]


def test_only_images_for_one_model_share_a_run(
    container: Container, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Model("ships@v2.0.0", read_bundle(make_bundle(tmp_path / "other", seed=1)))
    runs = Runs(container.serving().model(), 4, monkeypatch)
    Runs(other, 4, monkeypatch)
    predict = container.predictor().predict

    async def main() -> list[str]:
        models = (None, None, other, None, other)
        asked = [predict(npy(make_chip(5)), "", "abc", model=model) for model in models]
        return [answer.tag for answer in await asyncio.gather(*asked)]

    default = "landcover@v1.0.0"
    assert asyncio.run(main()) == [default, default, other.tag, default, other.tag]
    assert runs == [1, 2]


def test_a_client_that_leaves_disturbs_nobody_in_a_shared_run(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    Runs(container.serving().model(), 2, monkeypatch)
    predictor = container.predictor()

    async def main() -> list[Any]:
        asked = [
            asyncio.ensure_future(predictor.predict(npy(make_chip(i)), "", f"{i}"))
            for i in range(6)
        ]
        await asyncio.sleep(0)
        for left in (asked[2], asked[5]):
            left.cancel()
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = asyncio.run(main())
    assert isinstance(answers[5], asyncio.CancelledError)
    found = [json.loads(answers[i].body)["request_id"] for i in (0, 1, 3, 4)]
    assert found == ["0", "1", "3", "4"]
    assert not predictor._waiting
