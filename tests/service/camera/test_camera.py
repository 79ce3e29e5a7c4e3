"""The camera: every frame of a file, the newest of what is live, by topic or HTTP."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from contracts.frames import texts
from service.camera.capture import Live
from service.camera.run import _seen
from tests.fakes.http import Handler, serving
from tests.make import kafka
from tests.make.batches import write_chips
from tests.make.kafka import Topics, sequences
from tests.make.processes import until

COUNT, WIDTH, HEIGHT = 20, 96, 64


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video whose frames grow brighter, at 25 a second."""
    path = tmp_path_factory.mktemp("film") / "quay.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (WIDTH, HEIGHT))
    for number in range(COUNT):
        writer.write(np.full((HEIGHT, WIDTH, 3), 10 * number, np.uint8))
    writer.release()
    return path


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running broker."""
    with kafka.broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture
def topics(brokers: str) -> Topics:
    return kafka.topics(brokers)


def camera(*words: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m service camera`."""
    own = {f"SERVICE_{key.upper()}": value for key, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "service", "camera", *map(str, words)],
        env=own,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_frame_of_a_file_goes_into_the_topic(topics: Topics, film: Path) -> None:
    done = camera(film, "--rate=1000", "--size=48x32", "--fit=crop", **topics.settings)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"{COUNT} frames sent")
    found = topics.read("frames", lambda found: len(found) >= COUNT)
    assert sorted(sequences(found)) == list(range(COUNT))
    own = texts(found[0].headers())
    assert (own["source"], own["content-type"], own["fit"]) == ("quay", "image/jpeg", "crop")
    assert "live" not in own and found[0].key() == b"quay"
    for number, one in zip(sequences(found), found, strict=True):
        pixels = cv2.imdecode(np.frombuffer(one.value() or b"", np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None and pixels.shape == (32, 48, 3)
        assert abs(float(pixels.mean()) - 10 * number) < 6


def test_images_of_a_folder_travel_as_they_are(topics: Topics, tmp_path: Path) -> None:
    write_chips(tmp_path, 6)
    done = camera(tmp_path, "--live", "--name=field/7", **topics.settings)
    assert done.returncode == 0, done.stderr
    found = topics.read("frames", lambda found: len(found) >= 6)
    sent = {path.read_bytes() for path in tmp_path.rglob("chip-*")}
    assert {one.value() for one in found} == sent
    own = texts(found[0].headers())
    assert (own["source"], own["live"]) == ("field/7", "1")


class Crowd(Handler[dict[str, Any]]):
    """Stands for a service that refuses an image for now; true to its 503 and answer."""

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        self.state["asked"] = self.state.get("asked", 0) + 1
        if self.state["asked"] == 5:
            return self.reply(503, b"{}")
        self.state.setdefault("taken", []).append((self.path, content))
        self.reply(200, json.dumps({"class": "River"}).encode())


def test_frames_go_to_a_service_and_those_of_a_file_wait_for_it(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state: dict[str, Any] = {}
    with serving(Crowd, state) as address:
        done = camera(film, "--rate=1000", "--fit=stretch", "--to", address)
    assert done.returncode == 0, done.stderr
    assert len(state["taken"]) == COUNT and state["taken"][0][0] == "/predict?fit=stretch"
    assert "River" in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["missing.avi"], "SOURCE missing.avi: there is no such file"),
        ([__file__], "OpenCV finds no frame in it"),
        ([str(Path(__file__).parent / "..")], "no image in it"),
        ([__file__, "--size=big"], "write WIDTHxHEIGHT"),
        ([__file__, "--name=a b"], "--name 'a b'"),
        ([__file__, "--to=notaurl"], "--to 'notaurl': write the address of a service"),
        ([__file__, "--to=http://"], "--to 'http://': write the address"),
        (["0"], "SERVICE_STREAM_BROKERS is empty"),
    ],
)
def test_what_cannot_work_is_said_in_a_sentence(words: list[str], says: str) -> None:
    brokers = {} if words == ["0"] else {"stream_brokers": "127.0.0.1:1"}
    done = camera(*words, **brokers)
    assert done.returncode in (1, 2) and says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_frame_that_does_not_arrive_is_no_sent_one(film: Path) -> None:
    done = camera(
        film,
        "--rate=1000",
        stream_brokers="127.0.0.1:1",
        stream_client='{"message.timeout.ms": "500"}',
    )
    assert done.returncode == 1, done.stdout
    assert "error: a frame did not arrive: " in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        ({"class": "River"}, "River"),
        ({"counts": {"ship": 2, "tank": 0}, "objects": []}, "2 ship"),
        ({"counts": {"ship": 0}}, "nothing"),
    ],
)
def test_what_a_model_of_any_task_answers_is_said(answer: dict[str, Any], seen: str) -> None:
    assert _seen(answer) == seen


def _goes_on(live: Live, dropped: int) -> bool:
    return live.dropped > dropped or live.reconnected > 0


def test_of_a_live_source_the_newest_frame_wins_and_an_outage_is_survived(
    film: Path, tmp_path: Path
) -> None:
    path = tmp_path / "live.avi"
    live = Live(str(path), rate=0)
    shots = iter(live)
    path.write_bytes(film.read_bytes())
    brightness = []
    for _ in range(3):
        shot = next(shots)
        assert shot.pixels is not None
        brightness.append(float(shot.pixels.mean()))
        until(partial(_goes_on, live, live.dropped))
    assert live.dropped > 0 or live.reconnected
    until(lambda: live.reconnected or None, "the end of the file")
    shot = next(shots)  # after the outage
    assert shot.pixels is not None
    path.unlink()
    live.close()


@pytest.mark.parametrize("answers", [True, False])
def test_ctrl_c_ends_a_camera_also_while_it_waits_for_its_source(
    film: Path, tmp_path: Path, answers: bool
) -> None:
    """Of the second one a server takes the connection, and never says a word."""
    state: dict[str, Any] = {}
    held: AbstractContextManager[object]
    log = tmp_path / "log"
    with serving(Crowd, state) as address, socket.create_server(("127.0.0.1", 0)) as silent:
        stream = f"rtsp://user:secret@127.0.0.1:{silent.getsockname()[1]}/quay"
        words = [str(film), "--live", "--loop"] if answers else [stream]
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "service", "camera", *words, "--to", address],
                env={},
                stdout=output,
                stderr=output,
            )
        if answers:
            until(lambda: len(state.get("taken", [])) > 2)
            held = nullcontext()
        else:
            held = closing(silent.accept()[0])
        with held:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
    said = log.read_text(encoding="utf-8")
    assert "FATAL" not in said and "Traceback" not in said and "secret" not in said


@pytest.mark.parametrize("live", [True, False])
def test_ctrl_c_ends_a_camera_whose_broker_is_away_and_says_what_is_lost(
    film: Path, tmp_path: Path, live: bool
) -> None:
    log = tmp_path / "log"
    words = [str(film), *(["--live", "--loop"] if live else []), "--rate=100"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "camera", *words],
            env={"SERVICE_STREAM_BROKERS": "127.0.0.1:9"},
            stdout=output,
            stderr=output,
        )
    until(lambda: "kafka: " in log.read_text(encoding="utf-8"))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    said = log.read_text(encoding="utf-8")
    assert "brokers are down" in said or "refused" in said
    assert "frames have not arrived" in said and "Traceback" not in said
