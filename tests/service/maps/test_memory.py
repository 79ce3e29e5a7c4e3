"""Memory depends on the tile and not on the scene."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from service.inference.bundle import read_bundle
from service.maps.make import plan
from service.maps.scene import Reader, open_scene
from service.maps.worker import size_of
from tests.conftest import ROOT
from tests.make import maps

MIB = 2**20


def test_strips_of_a_large_scene_take_as_much_as_those_of_one_half_as_wide(
    bundle: Path, tmp_path: Path
) -> None:
    sizes = {}
    for side in (5490, 10980, 40_000):
        scene = tmp_path / f"scene-{side}.tif"
        maps.write_empty(scene, side)
        model = read_bundle(bundle)
        with open_scene(scene, model.manifest) as opened:  # type: ignore[arg-type]
            grid, setup = plan(opened, model, model.manifest, 512)  # type: ignore[arg-type]
            sizes[side] = size_of(setup) + Reader(opened, grid).size
    assert sizes[10980] < 1.1 * sizes[5490]
    assert max(sizes.values()) < 200 * MIB


def test_a_scene_of_four_times_the_pixels_takes_no_more_memory(
    bundle: Path, tmp_path: Path
) -> None:
    peaks = []
    for side in (768, 1536):  # the pixels of the second alone are 19 MB
        scene = maps.write_scene(
            tmp_path / f"{side}.tif", np.tile(maps.ground(768, 768), side // 768)
        )
        peaks.append(_peak(scene, tmp_path / "map.tif", bundle))
    assert peaks[1] < 1.1 * peaks[0], peaks


def _peak(scene: Path, target: Path, bundle: Path) -> int:
    """Bytes of the process that reads and writes, at its peak."""
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from service.maps import grid; from service.maps.make import Options, make_map\n"
        "grid.PANEL = 768; scene, target, bundle = map(Path, sys.argv[1:])\n"
        "make_map(scene, target, bundle, Options(1, 128))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    )
    words = [sys.executable, "-c", code, str(scene), str(target), str(bundle)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout)
