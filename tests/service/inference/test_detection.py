"""A model that finds objects, served: JSON, picture, overlay, table, page and metrics."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from tests.make import batches, browser, feedback, harbours, images
from tests.make.processes import until
from tests.make.server import Server, serving
from tests.make.swaps import version
from tests.make.wire import refusal

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BARE = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harbours.make_bundle(tmp_path_factory.mktemp("detection") / "model")


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with serving(bundle, folder, workers=1, keep_images=8) as running:
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


SHIP, TANK = [16.0, 16.0, 20.0, 20.0], [8.0, 4.0, 12.0, 8.0]


def give(server: Server, request_id: str, **label: Any) -> httpx.Response:
    body = {"request_id": request_id} | label
    return httpx.post(f"{server.url}/feedback", json=body, timeout=60)


def listed(server: Server, request_id: str) -> dict[str, Any]:
    rows = feedback.everything(server)
    (row,) = [row for row in rows if row["request_id"] == request_id]
    return row


def test_feedback_takes_all_objects_that_are_there(server: Server) -> None:
    answer = predict(server, harbours.water((8, 4), (16, 16), high=40, wide=50)).json()
    name = answer["request_id"]
    objects = [{"class": it["class"], "box": it["box"]} for it in answer["objects"]]
    given = give(server, name, objects=objects)
    assert given.json() == {
        **{"request_id": name, "found": 2, "missed": 0, "false": 0},
        **{"correct": True, "answers": 1},
    }
    assert give(server, name, objects=objects[::-1]).json()["answers"] == 1
    other = [{"class": "tank", "box": TANK}, {"class": "tank", "box": SHIP}]
    corrected = give(server, name, objects=other).json()
    assert corrected == {
        **{"request_id": name, "found": 1, "missed": 1, "false": 1},
        **{"correct": False, "answers": 2},
    }
    row = listed(server, name)
    assert row["predicted_objects"] == answer["objects"]
    assert sorted(row["objects"], key=str) == sorted(other, key=str)
    facts = ("label", "height", "width", "found", "missed", "false", "image")
    assert [row[fact] for fact in facts] == [None, 40, 50, 1, 1, 1, True]
    content = httpx.get(f"{server.url}/feedback/{name}.npy").content
    assert np.load(io.BytesIO(content)).shape == (4, 40, 50)
    nothing = give(server, name, objects=[])
    assert nothing.json()["false"] == 2 and listed(server, name)["objects"] == []


LABELS: list[tuple[Any, str]] = [
    ({"objects": [{"class": "canoe", "box": SHIP}]}, "objects: 0: 'canoe' is not a class of the"),
    ({"objects": [{"class": "ship", "box": [5, 5, 5, 9]}]}, "objects: 0: the box [5.0, 5.0, 5.0"),
    ({"objects": [{"class": "ship", "box": [0, 0, 33, 9]}]}, "is outside of the image, 32 x 32"),
    ({"objects": [{"class": "ship", "box": SHIP}] * 2}, "objects: 1: it is the same as object 0"),
    ({"objects": [{"class": "ship", "box": SHIP}] * 101}, "objects: "),
    ({"objects": [{"class": "ship", "box": [1, 2, 3]}]}, "objects.0.box.3: it is missing"),
    ({"objects": [{"class": "ship", "box": [1, 2, 3, "wide"]}]}, "objects.0.box.3: wanted a num"),
    ({"objects": [{"class": "ship"}]}, "objects.0.box: it is missing"),
    ({"objects": [{"box": SHIP}]}, "objects.0.class: it is missing"),
    ({"objects": [{"class": "ship", "box": SHIP, "sure": 1}]}, "objects.0.sure: it is not known"),
    ({"objects": "ship"}, "objects: wanted a list"),
    ({"objects": None}, "body: give one of `label`"),
    ({}, "body: give one of `label`, the right class, and `objects`, all that are there"),
    ({"objects": [], "label": "ship"}, "body: give one of `label`"),
    ({"label": "ship"}, "label: the model that predicted finds objects, which no class confirms"),
]


def test_objects_that_cannot_be_taken_are_refused_with_a_sentence_and_nothing_changes(
    server: Server,
) -> None:
    name = predict(server, harbours.water((8, 4))).json()["request_id"]
    good = give(server, name, objects=[{"class": "tank", "box": TANK}]).json()
    for label, reason in LABELS:
        assert reason in refusal(give(server, name, **label), 422), label
    for number in ("NaN", "Infinity", "1e999"):
        content = f'{{"request_id": "{name}", "objects": [{{"class": "ship", "box": [1, 2, 3, '
        body = f"{content}{number}]}}]}}".encode()
        headers = {"content-type": "application/json"}
        refused = httpx.post(f"{server.url}/feedback", content=body, headers=headers)
        assert "objects.0.box.3: wanted a finite number" in refusal(refused, 422), number
    refusal(give(server, "unknown", objects=[]), 404)
    assert give(server, name, objects=[{"class": "tank", "box": TANK}]).json() == good


def test_the_metrics_report_f1_over_confirmed_objects(bundle: Path, tmp_path: Path) -> None:
    with serving(bundle, tmp_path) as server:
        for count in range(4):
            answer = predict(server, harbours.water((8, 4), (16, 16))).json()
            objects = [{"class": it["class"], "box": it["box"]} for it in answer["objects"]]
            more = [{"class": "ship", "box": [0, 0, 4, 4]}] * (count == 3)
            given = give(server, answer["request_id"], objects=objects[count // 2 :] + more)
            assert given.status_code == 200
        wanted = (
            'model_feedback_answers{tag="local"} 4.0',
            'model_feedback_objects{result="found",tag="local"} 6.0',
            'model_feedback_objects{result="missed",tag="local"} 1.0',
            'model_feedback_objects{result="false",tag="local"} 2.0',
            'model_live_f1{tag="local"} 0.8\n',
            'model_live_precision{tag="local"} 0.75\n',
            "model_feedback_delay_seconds_count 4.0",
        )

        def is_reported() -> bool:
            text = feedback.metrics(server)
            return all(line in text for line in wanted)

        until(is_reported)
        assert "model_live_accuracy{" not in feedback.metrics(server)


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


@pytest.fixture(scope="module")
def chrome() -> Iterator["Browser"]:
    with browser.chromium() as running:
        yield running


def test_the_page_draws_the_boxes_over_the_picture(chrome: "Browser", server: Server) -> None:
    with browser.visiting(chrome, server.url) as visit:
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
        assert picture == drawn == page.locator("#boxes").bounding_box()
        browser.choose(page, images.npy(harbours.water()), "sea.npy")
        browser.headline(page).to_have_text("No object")
        browser.expect(page.locator("#objects rect")).to_have_count(0)
        browser.expect(page.locator("#boxes rect")).to_have_count(0)


def newest(server: Server) -> dict[str, Any]:
    return feedback.everything(server, labelled="true")[-1]


def test_a_visitor_says_which_boxes_are_false_and_draws_missing_ones(
    chrome: "Browser", server: Server, tmp_path: Path
) -> None:
    with browser.visiting(chrome, server.url, viewport={"width": 1280, "height": 900}) as visit:
        page = visit.page
        said = browser.expect(page.locator("#boxes-said"))
        browser.expect(page.locator("#boxes-form")).to_be_hidden()
        browser.choose(page, images.npy(harbours.water((16, 20), (8, 4))), "port.npy")
        boxes = page.locator("#boxes rect")
        browser.expect(boxes).to_have_count(2)
        page.get_by_role("button", name="Yes, all of it").press("Enter")
        said.to_have_text("Thank you: 2 found, 0 missed, 0 false.")

        page.get_by_role("checkbox", name="tank, 89").click()
        browser.expect(page.get_by_role("checkbox", checked=False)).to_have_count(1)
        page.get_by_label("Draw a").select_option("ship")
        frame = page.locator("#boxes").bounding_box()
        assert frame is not None
        scale = frame["width"] / harbours.CHIP
        x, y = frame["x"], frame["y"]
        page.mouse.move(x + 24 * scale, y + 24 * scale)
        page.mouse.down()
        page.mouse.move(x + 28 * scale, y + 29 * scale)
        page.mouse.move(x + frame["width"] + 40, y + 30 * scale)  # up to the edge
        page.mouse.up()
        browser.expect(boxes).to_have_count(3)
        page.get_by_label("or add one at").fill("0, 0, 4.5, 4")
        page.get_by_role("button", name="Add").press("Enter")
        said.to_have_text("Added: ship at 0, 0, 4.5, 4. Not sent yet.")
        page.screenshot(path=tmp_path / "boxes.png", full_page=True)
        page.get_by_role("button", name="Send").last.click()
        said.to_have_text("Thank you: 1 found, 2 missed, 1 false.")
        page.set_viewport_size({"width": 360, "height": 740})
        assert page.evaluate(browser.OVERFLOW) <= 0
        kept = {(item["class"], *item["box"]) for item in newest(server)["objects"]}
        left = {box for box in kept if box[0] == "tank"}
        assert len(left) == 1 and ("ship", 0, 0, 4.5, 4) in kept
        ((_, *drawn),) = kept - left - {("ship", 0, 0, 4.5, 4)}
        assert drawn == pytest.approx([24, 24, 32, 30], abs=0.2)


def test_the_keyboard_alone_is_enough_for_boxes_and_a_mistake_is_said(
    chrome: "Browser", server: Server
) -> None:
    with browser.visiting(chrome, server.url) as visit:
        page = visit.page
        said = browser.expect(page.locator("#boxes-said"))
        browser.choose(page, images.npy(harbours.water((8, 4))), "port.npy")
        first = page.locator("#boxes rect")
        first.press(" ")
        browser.expect(first).to_have_attribute("aria-checked", "false")
        browser.expect(first).to_be_focused()
        first.press("Enter")
        browser.expect(first).to_have_attribute("aria-checked", "true")
        first.press("Enter")
        numbers = page.get_by_label("or add one at")
        for wrong in ("1 2 3", "left, 2, 3, 4", ""):
            numbers.fill(wrong)
            page.get_by_role("button", name="Add").press("Enter")
            said.to_have_text("Give four numbers: left, top, right, bottom in pixels.")
        numbers.fill("0 0 99 4")
        page.get_by_role("button", name="Add").press("Enter")
        numbers.press("Enter")
        said.to_have_text(
            "objects: 0: [0.0, 0.0, 99.0, 4.0] is outside of the image, 32 x 32 pixels"
        )
        page.locator("#boxes rect").last.press("Enter")  # it is taken back
        numbers.press("Enter")
        said.to_have_text("Thank you: 0 found, 0 missed, 1 false.")
        assert newest(server)["objects"] == []
        browser.choose(page, images.npy(harbours.water((8, 4), (16, 20))), "next.npy")
        said.to_have_text("")
        browser.expect(page.get_by_role("checkbox", checked=True)).to_have_count(2)


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
