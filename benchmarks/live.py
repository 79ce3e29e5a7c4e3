"""How old a frame is when a browser gets it by GET /live, and whether memory stays flat.

    make bench-live                               ten minutes of `make demo-stream`, with model/
    python -m benchmarks.live --minutes 60 --watchers 20

A camera sends the images of data/ at a rate, two workers answer them, and a program watches. The
broker is librdkafka's mock, which keeps the newest 5 MB of each partition: Tansu keeps everything,
and is slow after 10,000 frames. Age:
from the capture of a frame to its event, with the picture; drawing in the browser is not in it.
Besides, as many watchers as are given read nothing, as a browser that hangs. Memory is the resident
set of the service's processes and of the workers, at the end of each minute; the first five are
left out of the comparison, as libraries and caches fill in them.
"""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime

import httpx
import numpy as np
import psutil
from confluent_kafka import Producer

from benchmarks import machine

PORT = 8099
URL = f"http://127.0.0.1:{PORT}"
STARTS_WITHIN = 120  # seconds
SETTLED = 5  # minutes


def main() -> None:
    """Watch, and print a line a minute and the whole."""
    parser = ArgumentParser(prog="python -m benchmarks.live", description=__doc__)
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--rate", type=float, default=10, help="frames a second of the camera")
    parser.add_argument("--watchers", type=int, default=5, help="that read nothing")
    options = parser.parse_args()
    print(f"{machine.line()}; load {os.getloadavg()[0]:.1f}; {options.rate:g} frames a second")
    command = [sys.executable, "-m", "service.stream.demo", "data", "--rate", f"{options.rate:g}"]
    own = {"SERVICE_PORT": str(PORT), "SERVICE_STREAM_PORT": str(PORT + 1)}
    broker = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 3})
    (address,) = broker.list_topics(timeout=STARTS_WITHIN).brokers.values()
    own["SERVICE_STREAM_BROKERS"] = f"{address.host}:{address.port}"
    with ExitStack() as stack:
        demo = subprocess.Popen(command, env=os.environ | own, stdout=subprocess.DEVNULL)
        stack.callback(demo.wait)
        stack.callback(demo.send_signal, signal.SIGTERM)
        _until_ready(demo)
        for _ in range(options.watchers):
            stack.enter_context(_hung())
        ages: list[float] = []
        memory: list[dict[str, float]] = []
        for minute, found in enumerate(_minutes(options.minutes), 1):
            ages += found
            memory.append(_memory(demo.pid))
            low, high = np.percentile(found, (50, 95)) if found else (np.nan, np.nan)
            held = ", ".join(f"{name} {mib:.0f}" for name, mib in memory[-1].items())
            print(
                f"minute {minute}: {len(found)} events, age p50 {low:.0f} ms, p95 {high:.0f} ms; "
                f"MiB: {held}; load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    p50, p95, p99 = np.percentile(ages, (50, 95, 99))
    print(f"age of {len(ages)} events: p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms")
    settled = memory[SETTLED:] or memory
    for name in settled[0]:
        values = [each[name] for each in settled]
        slope = statistics.linear_regression(range(len(values)), values).slope if values[1:] else 0
        print(
            f"{name}: {values[0]:.1f} to {values[-1]:.1f} MiB over {len(values)} minutes, least "
            f"{min(values):.1f}, most {max(values):.1f}, slope {60 * slope:+.1f} MiB an hour"
        )


def _until_ready(demo: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while demo.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{URL}/readyz").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    sys.exit("error: the demo does not serve: make demo-stream shows why")


def _hung() -> socket.socket:
    """One who watches and reads nothing."""
    watcher = socket.create_connection(("127.0.0.1", PORT))
    watcher.sendall(b"GET /live HTTP/1.1\r\nhost: here\r\n\r\n")
    return watcher


def _minutes(count: int) -> Iterator[list[float]]:
    """The ages of the events of each minute, milliseconds."""
    ages: list[float] = []
    end = time.monotonic() + 60
    with httpx.stream("GET", f"{URL}/live", timeout=60) as events:
        for line in events.iter_lines():
            if line.startswith("data: "):
                captured = datetime.fromisoformat(json.loads(line[6:])["captured_at"])
                ages.append(1000 * (time.time() - captured.timestamp()))
            if time.monotonic() >= end:
                yield ages
                ages, end, count = [], end + 60, count - 1
                if count == 0:
                    return


def _memory(demo: int) -> dict[str, float]:
    """Resident MiB of the service, and of the workers of the stream."""
    found = {"service": 0.0, "workers": 0.0}
    for process in psutil.Process(demo).children(recursive=True):
        words = process.cmdline()
        name = "workers" if words[-1:] == ["stream"] else "service" if "serve" in words else ""
        if name:
            found[name] += process.memory_info().rss / 2**20
    return found


if __name__ == "__main__":
    main()
