"""What mapping a whole scene costs beside the bare runtime.

    python -m benchmarks.map [--scene SCENE.tif] [--sides 5490 10980]

A scene is mirrored to squares of 5,490 and 10,980 pixels with four bands of uint16 (DEFLATE, blocks
of 512), and mapped by `python -m service map`. Beside each map, before and after it, ONNX Runtime
alone runs the same graph on as much ground, in one process with one thread, without margins, and
with the same outputs. Efficiency is its CPU-seconds over all CPU-seconds of the map: reading,
margins, overviews and compression are in them. Without --scene the ground is simulated.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

from benchmarks import machine
from contracts.bundle import Segmentation
from service.inference.bundle import read_bundle
from service.inference.providers import open_session
from service.maps.make import TILE, plan
from service.maps.scene import Reader, open_scene

MILLION = 1e6
MIB = 2**20
CORES = 2  # of the goal
BARE = 512  # edge of the runtime's tiles, pixels
BARE_TILES = 12  # a measurement
PAUSE = 0.25  # seconds between two looks at the memory
BLOCK = 512


class Run(NamedTuple):
    """One map."""

    wall: float
    cpu: float
    resident: float
    """MiB of all processes at the peak; what they share counts in each."""
    proportional: float
    """MiB of all processes at the peak; what they share counts once."""


def main() -> None:
    """Measure and print."""
    options = _options()
    bundle = read_bundle(options.bundle)
    assert isinstance(bundle.manifest, Segmentation), "take a segmentation bundle"
    print(f"{machine.line()}; load {os.getloadavg()[0]:.1f}; n = {options.rounds} rounds")
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for side in options.sides:
            scene = Path(folder) / f"scene-{side}.tif"
            write_mirrored(scene, options.scene, side, bundle.manifest.input.bands)
            megapixels = side * side / MILLION
            reading = [megapixels / read_all(scene, bundle) for _ in range(options.rounds)]
            runs, bare = [], [bare_speed(bundle.graph, scene)]
            for _ in range(options.rounds):
                runs.append(run_map(scene, options))
                bare.append(bare_speed(bundle.graph, scene))
            report(side, runs, bare, reading)


def _options() -> Namespace:
    parser = ArgumentParser(prog="python -m benchmarks.map", description=__doc__.splitlines()[0])
    parser.add_argument("--scene", type=Path, help="to mirror; default: simulated ground")
    parser.add_argument("--sides", type=int, nargs="+", default=[5490, 10980], help="pixels")
    parser.add_argument("--bundle", type=Path, default=Path("model"))
    parser.add_argument("--workers", type=int, default=CORES)
    parser.add_argument("--tile", type=int, default=TILE)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("artifacts"), help="for the scenes")
    return parser.parse_args()


def report(side: int, runs: list[Run], bare: list[float], reading: list[float]) -> None:
    """Print what one size cost."""
    megapixels = side * side / MILLION
    cpu = statistics.median(run.cpu for run in runs)
    alone = megapixels / statistics.median(bare)
    print(f"\n{side} x {side} x 4, {megapixels:.1f} Mpx")
    print(
        f"  runtime alone       {alone:7.1f} CPU-s ({statistics.median(bare):.2f} Mpx/CPU-s, ",
        end="",
    )
    print(f"{min(bare):.2f} to {max(bare):.2f})")
    print(f"  map                 {cpu:7.1f} CPU-s, {cpu / CORES:.1f} s on {CORES} idle cores")
    print(f"  efficiency          {alone / cpu:7.2f}")
    print(f"  wall                {statistics.median(run.wall for run in runs):7.1f} s")
    print(f"  reading             {statistics.median(reading):7.1f} Mpx/CPU-s")
    print(f"  memory, all, PSS    {max(run.proportional for run in runs):7.0f} MiB")
    print(f"  memory, all, RSS    {max(run.resident for run in runs):7.0f} MiB", flush=True)


def write_mirrored(path: Path, source: Path | None, side: int, bands: tuple[str, ...]) -> None:
    """Write a scene that repeats another, mirrored at its edges."""
    pixels = simulated() if source is None else _read(source)
    count, height, width = pixels.shape
    if count != len(bands):
        sys.exit(f"error: {source} has {count} bands, the model takes {', '.join(bands)}")
    tall, wide = (np.pad(np.arange(n), (0, n), mode="symmetric") for n in (height, width))
    columns = np.resize(wide, side)
    profile = {
        **{"driver": "GTiff", "count": count, "dtype": "uint16", "width": side, "height": side},
        **{"crs": "EPSG:32633", "transform": from_origin(300_000, 5_400_000, 10, 10), "nodata": 0},
        **{"compress": "DEFLATE", "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK},
    }
    with rasterio.open(path, "w", **profile) as file:
        file.descriptions = bands
        file.scales, file.offsets = (1e-4,) * count, (0.0,) * count
        for top in range(0, side, BLOCK):
            rows = tall[np.arange(top, min(top + BLOCK, side)) % len(tall)]
            lines = pixels[:, rows][:, :, columns]
            file.write(lines, window=Window(0, top, side, len(rows)))


def simulated() -> npt.NDArray[np.uint16]:
    """Ground that compresses as a real scene does: fields with noise, (4, 600, 600)."""
    random = np.random.default_rng(0)
    levels = random.uniform(200, 4000, (4, 30, 30)).repeat(20, 1).repeat(20, 2)
    noise = random.normal(1, 0.05, levels.shape)
    return (levels * noise).clip(1, 10_000).astype(np.uint16)


def _read(source: Path) -> npt.NDArray[np.uint16]:
    with rasterio.open(source) as file:
        pixels: npt.NDArray[np.uint16] = file.read()
        return pixels


def bare_speed(graph: bytes, scene: Path) -> float:
    """Mpx per CPU-second of ONNX Runtime alone."""
    session = open_session(graph, "cpu")
    with rasterio.open(scene) as file:
        chips = file.read(window=Window(0, 0, BARE, BARE))[None]
    outputs = ["labels", "confidence"]
    session.run(outputs, {"chips": chips})
    started = time.process_time()
    for _ in range(BARE_TILES):
        session.run(outputs, {"chips": chips})
    return BARE_TILES * BARE * BARE / MILLION / (time.process_time() - started)


def read_all(scene: Path, bundle: Any) -> float:
    """CPU-seconds for reading all strips of a scene."""
    manifest = bundle.manifest
    with open_scene(scene, manifest) as opened:
        grid, setup = plan(opened, bundle, manifest, TILE)
        reader = Reader(opened, grid)
        shape = [edge + 2 * grid.margin for edge in grid.panel]
        strip = np.zeros((setup.bands, *shape), setup.dtype)
        started = time.process_time()
        for part in grid.strips():
            reader.fill(part, strip)
        return time.process_time() - started


def run_map(scene: Path, options: Namespace) -> Run:
    """Map a scene in a process of its own, as a person does."""
    target = scene.with_name("map.tif")
    command = [sys.executable, "-m", "service", "map", str(scene), "-o", str(target)]
    command += [f"--bundle={options.bundle}", f"--workers={options.workers}"]
    command += [f"--tile={options.tile}", "--offset=0"]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peaks = {"Rss": 0.0, "Pss": 0.0}
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(process.pid, peaks, ended))
    watch.start()
    code = process.wait()
    wall = time.perf_counter() - started
    ended.set()
    watch.join()
    if code:
        sys.exit(f"error: the map failed with code {code}: {' '.join(command)}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(wall, cpu, peaks["Rss"], peaks["Pss"])


def _watch(root: int, peaks: dict[str, float], ended: threading.Event) -> None:
    while not ended.wait(PAUSE):
        for kind, size in _memory([root, *_children(root)]).items():
            peaks[kind] = max(peaks[kind], size)


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(child) for child in text.split()]


def _memory(pids: list[int]) -> dict[str, float]:
    sizes = {"Rss": 0.0, "Pss": 0.0}
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        except OSError:  # it has just ended
            continue
        for line in text.splitlines()[1:]:
            name, size = line.split()[:2]
            if name.rstrip(":") in sizes:
                sizes[name.rstrip(":")] += int(size) * 1024 / MIB
    return sizes


if __name__ == "__main__":
    main()
