"""A model that finds objects with their masks, served: JSON, picture, overlay, table and page."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from contracts.masks import decode_rle
from service.errors import BundleRefused
from service.inference.bundle import read_bundle
from service.inference.drawing import COLOURS, draw_objects
from service.inference.engine import Engine
from service.inference.tasks import task_of
from service.schemas import InstancePrediction
from tests.make import batches, browser, harbours, images
from tests.make.bundles import pack
from tests.make.server import Server, serving
from tests.make.swaps import version

BARE = {"content-type": "application/octet-stream"}
ANGLE = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]], bool)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harbours.make_bundle(tmp_path_factory.mktemp("instances") / "model", masks=True)


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(bundle, tmp_path_factory.mktemp("server"), workers=1) as running:
        yield running


def predict(server: Server, chip: Any, accept: str = "*/*") -> httpx.Response:
    headers = BARE | {"accept": accept}
    answer = httpx.post(
        f"{server.url}/predict", content=images.npy(chip), headers=headers, timeout=60
    )
    assert answer.status_code == 200, answer.text
    return answer


def pixels(item: dict[str, Any]) -> Any:
    """The whole image of a mask."""
    size = tuple(item["mask"]["size"])
    return decode_rle(item["mask"]["counts"], size, 0, size[1])


def test_each_object_has_its_pixels_in_the_image_and_their_number(server: Server) -> None:
    body = predict(server, harbours.water((16, 20), (8, 4), high=40, wide=56)).json()
    InstancePrediction.model_validate(body)
    assert [item["box"] for item in body["objects"]] == [[8, 4, 12, 8], [16, 20, 20, 24]]
    for item in body["objects"]:
        left, top, right, bottom = map(int, item["box"])
        assert item["mask"]["size"] == [40, 56] and item["area"] == 12
        expected = np.zeros((40, 56), bool)
        expected[top:bottom, left:right] = ANGLE
        assert np.array_equal(pixels(item), expected)
    assert version(server)["model"]["task"] == "instances"


def test_a_mask_ends_at_the_edge_of_the_image_with_its_box(server: Server) -> None:
    chip = harbours.water(high=13, wide=30)
    chip[:, 12:, 28:] = 60_000  # the square reaches 3 lines and 2 columns beyond
    (item,) = predict(server, chip).json()["objects"]
    assert item["box"] == [28, 12, 30, 13] and item["mask"]["size"] == [13, 30]
    assert item["area"] == 2 and pixels(item)[12, 28:].all(), "its left half, not a smaller one"


def test_pictures_have_filled_masks_and_overlays_nothing_else(server: Server) -> None:
    chip = harbours.water((8, 8))
    plain = predict(server, harbours.water(), "image/png").content
    drawn = Image.open(io.BytesIO(predict(server, chip, "image/png").content))
    assert drawn.mode == "RGB" and drawn.size == Image.open(io.BytesIO(plain)).size
    overlay = Image.open(io.BytesIO(predict(server, chip, "image/png;overlay").content))
    opacity = np.asarray(overlay)[..., 3]  # 16 pixels for one of the image
    assert opacity.shape == (512, 512)
    inside, line, quarter = opacity[180, 140], opacity[180, 128], opacity[140, 180]
    assert (line, quarter) == (255, 0) and 0 < inside < 255
    colour = [int(COLOURS[0][at : at + 2], 16) for at in (1, 3, 5)]
    assert np.abs(np.asarray(overlay)[180, 140, :3].astype(int) - colour).max() < 5
    empty = Image.open(io.BytesIO(predict(server, harbours.water(), "image/png;overlay").content))
    assert not np.asarray(empty)[..., 3].any()


def test_a_batch_writes_the_masks_that_predict_answers(
    server: Server, bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "chips"
    folder.mkdir()
    for number, squares in enumerate(([], [(4, 4)], [(8, 4), (20, 8)])):
        chip = harbours.water(*squares, wide=32 + number)
        (folder / f"{number}.npy").write_bytes(images.npy(chip))
    done = batches.batch(folder, tmp_path / "out.parquet", bundle)
    assert done.returncode == 0, done.stderr
    for row in batches.rows(tmp_path / "out.parquet"):
        content = (folder / row["path"]).read_bytes()
        answer = httpx.post(server.url + "/predict", files={"file": content}).json()
        assert row["objects"] == answer["objects"] and len(row["objects"]) == int(row["path"][0])


def test_the_page_fills_the_masks_and_draws_a_line_around_them(server: Server) -> None:
    with browser.chromium() as chrome, browser.visiting(chrome, server.url) as visit:
        page = visit.page
        browser.expect(page.locator("h2").first).to_have_text("Find objects in an image")
        browser.choose(page, images.npy(harbours.water((16, 20), (8, 4))), "port.npy")
        browser.headline(page).to_have_text("tank: 2")
        browser.expect(page.locator("#objects g")).to_have_count(2)
        assert page.locator("#objects rect").count() == 0
        fill, line = (page.locator("#objects path").nth(at).get_attribute("d") for at in (0, 1))
        assert fill == "M8 4H9V8H8zM9 4H10V8H9zM10 6H11V8H10zM11 6H12V8H11z"
        assert line is not None and "M10 4V6" in line and "M9 4V8" not in line
        browser.choose(page, images.npy(harbours.water()), "sea.npy")
        browser.headline(page).to_have_text("No object")
        browser.expect(page.locator("#objects path")).to_have_count(0)


def test_golden_masks_that_are_not_reproduced_are_refused(bundle: Path, tmp_path: Path) -> None:
    golden = json.loads((bundle / "model.json").read_bytes())["golden"]
    Engine(right := read_bundle(bundle), task_of(right.manifest), "cpu").self_test()
    cells = np.stack([harbours.CELLS, 255 - harbours.CELLS])
    for masks, reason in (
        (pack(cells), "golden chip 0: a mask is 1 off"),
        (pack(cells[:1]), "golden: 16 bytes, wanted 32"),
        ("nonsense", "golden: "),
    ):
        folder = tmp_path / str(len(masks))
        wrong = [golden[0] | {"masks": masks}]
        other = read_bundle(harbours.make_bundle(folder, masks=True, golden=wrong))
        with pytest.raises(BundleRefused, match=reason):
            Engine(other, task_of(other.manifest), "cpu").self_test()


def test_a_manifest_without_golden_masks_is_refused(bundle: Path, tmp_path: Path) -> None:
    golden = json.loads((bundle / "model.json").read_bytes())["golden"]
    del golden[0]["masks"]
    with pytest.raises(BundleRefused, match="golden.0.masks"):
        read_bundle(harbours.make_bundle(tmp_path / "model", masks=True, golden=golden))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_a_mask_of_any_size_is_drawn(mode: str, scale: float) -> None:
    size = max(1, round(20 * scale))
    picture = Image.new(mode, (size, size))
    counts = {"full": [0, 400], "empty": [400], "last pixel": [399, 1]}
    for runs in counts.values():
        mask = {"size": [20, 20], "counts": runs}
        item = {"class": "ship", "score": 0.5, "box": [0, 0, 20, 20], "mask": mask}
        draw_objects(picture, [item], ("ship",), scale)
    assert np.asarray(picture).any()
