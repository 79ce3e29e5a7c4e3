"""What a map leaves behind: full disks, workers without a parent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.errors import StorageFull
from service.maps.make import Options, make_map
from tests.make import maps
from tests.make.disks import small_disk
from tests.make.processes import ended, until


def test_a_disk_without_room_is_a_sentence_before_anything_is_mapped(
    scene: Path, bundle: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        with pytest.raises(StorageFull, match="the disk of map.tif is full"):
            make_map(scene, disk / "map.tif", bundle, Options(1), _never)
        assert list(disk.iterdir()) == []


def test_a_disk_that_is_full_in_the_end_costs_no_strip(
    scene: Path, bundle: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "768k") as disk:
        (disk / "other").write_bytes(bytes(500_000))
        with pytest.raises(StorageFull, match="what is finished is kept"):
            make_map(scene, disk / "map.tif", bundle, Options(1, 64))
        names = sorted(path.name for path in disk.iterdir())
        assert [name[:9] for name in names] == [".map.tif.", "other"], "one work file"
        (disk / "other").unlink()
        steps: list[tuple[int, int]] = []
        make_map(
            scene,
            disk / "map.tif",
            bundle,
            Options(1, 64),
            lambda done, of: steps.append((done, of)),
        )
        assert steps[0][0] == steps[0][1], "nothing was left to do"
        assert sorted(path.name for path in disk.iterdir()) == ["map.json", "map.tif"]


def test_workers_end_with_their_parent(bundle: Path, tmp_path: Path) -> None:
    scene = maps.write_scene(tmp_path / "scene.tif", maps.ground(400, 400))
    words = ["map", str(scene), "-o", str(tmp_path / "map.tif"), "--bundle", str(bundle)]
    process = subprocess.Popen(
        [sys.executable, "-m", "service", *words, "--workers=2", "--tile=64"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr and process.stderr.readline()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("ascii").split()
    assert len(children) == 2
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    until(lambda: ended([int(pid) for pid in children]), "the end of the workers")


def test_ctrl_c_is_a_sentence_and_the_same_command_goes_on(bundle: Path, tmp_path: Path) -> None:
    scene = maps.write_scene(
        tmp_path / "scene.tif", maps.ground(1800, 1800)
    )  # ten times what is interrupted
    words = ["map", str(scene), "-o", str(tmp_path / "map.tif"), "--bundle", str(bundle)]
    command = [sys.executable, "-m", "service", *words, "--workers=1", "--tile=64"]
    for first in ("", "tiles were finished before"):
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        assert process.stderr
        assert first in process.stderr.readline()
        assert process.stderr.readline(), "a strip is finished"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, said = process.communicate()
        assert process.returncode == 130 and "Traceback" not in said
        assert said.endswith("stopped; the same command goes on from here\n")


def test_what_a_kill_left_of_a_map_is_deleted(scene: Path, bundle: Path, tmp_path: Path) -> None:
    for name in ("0123456789abcdef.work", "0123456789abcdef.plain", "0123456789abcdef.cog"):
        (tmp_path / f".map.tif.{name}").write_bytes(b"left")
    make_map(scene, tmp_path / "map.tif", bundle, Options(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.json", "map.tif"]


def _never(done: int, of: int) -> None:
    pytest.fail("it began to map")
