"""Maps by HTTP: a small scene is answered with its map, a large one with a job."""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from service.auth.roles import new_key
from service.maps.make import Options, make_map
from tests.make import maps
from tests.make.map_jobs import (
    ASYNC,
    RECORDS,
    TIFF,
    ask,
    begun,
    ended,
    folder,
    pixels_of,
    queue,
    send,
)
from tests.make.processes import children, until
from tests.make.processes import ended as all_ended
from tests.make.server import Server, serving

from .conftest import HEIGHT, WIDTH

RESULTS = ("map.tif", "item.json", "scene.png", "map.png", "values.png")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(bundle: Path, home: Path) -> Iterator[Server]:
    """A service that maps."""
    with serving(bundle, home) as running:
        yield running


@pytest.fixture(scope="module")
def finished(server: Server, scene: Path) -> str:
    """A job that made its map; it is read only."""
    job = queue(server, scene)
    assert ended(server, job)["status"] == "successful"
    return job


def test_a_small_scene_is_answered_with_the_map_that_the_command_makes(
    server: Server, scene: Path, bundle: Path, tmp_path: Path
) -> None:
    answer = send(server, scene)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/tiff")
    make_map(scene, tmp_path / "map.tif", bundle, Options(1))
    assert answer.content == (tmp_path / "map.tif").read_bytes()
    assert answer.headers["link"].endswith('; rel="monitor"')


def test_a_job_tells_how_far_it_is_in_the_words_of_ogc(
    server: Server, long_scene: Path, bundle: Path
) -> None:
    answer = send(server, long_scene, headers=ASYNC)
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "respond-async"
    first = answer.json()
    job = answer.headers["location"]
    assert job == f"/jobs/{first['jobID']}"
    assert first["status"] in ("accepted", "running")
    assert (first["type"], first["processID"]) == ("process", "map")
    running = begun(server, job)
    assert 0 < running["progress"] < 100
    assert running["tiles_done"] < running["tiles"]
    last = ended(server, job)
    assert (last["status"], last["progress"], last["problem"]) == ("successful", 100, None)
    assert last["created"] <= last["started"] <= last["finished"]
    digest = json.loads((bundle / "model.json").read_bytes())["sha256"]
    assert last["model"] == {"name": "landcover", "tag": "local", "sha256": digest}
    assert [link["rel"] for link in last["links"]] == ["self", "results", "item"]
    assert set(last["made"]["square_kilometres"]) == set(maps.CLASSES)


def test_the_item_names_model_and_scene_without_a_path_of_the_server(
    server: Server, finished: str, scene: Path, home: Path
) -> None:
    answer = httpx.get(f"{server.url}{finished}/item.json")
    assert answer.headers["content-type"] == "application/geo+json"
    item = answer.json()
    assert item["id"] == f"map-{finished.removeprefix('/jobs/')}"
    assert item["properties"]["map:model"]["tag"] == "local"
    content = httpx.get(f"{server.url}{finished}/map.tif").content
    checksum = item["assets"]["map"]["file:checksum"]
    assert checksum == f"1220{hashlib.sha256(content).hexdigest()}"
    scene_link, model_link = (link for link in item["links"] if link["rel"] == "derived_from")
    assert hashlib.sha256(scene.read_bytes()).hexdigest() in scene_link["title"]
    assert scene_link["href"].startswith("ni:///sha-256;")
    assert model_link["href"].startswith("ni:///sha-256;")
    assert str(home) not in answer.text and "--" not in answer.text


def test_pictures_show_scene_map_and_values(server: Server, finished: str) -> None:
    pictures = {}
    for name in ("scene.png", "map.png", "values.png"):
        answer = httpx.get(f"{server.url}{finished}/{name}")
        assert answer.headers["content-type"] == "image/png"
        pictures[name] = np.array(Image.open(io.BytesIO(answer.content)))
    content = httpx.get(f"{server.url}{finished}/map.tif").content
    labels, confidence = pixels_of(content)
    assert pictures["values.png"].shape == (HEIGHT, WIDTH, 3)
    assert np.array_equal(pictures["values.png"][..., 0], labels)
    assert np.array_equal(pictures["values.png"][..., 1], confidence)
    known = labels != 255
    assert np.array_equal(pictures["map.png"][..., 3] == 255, known)
    assert np.array_equal(pictures["scene.png"][..., 3] == 255, known)
    water = tuple(bytes.fromhex(maps.COLOURS[0][1:]))
    found = {tuple(colour) for colour in pictures["map.png"][labels == 0][:, :3].tolist()}
    assert found == {water}


def test_a_map_is_read_by_range(server: Server, finished: str) -> None:
    url = f"{server.url}{finished}/map.tif"
    whole = httpx.get(url).content
    for asked, part in (
        ("bytes=0-99", whole[:100]),
        ("bytes=100-", whole[100:]),
        ("bytes=-7", whole[-7:]),
    ):
        answer = httpx.get(url, headers={"range": asked})
        assert (answer.status_code, answer.content) == (206, part)
    head = httpx.head(url)
    assert head.headers["content-length"] == str(len(whole))
    assert head.headers["accept-ranges"] == "bytes"
    for ignored in ("lines=1-2", "bytes=9-1", "bytes=", "bytes=x-", "bytes=-0"):
        answer = httpx.get(url, headers={"range": ignored})
        assert (answer.status_code, answer.content) == (200, whole), ignored


def test_a_range_beyond_the_map_is_refused_with_a_sentence(server: Server, finished: str) -> None:
    answer = httpx.get(f"{server.url}{finished}/map.tif", headers={"range": "bytes=99999999-"})
    assert answer.status_code == 416
    assert answer.headers["content-type"] == "application/problem+json"
    assert "bytes=99999999- is beyond" in answer.json()["detail"]


def test_bands_and_offset_are_said_in_the_query(
    server: Server, bundle: Path, tmp_path: Path
) -> None:
    pixels = maps.ground(90, 120)
    scene = maps.write_scene(tmp_path / "unnamed.tif", pixels[::-1], names=(), scale=None)
    refused = send(server, scene)
    assert refused.status_code == 422
    assert "?bands=B02,B03,B04,B08" in refused.json()["detail"]
    answer = send(server, scene, "?bands=B08,B04,B03,B02&offset=0")
    named = maps.write_scene(tmp_path / "named.tif", pixels)
    make_map(named, tmp_path / "map.tif", bundle, Options(1))
    assert np.array_equal(pixels_of(answer.content), maps.read(tmp_path / "map.tif")), answer.text


def test_a_job_that_runs_is_dismissed_with_all_its_files(
    server: Server, home: Path, long_scene: Path, scene: Path
) -> None:
    job = queue(server, long_scene)
    begun(server, job)
    processes = [child for worker in server.workers() for child in children(worker)]
    assert processes
    processes += [worker for child in processes for worker in children(child)]
    answer = httpx.delete(server.url + job, timeout=60)
    assert (answer.status_code, answer.json()["status"]) == (200, "dismissed")
    until(lambda: all_ended(processes), "the end of the map and its workers")
    assert {path.name for path in folder(home, job).iterdir()} == RECORDS
    assert ask(server, job)["status"] == "dismissed"
    again = httpx.delete(server.url + job, timeout=60)
    assert (again.status_code, again.json()["status"]) == (200, "dismissed")
    for name in RESULTS:
        gone = httpx.get(f"{server.url}{job}/{name}")
        assert gone.status_code == 404
        assert "the job is dismissed" in gone.json()["detail"]
    assert send(server, scene).status_code == 200


def test_a_job_that_waits_or_has_ended_is_dismissed(
    server: Server, home: Path, long_scene: Path, scene: Path
) -> None:
    first, second = queue(server, long_scene), queue(server, scene)
    early = httpx.get(f"{server.url}{second}/map.tif")
    assert (early.status_code, "ask again" in early.json()["detail"]) == (404, True)
    assert httpx.get(f"{server.url}{second}/job.json").status_code == 404, "that is no result"
    for job in (second, first):
        assert httpx.delete(server.url + job, timeout=60).json()["status"] == "dismissed"
        assert {path.name for path in folder(home, job).iterdir()} == RECORDS
    done = queue(server, scene)
    ended(server, done)
    assert httpx.delete(server.url + done, timeout=60).json()["status"] == "dismissed"
    assert {path.name for path in folder(home, done).iterdir()} == RECORDS


def test_jobs_are_listed_the_newest_first(server: Server, scene: Path) -> None:
    jobs = [queue(server, scene) for _ in range(3)]
    listed = httpx.get(f"{server.url}/jobs?limit=3").json()
    assert [f"/jobs/{job['jobID']}" for job in listed] == jobs[::-1]
    assert [ended(server, job)["status"] for job in jobs] == ["successful"] * 3


def test_a_job_belongs_to_the_key_that_sent_the_scene(
    bundle: Path, scene: Path, tmp_path: Path
) -> None:
    (mine, mine_hash), (other, other_hash), (viewer, viewer_hash) = (new_key() for _ in range(3))
    keys = {mine_hash: ["predict"], other_hash: ["predict"], viewer_hash: ["view"]}
    with serving(bundle, tmp_path, api_keys=json.dumps(keys), open_roles="[]") as server:
        me, them, viewing = ({"x-api-key": key} for key in (mine, other, viewer))
        assert send(server, scene).status_code == 401
        assert send(server, scene, headers={**TIFF, **viewing}).status_code == 403
        job = queue(server, scene, me)
        until(lambda: ask(server, job, me)["status"] == "successful")
        for route in ("", *(f"/{name}" for name in RESULTS)):
            assert httpx.get(server.url + job + route, headers=me).status_code == 200
            assert httpx.get(server.url + job + route, headers=them).status_code == 404
            assert httpx.get(server.url + job + route).status_code == 401
            assert httpx.get(server.url + job + route, headers=viewing).status_code == 403
        assert httpx.delete(server.url + job, headers=them).status_code == 404
        assert ask(server, job, me)["status"] == "successful"
        assert len(httpx.get(server.url + "/jobs", headers=me).json()) == 1
        assert httpx.get(server.url + "/jobs", headers=them).json() == []
        answer = httpx.get(server.url + job, headers={"authorization": f"Bearer {mine}"})
        assert answer.status_code == 200, "the same key in the other header"
        assert mine_hash not in answer.text
