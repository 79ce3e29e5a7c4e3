"""What maps by HTTP take, and what a queue of them costs `/predict`.

    python -m benchmarks.map_jobs --bundle FOLDER

The service runs as a user starts it, with a worker a core. First a scene of 1 Mpx is mapped again
and again, each map answered at once, then on the page in Chromium. Then predictions arrive at
random on a timetable (wrk, an open loop) in turns: while no map is made; beside one process a core
that does nothing but count, of the same lowest priority, which is what the machine itself adds when
no core rests (a virtual one, most of all); and while 100 maps are in the queue.
"""

import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from itertools import islice
from io import BytesIO
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np

from benchmarks import machine
from benchmarks.map import write_mirrored
from benchmarks.serving.bundle import Body
from benchmarks.serving.load import Result, paced
from benchmarks.serving.servers import HOST, PORT, refuse_taken_ports, stop
from contracts.bundle import Segmentation
from service.inference.bundle import decode_chip, read_bundle

URL = f"http://{HOST}:{PORT}"
SIDE = 1000  # pixels of the scene that is answered at once: 1 Mpx
LARGE = 2000  # pixels of the scenes in the queue
QUEUED = 100
START = 60  # seconds
CHROMIUM = "/usr/bin/chromium"
DRAWN = """() => {
    const image = document.querySelector("#map img.classes");
    return image?.complete && image.naturalWidth > 0;
}"""


def main() -> None:
    """Measure and print."""
    options = _options()
    bundle = read_bundle(options.bundle)
    assert isinstance(bundle.manifest, Segmentation), "take a segmentation bundle"
    inputs = bundle.manifest.input
    print(f"{machine.line()}; load {os.getloadavg()[0]:.1f}; n = {options.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        small, large, chip = (Path(folder) / name for name in ("1.tif", "4.tif", "chip.npy"))
        write_mirrored(small, options.scene, SIDE, inputs.bands)
        write_mirrored(large, options.scene, LARGE, inputs.bands)
        memory = BytesIO()
        np.save(memory, decode_chip(bundle.manifest.golden[0].chip, inputs))
        chip.write_bytes(memory.getvalue())
        body = Body(chip, "application/octet-stream")
        with running(options.bundle, Path(folder)):
            seconds = [post(small)[1] for _ in range(options.maps + 1)][1:]
            print(f"1 Mpx, answered at once: {spread(seconds, 's')}, n = {len(seconds)}")
            seconds = list(islice(on_the_page(small), options.maps))
            print(f"1 Mpx on the page, to the map: {spread(seconds, 's')}, n = {len(seconds)}")
            ways: dict[str, Callable[[], AbstractContextManager[None]]]
            ways = {"no map": nullcontext, "cores counting": counting}
            ways[f"{QUEUED} maps queued"] = partial(queued, large)
            found: dict[str, list[Result]] = {way: [] for way in ways}
            for _ in range(options.rounds):
                for way, beside in ways.items():
                    with beside():
                        found[way].append(predict(body, options))
    for way, results in found.items():
        report(way, results)


def _options() -> Namespace:
    parser = ArgumentParser(prog="python -m benchmarks.map_jobs", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("model"))
    parser.add_argument("--scene", type=Path, help="to mirror; default: simulated ground")
    parser.add_argument("--maps", type=int, default=10, help="of 1 Mpx (default: 10)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--seconds", type=int, default=10, help="of each load (default: 10)")
    parser.add_argument("--rate", type=float, default=100, help="predictions a second")
    return parser.parse_args()


@contextmanager
def running(bundle: Path, folder: Path) -> Iterator[None]:
    """The service, from its first answer to the end of the block."""
    refuse_taken_ports()
    settings = {"PORT": str(PORT), "BUNDLE": str(bundle), "STATE": str(folder / "state")}
    settings |= {"WORKERS": str(os.cpu_count()), "MAPS_QUEUE": str(QUEUED)}
    variables = {f"SERVICE_{name}": value for name, value in settings.items()}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "service"],
            env=os.environ | variables,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_until_ready(time.monotonic() + START)
            yield
        finally:
            stop(process)


def wait_until_ready(deadline: float) -> None:
    """Ask until the service answers."""
    while True:
        try:
            with urlopen(f"{URL}/readyz", timeout=5):
                return
        except OSError:
            if time.monotonic() > deadline:
                sys.exit("error: the service did not start")
            time.sleep(0.1)


def post(scene: Path, prefer: str = "") -> tuple[bytes, float]:
    """Send a scene; give the answer and its seconds."""
    started = time.perf_counter()
    connection = http.client.HTTPConnection(HOST, PORT, timeout=120)
    connection.request("POST", "/maps?offset=0", scene.read_bytes(), {"Prefer": prefer})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if answer.status != (202 if prefer else 200):
        sys.exit(f"error: POST /maps was answered with {answer.status}: {content[:300]!r}")
    return content, time.perf_counter() - started


def on_the_page(scene: Path) -> Iterator[float]:
    """Seconds from the choice of a scene to its map on the page, in a new window each time."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        while True:
            page = browser.new_context().new_page()
            page.goto(URL)
            page.locator("#map-card").wait_for()
            started = time.perf_counter()
            page.set_input_files("#scene", scene)
            page.locator("#map-result").wait_for()
            page.wait_for_function(DRAWN)
            yield time.perf_counter() - started
            page.context.close()


@contextmanager
def queued(scene: Path) -> Iterator[None]:
    """So many jobs in the queue; they are dismissed at the end."""
    jobs = [json.loads(post(scene, "respond-async")[0])["jobID"] for _ in range(QUEUED)]
    yield
    for job in reversed(jobs):
        with urlopen(Request(f"{URL}/jobs/{job}", method="DELETE"), timeout=30):
            pass


@contextmanager
def counting() -> Iterator[None]:
    """One process a core that never rests, where nothing else wants to run."""
    line = [sys.executable, "-c", "while True: pass"]
    with ExitStack() as ending:
        for _ in range(os.cpu_count() or 1):
            process = ending.enter_context(subprocess.Popen(line))
            ending.callback(process.kill)
            os.sched_setscheduler(process.pid, os.SCHED_IDLE, os.sched_param(0))
        yield


def predict(body: Body, options: Namespace) -> Result:
    """Send predictions on a timetable."""
    found = paced(f"{URL}/predict", body, rate=options.rate, seconds=options.seconds)
    if found.errors:
        sys.exit(f"error: {found.errors} predictions failed")
    return found


def report(title: str, found: list[Result]) -> None:
    """Print what clients saw."""
    p50, p99 = ([getattr(result, name) for result in found] for name in ("p50", "p99"))
    rate = statistics.median(result.rate for result in found)
    print(f"{title}: {rate:.0f} a second, p50 {spread(p50, 'ms')}, p99 {spread(p99, 'ms')}")


def spread(values: list[float], unit: str) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):.2f} {unit} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
