"""A model that finds objects, served: JSON, picture, overlay, table, page and metrics."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from service.errors import BundleRefused
from service.inference.bundle import read_bundle
from service.inference.drawing import COLOURS, draw_objects
from service.inference.engine import Engine
from service.inference.tasks import task_of
from tests.make import batches, browser, harbours, images
from tests.make.processes import until
from tests.make.server import Server, serving
from tests.make.swaps import version

BARE = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harbours.make_bundle(tmp_path_factory.mktemp("detection") / "model")


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(bundle, tmp_path_factory.mktemp("server"), workers=1) as running:
        yield running


def predict(
    server: Server, chip: npt.NDArray[Any], accept: str = "*/*", query: str = ""
) -> httpx.Response:
    headers = BARE | {"accept": accept}
    url = f"{server.url}/predict{query}"
    return httpx.post(url, content=images.npy(chip), headers=headers, timeout=60)


def opened(answer: httpx.Response) -> Image.Image:
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content))


def test_objects_are_listed_with_boxes_in_pixels_the_surest_first(server: Server) -> None:
    answer = predict(server, harbours.water((16, 20), (8, 4)))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert [(item["class"], item["box"]) for item in body["objects"]] == [
        ("tank", [8, 4, 12, 8]),
        ("tank", [16, 20, 20, 24]),
    ]
    assert body["counts"] == {"ship": 0, "tank": 2} and body["threshold"] == harbours.THRESHOLD
    scores = [item["score"] for item in body["objects"]]
    assert scores == sorted(scores, reverse=True) and min(scores) >= harbours.THRESHOLD
    assert body["model"]["tag"] == "local" and "class" not in body


def test_an_image_without_objects_has_an_empty_list(server: Server) -> None:
    body = predict(server, harbours.water()).json()
    assert body["objects"] == [] and body["counts"] == {"ship": 0, "tank": 0}


@pytest.mark.parametrize("size", [(8, 20), (13, 31), (100, 37), (64, 640)])
def test_an_image_of_any_size_is_answered_in_its_own_pixels(
    server: Server, size: tuple[int, int]
) -> None:
    high, wide = size
    chip = harbours.water((4, 0), high=high, wide=wide)
    (item,) = predict(server, chip).json()["objects"]
    assert (item["class"], item["box"]) == ("ship", [4, 0, 8, 4])


def test_what_is_in_the_padding_is_no_object_and_boxes_end_at_the_edge(server: Server) -> None:
    chip = harbours.water(high=13, wide=30)
    chip[:, 12:, 28:] = 60_000  # the pixels at the edge are repeated beyond it
    objects = predict(server, chip).json()["objects"]
    assert [item["box"] for item in objects] == [[28, 12, 30, 13]]


def test_an_image_smaller_than_the_stride_is_refused_and_the_next_is_answered(
    server: Server,
) -> None:
    small = predict(server, harbours.water(high=7, wide=64))
    assert small.status_code == 422
    assert small.json()["detail"] == "64 x 7 pixels, wanted 8 x 8 at least"
    fit = predict(server, harbours.water(), query="?fit=crop")
    assert fit.status_code == 422 and "images of any size as they are" in fit.json()["detail"]
    bands = predict(server, harbours.water()[:3])
    assert bands.status_code == 422
    assert predict(server, harbours.water((4, 0))).status_code == 200


@pytest.mark.parametrize(("accept", "form"), [("image/png", "PNG"), ("image/jpeg", "JPEG")])
def test_accept_asks_for_the_image_with_its_objects(server: Server, accept: str, form: str) -> None:
    answer = predict(server, harbours.water((8, 8)), accept)
    picture = opened(answer)
    assert answer.headers["content-type"] == accept
    assert (picture.format, picture.size, picture.mode) == (form, (512, 512), "RGB")
    frame = np.asarray(picture)[8 * 16 + 8 : 12 * 16 - 8, 8 * 16 - 1].astype(int).mean(axis=0)
    wanted = [int(COLOURS[0][at : at + 2], 16) for at in (1, 3, 5)]
    assert np.abs(frame - wanted).max() < 40


def test_an_overlay_is_the_objects_alone_on_nothing(server: Server) -> None:
    picture = opened(predict(server, harbours.water((8, 8)), "image/png;overlay"))
    assert picture.mode == "RGBA"
    opacity = np.asarray(picture)[..., 3]
    assert (opacity == 0).mean() > 0.9 and (opacity == 255).any()
    empty = opened(predict(server, harbours.water(), "image/png;overlay"))
    assert not np.asarray(empty)[..., 3].any()


@pytest.mark.parametrize("accept", ["application/json, image/png", "text/html", "image/webp", ""])
def test_everything_else_is_answered_as_json(server: Server, accept: str) -> None:
    answer = predict(server, harbours.water((8, 8)), accept)
    assert answer.headers["content-type"] == "application/json" and answer.json()["objects"]


def test_a_refused_image_is_refused_as_json_whatever_is_accepted(server: Server) -> None:
    answer = predict(server, harbours.water(high=4), "image/png")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_large_image_becomes_a_picture_that_can_be_shown(server: Server) -> None:
    chip = harbours.water((400, 40), high=64, wide=2500)
    picture = opened(predict(server, chip, "image/jpeg"))
    assert picture.size == (2048, 52)


def test_version_samples_and_metrics_speak_of_objects(server: Server) -> None:
    model = version(server)["model"]
    assert (model["task"], model["input"]["multiple"]) == ("detection", harbours.MULTIPLE)
    answers = [sample["answer"] for sample in httpx.get(f"{server.url}/samples").json()]
    assert answers == ["2 objects", "1 object"]
    chip = np.load(io.BytesIO(httpx.get(f"{server.url}/samples/0").content))
    assert len(predict(server, chip).json()["objects"]) == 2
    before = counted(server)
    for _ in range(3):
        predict(server, harbours.water((4, 0)))
    until(lambda: counted(server)["ship"] == before["ship"] + 3, "the counts of the classes")


def counted(server: Server) -> dict[str, float]:
    """How often the surest object was of each class."""
    found = dict.fromkeys(harbours.CLASSES, 0.0)
    for family in text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text):
        for sample in family.samples:
            if sample.name == "model_predictions_total":
                found[sample.labels["class"]] += sample.value
    return found


def test_feedback_says_that_it_does_not_apply(server: Server) -> None:
    answer = predict(server, harbours.water((8, 4))).json()
    body = {"request_id": answer["request_id"], "label": "ship"}
    given = httpx.post(f"{server.url}/feedback", json=body, timeout=60)
    assert given.status_code == 404
    assert "a model that finds objects are not stored" in given.json()["detail"]
    assert httpx.get(f"{server.url}/feedback").json()["answers"] == []


def test_a_batch_writes_the_boxes_that_predict_answers(
    server: Server, bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "chips"
    folder.mkdir()
    for number in range(6):
        chip = harbours.water(*[(4 * at, 4) for at in range(number)], wide=32 + number)
        (folder / f"{number}.npy").write_bytes(images.npy(chip))
    (folder / "small.npy").write_bytes(images.npy(harbours.water(high=4)))
    done = batches.batch(folder, tmp_path / "out.parquet", bundle)
    assert done.returncode == 0, done.stderr
    rows = batches.rows(tmp_path / "out.parquet")
    assert rows[-1]["objects"] is None and "wanted 8 x 8 at least" in rows[-1]["error"]
    for row in rows[:-1]:
        content = (folder / row["path"]).read_bytes()
        answer = httpx.post(server.url + "/predict", files={"file": content}).json()
        assert row["objects"] == answer["objects"] and row["threshold"] == answer["threshold"]
        assert {name: row[f"count_{name}"] for name in harbours.CLASSES} == answer["counts"]
        assert row["class"] == (answer["objects"][0]["class"] if answer["objects"] else None)


def test_the_page_draws_the_boxes_over_the_picture_and_asks_nothing(server: Server) -> None:
    with browser.chromium() as chrome, browser.visiting(chrome, server.url) as visit:
        page = visit.page
        browser.expect(page.locator("#takes")).to_contain_text("of any size")
        browser.expect(page.locator("#serving")).to_contain_text("any size, uint16")
        browser.expect(page.locator("h2").first).to_have_text("Find objects in an image")
        browser.choose(page, images.npy(harbours.water((16, 20), (8, 4))), "port.npy")
        browser.headline(page).to_have_text("tank: 2")
        browser.expect(page.locator("#objects rect")).to_have_count(2)
        box = page.locator("#objects rect").first
        assert [box.get_attribute(name) for name in ("x", "y", "width")] == ["8", "4", "4"]
        assert page.locator("#bars li").count() == 2
        browser.expect(page.locator("#feedback")).to_be_hidden()
        picture, drawn = (page.locator(name).bounding_box() for name in ("#picture", "#objects"))
        assert picture == drawn
        browser.choose(page, images.npy(harbours.water()), "sea.npy")
        browser.headline(page).to_have_text("No object")
        browser.expect(page.locator("#objects rect")).to_have_count(0)


def test_golden_boxes_that_are_not_reproduced_are_refused(bundle: Path, tmp_path: Path) -> None:
    golden = json.loads((bundle / "model.json").read_bytes())["golden"]
    Engine(right := read_bundle(bundle), task_of(right.manifest), "cpu").self_test()
    moved = [golden[0] | {"boxes": [[0, 0, 4, 4], *golden[0]["boxes"][1:]]}]
    fewer = [golden[0] | {name: golden[0][name][1:] for name in ("boxes", "scores", "labels")}]
    for number, (wrong, reason) in enumerate(
        [(moved, "1 of 2 boxes are missing, 0 are new"), (fewer, "0 of 1 boxes are missing, 1 are")]
    ):
        other = read_bundle(harbours.make_bundle(tmp_path / str(number), golden=wrong))
        with pytest.raises(BundleRefused, match=f"golden chip 0: {reason}"):
            Engine(other, task_of(other.manifest), "cpu").self_test()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"threshold": 1.5}, "threshold: wanted at most 1"),
        ({"threshold": None}, "threshold: wanted a number"),
        ({"classes": []}, "classes: "),
        ({"golden": []}, "golden: "),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(BundleRefused, match=reason):
        read_bundle(harbours.make_bundle(tmp_path / "model", **changes))


def test_a_box_across_the_edge_of_a_picture_is_drawn_as_far_as_it_goes() -> None:
    picture = Image.new("RGB", (40, 40))
    item = {"class": "ship", "score": 0.5, "box": [-5, -5, 80, 12]}
    draw_objects(picture, [item, item | {"class": "tank", "box": [3, 3, 3, 3]}], ("ship", "tank"))
    assert np.asarray(picture).any()
