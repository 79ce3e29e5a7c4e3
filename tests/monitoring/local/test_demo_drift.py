"""`make demo-drift`: a real service and Prometheus, and an alert that changed images cause."""

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tifffile
from PIL import Image

from monitoring.errors import MonitoringError
from monitoring.local.demo_drift import arguments, main
from monitoring.local.drift_view import read_drift
from monitoring.local.stack import Monitor
from monitoring.local.traffic import Input, brighter, find_images
from service.auth.roles import new_key
from tests.conftest import write_images
from tests.fakes.http import answering
from tests.make.bundles import make_chip
from tests.make.monitored_bundles import watched_bundle, write_chips
from tests.make.server import Server, serving
from tests.monitoring.conftest import hurried_source

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


KEY, HASH = new_key()


@pytest.fixture(scope="module")
def service(chips: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that wants a key for predictions."""
    folder = tmp_path_factory.mktemp("demo")
    bundle = watched_bundle(folder / "model", sorted(chips.rglob("*.npy")))
    roles = {"open_roles": '["view"]', "api_keys": json.dumps({HASH: ["predict"]})}
    with serving(bundle, folder / "service", **roles) as running:
        yield running


@pytest.fixture(scope="module")
def monitor(
    service: Server, programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Monitor]:
    """The stack beside the service, with alerts that fire after a second."""
    folder = tmp_path_factory.mktemp("monitoring")
    source = hurried_source(folder / "source", hold="1s")
    ports = dict.fromkeys(programs, 0)
    with Monitor([address(service.url)], ports, folder, 0.5, source) as running:
        yield running


@pytest.fixture(scope="module")
def idle_prometheus(
    programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A Prometheus that scrapes no service, as host:port."""
    ports = dict.fromkeys(programs, 0)
    with Monitor(["127.0.0.1:1"], ports, tmp_path_factory.mktemp("idle")) as monitor:
        yield address(monitor.url("prometheus"))


class Ended(NamedTuple):
    """What the command did."""

    code: object
    """1, or a message on stderr."""
    output: str


Demo = Callable[..., Ended]


@pytest.fixture
def demo(chips: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Demo:
    """Run the command to its end, on the folder `chips` and with the key."""
    monkeypatch.setenv("DEMO_KEY", KEY)

    def run(*arguments: str) -> Ended:
        words = ["--data", str(chips), "--every", "0.2", *arguments]
        monkeypatch.setattr("sys.argv", ["demo_drift", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(ended.value.code, capsys.readouterr().out)

    return run


def address(url: str) -> str:
    return url.removeprefix("http://")


def test_changed_images_fire_the_alert_and_unchanged_ones_do_not(
    service: Server, monitor: Monitor, demo: Demo
) -> None:
    places = ("--service", address(service.url), "--prometheus", address(monitor.url("prometheus")))
    ended = demo(*places, "--rate", "120")
    assert ended.code == 0, ended.output
    normal, _, changed = ended.output.partition("now 1.5 times as bright, until ModelDrift fires")
    assert "300 images of" in normal and "worst" in normal
    assert "ModelDrift" not in normal
    assert "ModelDrift fires: " in changed
    assert f"Look at {monitor.url('prometheus')}/alerts" in changed
    assert f"and at  {monitor.url('alertmanager')}/#/alerts" in changed
    assert "To forget: wait 3600 s" in changed
    again = demo(*places)
    assert again.code == 0
    assert again.output.startswith("ModelDrift fires already:")
    assert "sent" not in again.output


def test_an_alert_that_does_not_fire_in_time_gives_exit_code_1(
    service: Server, idle_prometheus: str, demo: Demo
) -> None:
    places = ("--service", address(service.url), "--prometheus", idle_prometheus)
    ended = demo(*places, "--normal", "10", "--limit", "2")
    assert ended.code == 1
    assert "ModelDrift did not fire within 2 s. Measured:" in ended.output
    assert "has no such target: make monitor" in ended.output
    assert f"--service {address(service.url)}" in ended.output


def test_without_prometheus_or_service_the_error_names_the_command_that_starts_it(
    service: Server, demo: Demo
) -> None:
    nowhere = "127.0.0.1:1"
    message = rf"error: nothing responds on {nowhere} \(.*\): `make %s` in another terminal"
    ended = demo("--service", address(service.url), "--prometheus", nowhere)
    assert re.fullmatch(message % "monitor", str(ended.code))
    ended = demo("--service", nowhere, "--prometheus", nowhere)
    assert re.fullmatch(message % "demo", str(ended.code))


def test_another_program_on_the_port_is_an_error(demo: Demo) -> None:
    with answering(lambda request: request.reply(200, b"<html>hello</html>")) as url:
        place = url.removeprefix("http://")
        ended = demo("--service", place)
    assert f"error: http://{place}/version: unexpected response" in str(ended.code)


def test_refused_images_are_an_error_with_the_reason_of_the_service(
    service: Server, tmp_path: Path, idle_prometheus: str, demo: Demo
) -> None:
    images = write_images(tmp_path / "other", ("class-0",), each=3)
    places = ("--service", address(service.url), "--prometheus", idle_prometheus)
    ended = demo(*places, "--data", str(images))
    assert "error: the service refuses" in str(ended.code) and "(422)" in str(ended.code)
    assert "the images have to be those of the model" in str(ended.code)


def test_a_service_that_wants_a_key_is_an_error_with_the_variable(
    service: Server, idle_prometheus: str, demo: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DEMO_KEY")
    ended = demo("--service", address(service.url), "--prometheus", idle_prometheus)
    assert "wants a key with the role `predict`: DEMO_KEY=" in str(ended.code)


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").touch()
    with pytest.raises(MonitoringError, match=r"no images in .*: `dvc pull data\.dvc`"):
        find_images(tmp_path)


def test_options_that_are_not_positive_are_rejected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--brightness", "--rate", "--limit", "--every"):
        monkeypatch.setattr("sys.argv", ["demo_drift", option, "0"])
        with pytest.raises(SystemExit) as ended:
            arguments()
        assert ended.value.code == 2
        assert f"{option}: has to be above 0" in capsys.readouterr().err


def test_images_of_all_classes_are_shuffled_in_a_fixed_order(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", each=30)
    found = find_images(folder)
    assert found == find_images(folder) and sorted(found) == sorted(folder.rglob("*.png"))
    assert {path.parent.name for path in found[:20]} == {"class-0", "class-1", "class-2"}


def test_brighter_images_keep_the_shape_range_and_nodata_of_the_model(tmp_path: Path) -> None:
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


def test_png_images_become_brighter_too(tmp_path: Path) -> None:
    pixels = np.full((8, 8, 3), 200, np.uint8)
    pixels[0, 0] = 10
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    wanted = Input(bands=3, nodata=None, valid_max=255)
    found = np.load(io.BytesIO(brighter(tmp_path / "picture.png", wanted, 1.5)))
    assert found.shape == (3, 8, 8) and found.dtype == np.uint8
    assert (found[:, 0, 0] == 15).all() and (found[:, 1:, 1:] == 255).all()


def test_the_worst_signal_has_the_largest_ratio_to_its_threshold() -> None:
    drift = read_drift(METRICS)
    assert (drift.samples, drift.window, drift.insufficient) == (250, 3600, ("constant",))
    assert [(item.signal, item.measure) for item in drift.scores] == [
        ("mean/B02", "js"),
        ("mean/B02", "psi"),
        ("classes", "psi"),
    ]
    assert str(drift.scores[1]) == "mean/B02 psi 3.00 (drift above 1.50)"


def test_a_service_that_does_not_measure_drift_is_an_error() -> None:
    with pytest.raises(MonitoringError, match="does not measure drift"):
        read_drift("# TYPE up gauge\nup 1\n")
