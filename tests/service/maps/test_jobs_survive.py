"""Jobs outlive what happens to a service: a kill, a swap, a full disk."""

import json
import os
import signal
from pathlib import Path

import httpx
import pytest

from service.maps.make import Options, make_map
from tests.make import maps
from tests.make.disks import fill, small_disk
from tests.make.map_jobs import ASYNC, RECORDS, ask, begun, ended, folder, queue, send
from tests.make.processes import children, until
from tests.make.processes import ended as all_ended
from tests.make.projects import Published, contents, digest_of
from tests.make.server import Server, serving
from tests.make.swaps import replace


def whole(scene: Path, bundle: Path, target: Path) -> bytes:
    """The map of a scene, made at once."""
    make_map(scene, target, bundle, Options(1))
    return target.read_bytes()


def map_of(server: Server, job: str) -> bytes:
    last = ended(server, job)
    assert last["status"] == "successful", last
    return httpx.get(f"{server.url}{job}/map.tif", timeout=60).content


def mapping(server: Server) -> int:
    """The process that makes a map; 0 without one."""
    found = [child for worker in server.workers() for child in children(worker)]
    return found[0] if found else 0


def test_jobs_go_on_after_the_service_was_killed(
    bundle: Path, scene: Path, long_scene: Path, tmp_path: Path
) -> None:
    with serving(bundle, tmp_path) as server:
        first, second = queue(server, long_scene), queue(server, scene)
        before = begun(server, first)
        process = mapping(server)
        processes = [process, *children(process)]
        server.stop(signal.SIGKILL)
        until(lambda: all_ended(processes), "the end of the process that maps")
    with serving(bundle, tmp_path) as server:
        assert map_of(server, first) == whole(long_scene, bundle, tmp_path / "map.tif")
        assert ask(server, first)["created"] == before["created"]
        assert ask(server, first)["started"] == before["started"]
        assert map_of(server, second) == whole(scene, bundle, tmp_path / "map.tif")


def test_a_job_goes_on_when_its_worker_dies(bundle: Path, long_scene: Path, tmp_path: Path) -> None:
    with serving(bundle, tmp_path) as server:
        job = queue(server, long_scene)
        begun(server, job)
        worker = next(pid for pid in server.workers() if children(pid))
        os.kill(worker, signal.SIGKILL)
        until(lambda: worker not in server.workers())
        server.wait_for_workers(2)
        assert map_of(server, job) == whole(long_scene, bundle, tmp_path / "map.tif")


def test_a_service_that_stops_leaves_its_job_to_the_next(
    bundle: Path, long_scene: Path, tmp_path: Path
) -> None:
    with serving(bundle, tmp_path) as server:
        job = queue(server, long_scene)
        begun(server, job)
        process = mapping(server)
        assert server.stop() == 0
        assert all_ended([process])
    with serving(bundle, tmp_path) as server:
        assert ended(server, job)["status"] == "successful"


def test_a_process_that_is_killed_fails_its_job_alone(
    bundle: Path, scene: Path, long_scene: Path, tmp_path: Path
) -> None:
    with serving(bundle, tmp_path) as server:
        job = queue(server, long_scene)
        begun(server, job)
        os.kill(mapping(server), signal.SIGKILL)
        last = ended(server, job)
        assert (last["status"], last["problem"]["status"]) == ("failed", 500)
        assert "ended with signal 9" in last["message"]
        assert {path.name for path in folder(tmp_path, job).iterdir()} == RECORDS
        assert send(server, scene).status_code == 200


def test_a_job_finishes_with_the_model_that_it_began_with(
    bundle: Path, scene: Path, long_scene: Path, tmp_path: Path
) -> None:
    project = Published(tmp_path / "project")
    other = maps.make_bundle(tmp_path / "other", seed=1)
    project.publish("landcover@v2.0.0", contents(other))
    with serving(bundle, tmp_path, repository=project.folder) as server:
        running, waiting = queue(server, long_scene), queue(server, scene)
        begun(server, running)
        answer = replace(server, "landcover@v2.0.0")
        assert answer.status_code == 200, answer.text
        after = send(server, scene)
        for job, source in ((running, long_scene), (waiting, scene)):
            assert map_of(server, job) == whole(source, bundle, tmp_path / "map.tif")
            item = httpx.get(f"{server.url}{job}/item.json").json()
            assert item["properties"]["map:model"]["tag"] == "local"
            assert item["properties"]["map:model"]["sha256"] == digest_of(bundle)
        assert after.content == whole(scene, other, tmp_path / "map.tif")
        item = httpx.get(f"{server.url}{monitor(after)}/item.json").json()
        assert item["properties"]["map:model"]["tag"] == "landcover@v2.0.0"
        assert item["properties"]["map:model"]["sha256"] == digest_of(other)


def monitor(answer: httpx.Response) -> str:
    """The job of a map that was answered at once."""
    return answer.headers["link"].partition(">")[0].removeprefix("<")


def test_an_upload_to_a_full_disk_leaves_nothing(bundle: Path, scene: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "24m") as disk:
        with serving(bundle, tmp_path, state=disk / "state") as server:
            assert send(server, scene).status_code == 200
            filler = fill(disk)
            answer = send(server, scene, headers=ASYNC)
            assert answer.status_code == 507
            assert answer.json()["detail"].startswith("the server's disk is full")
            folders = disk / "state" / "maps"
            assert list((folders / "incoming").iterdir()) == []
            assert len(list((folders / "jobs").iterdir())) == 1
            filler.unlink()
            assert send(server, scene).status_code == 200


def test_a_map_that_does_not_fit_on_the_disk_leaves_nothing(
    bundle: Path, scene: Path, tmp_path: Path
) -> None:
    pixels = maps.ground(64, 64).repeat(50, 1).repeat(50, 2)  # small as a file, large as a map
    large = maps.write_scene(tmp_path / "large.tif", pixels, blockxsize=512, blockysize=512)
    with small_disk(tmp_path / "disk", "16m") as disk:
        with serving(bundle, tmp_path, state=disk / "state", maps_at_once=20_000_000) as server:
            answer = send(server, large)
            assert answer.status_code == 507, answer.text
            assert answer.json()["detail"].startswith("the server's disk is full")
            (job,) = (disk / "state" / "maps" / "jobs").iterdir()
            assert {path.name for path in job.iterdir()} == RECORDS
            assert json.loads((job / "status.json").read_bytes())["status"] == "failed"
            assert send(server, scene).status_code == 200


@pytest.mark.parametrize(
    "limit", [{"maps_keep": 1}, {"maps_keep_mib": 0}, {"maps_keep_hours": 1e-9}], ids=str
)
def test_finished_maps_are_kept_within_limits(
    bundle: Path, scene: Path, tmp_path: Path, limit: dict[str, float]
) -> None:
    with serving(bundle, tmp_path, **limit) as server:
        first, second = queue(server, scene), queue(server, scene)
        until(lambda: not folder(tmp_path, first).exists())
        if "maps_keep" in limit:
            assert ended(server, second)["status"] == "successful"
        else:
            until(lambda: not folder(tmp_path, second).exists())
        assert httpx.get(server.url + first).status_code == 404
