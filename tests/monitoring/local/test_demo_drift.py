"""`make demo-drift`: a real service and Prometheus, and an alert that fires because of images."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import tifffile
from PIL import Image

from monitoring.errors import MonitoringError
from monitoring.local.drift_view import read_look
from monitoring.local.traffic import Input, brighter, find_images
from tests.conftest import ROOT, write_images
from tests.make.bundles import make_chip
from tests.make.monitored_bundles import watched_bundle, write_chips
from tests.make.server import Server, serving
from tests.monitoring.conftest import Command, Start

WANTED = Input(bands=4, nodata=0, valid_max=20000)
METRICS = """\
# TYPE model_drift_window_seconds gauge
model_drift_window_seconds 3600
# TYPE model_drift_samples gauge
model_drift_samples{tag="local",signal="mean/B02"} 250
model_drift_samples{tag="local",signal="classes"} 240
# TYPE model_drift_score gauge
model_drift_score{tag="local",signal="mean/B02",measure="psi"} 3
model_drift_score{tag="local",signal="mean/B02",measure="js"} 0.4
model_drift_score{tag="local",signal="classes",measure="psi"} 0.1
# TYPE model_drift_threshold gauge
model_drift_threshold{tag="local",signal="mean/B02",measure="psi"} 1.5
model_drift_threshold{tag="local",signal="mean/B02",measure="js"} 0.1
model_drift_threshold{tag="local",signal="classes",measure="psi"} 1
# TYPE model_drift_insufficient gauge
model_drift_insufficient{tag="local",signal="nodata/B02",reason="constant"} 1
"""


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images like those that the model was tested on."""
    folder = tmp_path_factory.mktemp("images") / "data"
    write_chips(folder)
    return folder


@pytest.fixture(scope="module")
def service(chips: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("demo")
    bundle = watched_bundle(folder / "model", sorted(chips.rglob("*.npy")))
    with serving(bundle, folder / "service") as running:
        yield running


def address(url: str) -> str:
    return url.removeprefix("http://")


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [sys.executable, "-m", "monitoring.local.demo_drift", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_changed_images_fire_the_alert_and_normal_ones_do_not(
    service: Server, chips: Path, start: Start, tmp_path: Path
) -> None:
    monitor = start("--interval", "1", "--service", address(service.url))
    prometheus = ("--prometheus", address(monitor.url("prometheus")))
    arguments = ("--service", address(service.url), "--data", str(chips), *prometheus)
    log = tmp_path / "demo.log"
    story = Command("monitoring.local.demo_drift", *arguments, "--rate", "120", log=log)
    assert story.process.wait(150) == 0, story.said()
    normal, _, changed = story.said().partition("now 1.5 times as bright, until ModelDrift fires")
    assert "300 images of" in normal and "worst" in normal
    assert "ModelDrift" not in normal
    assert "ModelDrift fires: " in changed and "ModelDrift pending" in changed
    assert f"Look at {monitor.url('prometheus')}/alerts" in changed
    assert f"and at  {monitor.url('alertmanager')}/#/alerts" in changed
    assert "To forget: wait 3600 s" in changed and "Traceback" not in changed
    again = demo(*arguments)
    assert again.returncode == 0
    assert again.stdout.startswith("ModelDrift fires already:")
    assert "sent" not in again.stdout


def test_an_alert_that_does_not_fire_in_time_is_exit_code_1(
    service: Server, chips: Path, start: Start
) -> None:
    nobody = start("--service", "127.0.0.1:1").url("prometheus")
    arguments = ("--service", address(service.url), "--prometheus", address(nobody))
    ended = demo(*arguments, "--data", str(chips), "--normal", "10", "--limit", "3")
    assert ended.returncode == 1
    assert "ModelDrift did not fire within 3 s. What was seen:" in ended.stdout
    assert "scrapes no such service: make monitor" in ended.stdout
    assert f"--service {address(service.url)}" in ended.stdout
    assert "Traceback" not in ended.stderr


def test_without_a_service_it_says_how_to_start_one(chips: Path) -> None:
    ended = demo("--service", "127.0.0.1:1", "--data", str(chips))
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: nothing answers on 127.0.0.1:1 (")
    assert "`make demo` in another terminal" in ended.stderr


def test_without_prometheus_it_says_how_to_start_one(service: Server, chips: Path) -> None:
    arguments = ("--service", address(service.url), "--prometheus", "127.0.0.1:1")
    ended = demo(*arguments, "--data", str(chips))
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: nothing answers on 127.0.0.1:1 (")
    assert "`make monitor` in another terminal" in ended.stderr


def test_something_else_on_the_port_is_said(chips: Path) -> None:
    with page(b"<html>hello</html>") as place:
        ended = demo("--service", place, "--data", str(chips))
    assert ended.returncode == 1
    assert f"error: http://{place}/version is not what was expected there" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_images_of_another_model_are_refused_with_the_services_reason(
    service: Server, tmp_path: Path, start: Start
) -> None:
    images = write_images(tmp_path / "other", classes=1, each=3)
    prometheus = address(start().url("prometheus"))
    arguments = ("--service", address(service.url), "--prometheus", prometheus)
    ended = demo(*arguments, "--data", str(images))
    assert ended.returncode == 1
    assert "error: the service refuses" in ended.stderr and "(422)" in ended.stderr
    assert "the images have to be those of the model" in ended.stderr


def test_a_service_that_wants_a_key_is_said(
    service: Server, chips: Path, start: Start, tmp_path: Path
) -> None:
    prometheus = address(start().url("prometheus"))
    bundle = Path(service.log).parent.parent / "model"
    with serving(bundle, tmp_path / "closed", open_roles=json.dumps(["view"])) as closed:
        arguments = ("--service", address(closed.url), "--prometheus", prometheus)
        ended = demo(*arguments, "--data", str(chips))
    assert ended.returncode == 1
    assert "wants a key with the role `predict`: DEMO_KEY=" in ended.stderr


def test_a_folder_without_images_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").touch()
    with pytest.raises(MonitoringError, match=r"no images in .*: `dvc pull data\.dvc`"):
        find_images(tmp_path)


@pytest.mark.parametrize("option", ["--brightness", "--rate", "--limit"])
def test_what_makes_no_sense_is_refused(option: str) -> None:
    ended = demo(option, "0")
    assert ended.returncode == 2
    assert f"{option}: it has to be above 0" in ended.stderr


def test_images_of_every_class_come_mixed_and_always_alike(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", classes=3, each=30)
    found = find_images(folder)
    assert found == find_images(folder) and sorted(found) == sorted(folder.rglob("*.png"))
    assert {path.parent.name for path in found[:20]} == {"class-0", "class-1", "class-2"}


def test_brighter_images_stay_what_the_model_takes(tmp_path: Path) -> None:
    chip = make_chip(1) // 4  # up to 16383
    chip[:, 0, 0] = 0
    np.save(tmp_path / "chip.npy", chip)
    tifffile.imwrite(tmp_path / "planes.tif", chip, planarconfig="separate", photometric=1)
    last = np.ascontiguousarray(chip.transpose(1, 2, 0))
    tifffile.imwrite(tmp_path / "pixels.tiff", last, planarconfig="contig", photometric=1)
    for path in (tmp_path / "chip.npy", tmp_path / "planes.tif", tmp_path / "pixels.tiff"):
        found = np.load(io.BytesIO(brighter(path, WANTED, 1.5)))
        assert found.shape == chip.shape and found.dtype == chip.dtype
        assert np.array_equal(found, (chip * 1.5).clip(0, 20000).astype(np.uint16)), path
        assert found.max() == 20000 and not found[:, 0, 0].any()


def test_pictures_become_brighter_too(tmp_path: Path) -> None:
    pixels = np.full((8, 8, 3), 200, np.uint8)
    pixels[0, 0] = 10
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    wanted = Input(bands=3, nodata=None, valid_max=255)
    found = np.load(io.BytesIO(brighter(tmp_path / "picture.png", wanted, 1.5)))
    assert found.shape == (3, 8, 8) and found.dtype == np.uint8
    assert (found[:, 0, 0] == 15).all() and (found[:, 1:, 1:] == 255).all()


def test_the_worst_signal_is_the_farthest_above_its_own_threshold() -> None:
    look = read_look(METRICS)
    assert (look.samples, look.window, look.insufficient) == (250, 3600, ("constant",))
    assert [(item.signal, item.measure) for item in look.scores] == [
        ("mean/B02", "js"),
        ("mean/B02", "psi"),
        ("classes", "psi"),
    ]
    assert str(look.scores[1]) == "mean/B02 psi 3.00 (drift above 1.50)"


def test_a_service_that_does_not_measure_drift_is_said() -> None:
    with pytest.raises(MonitoringError, match="does not measure drift"):
        read_look("# TYPE up gauge\nup 1\n")


@contextmanager
def page(body: bytes) -> Iterator[str]:
    """A server that answers everything with the same page; its host:port."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
