"""A map is the same, bit for bit, however the scene is divided and whatever interrupts it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from service.errors import Conflict
from service.maps import grid
from service.maps.make import Cancelled, Made, Options, make_map
from tests.make import maps
from tests.make.maps import CHIP, MARGIN, STRIDE

from .conftest import HEIGHT, WIDTH


def test_tiles_and_workers_do_not_show(scene: Path, bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "map.tif"
    found = set()
    for tile, workers in ((64, 2), (100, 1), (256, 2), (1024, 1)):
        made = make_map(scene, target, bundle, Options(workers, tile))
        found.add((target.read_bytes(), str(made.counts)))
    assert len(found) == 1


def test_a_map_of_tiles_is_the_map_of_the_whole(scene: Path, bundle: Path, tmp_path: Path) -> None:
    make_map(scene, tmp_path / "map.tif", bundle, Options(2, 64))
    pixels, found = maps.read(scene), maps.read(tmp_path / "map.tif")
    after = [(MARGIN, MARGIN + -edge % STRIDE) for edge in (HEIGHT, WIDTH)]
    padded = np.pad(pixels, ((0, 0), *after), mode="reflect")
    session = onnxruntime.InferenceSession((bundle / "model.onnx").read_bytes())
    whole = session.run(["labels", "confidence"], {"chips": padded[None]})
    inner = np.s_[MARGIN : MARGIN + HEIGHT, MARGIN : MARGIN + WIDTH]
    for plane, expected in zip(found, whole, strict=True):
        assert np.array_equal(plane, expected[0][inner])
    assert np.array_equal(found[0] == 255, (pixels == 0).all(axis=0))
    assert len(np.unique(found[0])) == 4, "three classes and nodata, or there is nothing to compare"


def test_panels_of_a_wide_scene_do_not_show(
    scene: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_map(scene, tmp_path / "one.tif", bundle, Options(1, 64))
    for widest in (64, 128, 200):
        monkeypatch.setattr(grid, "PANEL", widest)
        make_map(scene, tmp_path / "many.tif", bundle, Options(1, 64))
        assert (tmp_path / "many.tif").read_bytes() == (tmp_path / "one.tif").read_bytes()


def test_a_scene_in_lines_gives_the_map_of_one_in_blocks(bundle: Path, tmp_path: Path) -> None:
    pixels = maps.ground(90, 120)
    for name, blocks, lines in (("blocks", True, 64), ("lines", False, 1)):
        path = tmp_path / f"{name}.tif"
        scene = maps.write_scene(path, pixels, tiled=blocks, blockysize=lines)
        make_map(scene, tmp_path / f"map-{name}.tif", bundle, Options(1))
    one, other = (tmp_path / f"map-{name}.tif" for name in ("blocks", "lines"))
    assert one.read_bytes() == other.read_bytes()


def test_a_network_that_sees_the_whole_image_is_blended_the_same_for_any_tile(
    scene: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = maps.make_bundle(tmp_path / "model", whole_image=True)
    found = set()
    for tile, workers in ((64, 2), (160, 1), (512, 1)):
        made = make_map(scene, tmp_path / "map.tif", bundle, Options(workers, tile))
        found.add((tmp_path / "map.tif").read_bytes())
    assert len(found) == 1
    assert any("blended" in warning for warning in made.warnings)
    assert made.item["properties"]["map:exact"] is False
    assert f"windows of {CHIP} pixels are blended" in caplog.text


KILLED = """
import os, signal, sys
from pathlib import Path
from service.maps.make import Options, make_map

def progress(done, of):
    if 2 * done >= of:
        os.kill(os.getpid(), signal.SIGKILL)

scene, target, bundle = map(Path, sys.argv[1:4])
make_map(scene, target, bundle, Options(2, 64), progress)
"""


def test_a_killed_map_goes_on_where_it_was(scene: Path, bundle: Path, tmp_path: Path) -> None:
    make_map(scene, tmp_path / "whole.tif", bundle, Options(1, 64))
    target = tmp_path / "map.tif"
    names = [str(path) for path in (scene, target, bundle)]
    code = subprocess.run([sys.executable, "-c", KILLED, *names], check=False).returncode
    assert code == -signal.SIGKILL
    assert not target.exists() and len(list(tmp_path.glob(".map.tif.*.work"))) == 1
    made, steps = _made_with_progress(scene, target, bundle)
    first, total = steps[0]
    assert first / total >= 0.45, "at most 55 % is done again"
    assert steps[-1] == (total, total)
    assert target.read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert sum(made.counts.labels) == int((maps.read(target)[0] != 255).sum())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("map.json", "map.tif", "whole.json", "whole.tif")
    ]


def test_a_work_file_whose_last_line_was_cut_off_is_used(
    scene: Path, bundle: Path, tmp_path: Path
) -> None:
    target = tmp_path / "map.tif"
    _stop_at(scene, target, bundle, share=0.6)
    (path,) = tmp_path.glob(".map.tif.*.work")
    whole = path.read_bytes()
    os.truncate(path, len(whole) - 5)
    made, steps = _made_with_progress(scene, target, bundle)
    assert 0 < steps[0][0] < steps[0][1]
    make_map(scene, tmp_path / "whole.tif", bundle, Options(1, 64))
    assert target.read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_another_scene_or_model_begins_anew(scene: Path, bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "map.tif"
    _stop_at(scene, target, bundle, share=0.6)
    other = maps.make_bundle(tmp_path / "other", seed=1)
    _, steps = _made_with_progress(scene, target, other)
    assert steps[0][0] == 0
    assert not list(tmp_path.glob(".map.tif.*")), "what nothing needs any more is deleted"


def test_a_map_that_is_cancelled_leaves_the_old_one(
    scene: Path, bundle: Path, tmp_path: Path
) -> None:
    target = tmp_path / "map.tif"
    target.write_bytes(b"old")
    _stop_at(scene, target, bundle, share=0.3)
    assert target.read_bytes() == b"old"


def test_two_processes_do_not_make_the_same_map(scene: Path, bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "map.tif"

    def second(done: int, of: int) -> None:
        with pytest.raises(Conflict, match="another process makes map.tif"):
            make_map(scene, target, bundle, Options(1, 64))

    make_map(scene, target, bundle, Options(1, 64), second)
    assert target.exists()


def _made_with_progress(
    scene: Path, target: Path, bundle: Path
) -> tuple[Made, list[tuple[int, int]]]:
    steps: list[tuple[int, int]] = []
    made = make_map(
        scene, target, bundle, Options(1, 64), lambda done, of: steps.append((done, of))
    )
    return made, steps


def _stop_at(scene: Path, target: Path, bundle: Path, share: float) -> None:
    reached = [0.0]

    with pytest.raises(Cancelled):
        make_map(
            scene,
            target,
            bundle,
            Options(1, 64),
            lambda done, of: reached.append(done / of),
            lambda: reached[-1] >= share,
        )
