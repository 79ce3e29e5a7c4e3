"""What `/maps` refuses: each time with a sentence, and the next scene is mapped."""

import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import rasterio.shutil

from service.maps.jobs_upload import read_size
from tests.make import bundles, maps
from tests.make.map_jobs import ASYNC, TIFF, ended, queue, send
from tests.make.processes import until
from tests.make.server import Server, serving


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(bundle: Path, home: Path) -> Iterator[Server]:
    """A service that takes scenes of 200,000 bytes and 100,000 pixels."""
    limits = {"maps_max_upload": 800_000, "maps_max_pixels": 100_000, "maps_upload_timeout": 2}
    with serving(bundle, home, **limits) as running:
        yield running


def header(width: int, height: int) -> bytes:
    """A TIFF that says its size, and has nothing else."""
    tags = b"".join(struct.pack("<HHII", *tag) for tag in ((256, 4, 1, width), (257, 4, 1, height)))
    return b"II*\0" + struct.pack("<IH", 8, 2) + tags + b"\0\0\0\0"


SMALL = maps.ground(40, 40)
BODIES = {
    "empty": (b"", 400, "the body is empty"),
    "a text": (b"hello", 415, "the body is no TIFF"),
    "only a magic number": (b"II*\0", 415, "cut off"),
    "a version that is none": (b"II\x07\0" + bytes(60), 415, "no TIFF that can be read"),
    "a directory beyond the end": (b"MM\0*\x7f\xff\xff\xff", 415, "cut off"),
    "a directory without a size": (b"II*\0" + struct.pack("<IHI", 8, 0, 0), 415, "no TIFF"),
    "only a header": (header(50, 50), 415, "no GeoTIFF that can be read"),
    "too many pixels": (header(40_000, 40_000), 413, "40000 x 40000 pixels, at most 100000"),
    "too many bytes": (b"II*\0" + bytes(800_000), 413, "more than 800000 bytes"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_scene_is_refused(server: Server, scene: Path, name: str) -> None:
    body, status, sentence = BODIES[name]
    answer = send(server, body)
    assert (answer.status_code, answer.headers["content-type"]) == (
        status,
        "application/problem+json",
    ), answer.text
    assert sentence in answer.json()["detail"]
    assert send(server, scene).status_code == 200


def test_a_body_of_unknown_length_is_limited_too(server: Server) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"II*\0"
        for _ in range(20):
            yield bytes(50_000)

    answer = httpx.post(f"{server.url}/maps", content=pieces(), headers=TIFF, timeout=60)
    assert (answer.status_code, answer.headers["connection"]) == (413, "close")


def test_a_scene_that_never_arrives_is_not_waited_for(server: Server, home: Path) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as client:

        def pieces() -> Iterator[bytes]:
            yield b"II*\0"
            until(lambda: [line for line in server.lines() if line.get("status") == 408])

        answer = client.post("/maps", content=pieces(), headers=TIFF)
    assert answer.status_code == 408
    assert list((home / "state" / "maps" / "incoming").iterdir()) == []


SCENES: dict[str, tuple[dict[str, Any], str]] = {
    "without a CRS": ({"crs": None}, "no CRS"),
    "in degrees": ({"crs": "EPSG:4326"}, "in degrees"),
    "of other bands": ({"names": ("B01", "B02", "B03", "B04")}, "the model needs B08 too"),
    "of 8 bits": ({"dtype": "uint8"}, "dtype uint8"),
    "without data": ({"value": 0}, "has data"),
}


@pytest.mark.parametrize("name", SCENES)
def test_a_scene_that_the_model_cannot_map_is_refused(
    server: Server, tmp_path: Path, name: str
) -> None:
    changes, sentence = dict(SCENES[name][0]), SCENES[name][1]
    pixels = SMALL.copy()
    if "value" in changes:
        pixels[:] = changes.pop("value")
    pixels = pixels.astype(changes.pop("dtype", "uint16"))
    answer = send(server, maps.write_scene(tmp_path / "scene.tif", pixels, **changes))
    assert answer.status_code == 422
    assert sentence in answer.json()["detail"]
    assert str(tmp_path) not in answer.text
    assert "--bands" not in answer.text and "--offset" not in answer.text


def test_a_scene_that_is_cut_off_fails_as_a_job_too(server: Server, tmp_path: Path) -> None:
    scene = maps.write_scene(tmp_path / "plain.tif", maps.ground(200, 300))
    rasterio.shutil.copy(scene, tmp_path / "cog.tif", driver="COG")  # its directory comes first
    content = (tmp_path / "cog.tif").read_bytes()
    for cut in (len(content) // 2, len(content) - 2000):
        answer = send(server, content[:cut])
        assert (answer.status_code, "cut off" in answer.text) == (422, True), answer.text
    last = ended(server, queue(server, content[: len(content) // 2]))
    assert last["status"] == "failed"
    assert last["message"] == last["problem"]["detail"]
    assert "cut off" in last["message"]


def test_types_and_queries_that_are_not_taken_are_named(server: Server, scene: Path) -> None:
    form = httpx.post(f"{server.url}/maps", files={"file": scene.read_bytes()}, timeout=60)
    assert (form.status_code, "as the bare body" in form.json()["detail"]) == (415, True)
    packed = send(server, scene, headers={**TIFF, "content-encoding": "gzip"})
    assert (packed.status_code, "content-encoding" in packed.json()["detail"]) == (415, True)
    for query, name in (
        *(("?bands=a,,b", "bands"), ("?offset=x", "offset"), ("?offset=1e9", "off")),
        *(("?ofset=-1000", "?ofset= is not known: choose of ?bands= and ?offset="),),
    ):
        answer = send(server, scene, query)
        assert (answer.status_code, name in answer.json()["detail"]) == (422, True)


@pytest.mark.parametrize("id", ["0" * 32, "0", "..%2F..%2Fwanted.json", "x" * 200])
def test_a_job_that_does_not_exist_is_not_found(server: Server, id: str) -> None:
    for method, route in (("GET", ""), ("DELETE", ""), ("GET", "/map.tif"), ("GET", "/item.json")):
        answer = httpx.request(method, f"{server.url}/jobs/{id}{route}")
        assert (answer.status_code, answer.headers["content-type"]) == (
            404,
            "application/problem+json",
        )


def test_a_full_queue_takes_no_more_until_there_is_room(
    bundle: Path, scene: Path, long_scene: Path, tmp_path: Path
) -> None:
    with serving(bundle, tmp_path, maps_queue=2) as server:
        jobs = [queue(server, long_scene), queue(server, scene)]
        refused = send(server, scene, headers=ASYNC)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "2 maps wait already" in refused.json()["detail"]
        httpx.delete(server.url + jobs[0], timeout=60)
        assert ended(server, jobs[1])["status"] == "successful"
        assert send(server, scene).status_code == 200


def test_scenes_that_still_arrive_count_as_waiting(
    bundle: Path, scene: Path, tmp_path: Path
) -> None:
    content, refused = scene.read_bytes(), threading.Event()

    def pieces() -> Iterator[bytes]:
        yield content[:1000]
        refused.wait(60)
        yield content[1000:]

    with serving(bundle, tmp_path, maps_queue=1) as server, ThreadPoolExecutor() as threads:
        slow = threads.submit(
            httpx.post, f"{server.url}/maps", content=pieces(), headers=TIFF, timeout=120
        )
        until(lambda: list((tmp_path / "state").glob("maps/incoming/*")))
        assert send(server, scene).status_code == 503
        refused.set()
        assert slow.result().status_code == 200


def test_a_service_that_classifies_says_what_would_map(scene: Path, tmp_path: Path) -> None:
    classifier = bundles.make_bundle(tmp_path / "model")
    with serving(classifier, tmp_path, workers=1) as server:
        answer = send(server, scene)
        assert answer.status_code == 409
        assert "classifies chips" in answer.json()["detail"]
        assert "SERVICE_BUNDLE" in answer.json()["detail"]
        assert not (
            tmp_path / "state" / "maps"
        ).exists(), "maps cost nothing until one is asked for"


HIDE = """
import sys
from importlib.machinery import PathFinder

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.startswith("rasterio") else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
"""


def test_a_service_without_rasterio_serves_and_says_what_to_install(
    bundle: Path, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with serving(bundle, tmp_path, workers=1, program=True) as server:
        answer = send(server, scene)
        assert answer.status_code == 501
        assert "pip install 'conveyor[maps]'" in answer.json()["detail"]
        chip = httpx.get(f"{server.url}/samples/0").content
        kind = {"content-type": "application/octet-stream"}
        assert httpx.post(f"{server.url}/predict", content=chip, headers=kind).status_code == 200


def test_sizes_of_all_kinds_of_tiff_are_read(tmp_path: Path) -> None:
    kinds: tuple[dict[str, Any], ...] = ({"BIGTIFF": "YES"}, {"ENDIANNESS": "BIG"}, {})
    for number, options in enumerate(kinds):
        path = maps.write_scene(tmp_path / f"{number}.tif", SMALL, **options)
        assert read_size(path) == (40, 40)
