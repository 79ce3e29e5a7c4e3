"""What one worker of the stream answers a second, and what Kafka adds to the latency of HTTP.

    python -m benchmarks.stream [--bundle model] [--images 20000] [--rounds 3] [--rate 20]

Without --bundle the model is the reference network of `make bench-serving`, with random weights.
The broker is Tansu on the same machine, whose work counts against the worker where cores are few.
Throughput: frames (NPY) that wait in the topic, from the first answer to the last. Latency: one
frame at a time, at the given rate, from sending to the answer; the same frames by HTTP to one
worker of the service, on one connection. The CPU time of the worker hardly depends on what else the
machine does; it stands beside that of ONNX Runtime alone, 16 images at once.
"""

import io
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from benchmarks import machine
from benchmarks.batch import TOGETHER, bare_cost, begin_bare, vary
from benchmarks.serving.bundle import make
from contracts.frames import headers_of, texts
from pipeline.params import read_params
from service.inference.bundle import read_bundle
from service.inference.tasks import task_of
from service.stream.broker import start_broker

WARM_UP = 500  # frames
WAIT = 10  # milliseconds: Tansu answers a fetch when its time is over, Kafka when a frame comes


def main() -> None:
    """Measure and print."""
    options = _options()
    if options.bundle is None:
        options.bundle = make("tiff", "reference", read_params()).folder
    bundle = read_bundle(options.bundle)
    chips = vary(bundle)
    contents = [_npy(chip) for chip in chips]
    print(f"{machine.line()}; load {os.getloadavg()[0]:.1f}; n = {options.rounds} rounds")
    print(f"{options.images} frames {chips.shape[1:]}, one worker, up to {options.batch} at once")
    with tempfile.TemporaryDirectory() as folder, _broker(Path(folder)) as brokers:
        rates, latencies, costs = [], [], []
        for number in range(options.rounds):
            bench = Bench(brokers, f"bench-{number}", options, Path(folder))
            rates.append(bench.throughput(contents))
            costs.append(bench.cost)
            latencies.append(bench.latency(contents))
            bench.close()
        http = latency_of_http(contents, options, Path(folder))
    print(f"  throughput {statistics.median(rates):7.0f} images a second ({_range(rates, 0)})")
    print(f"  cost       {statistics.median(costs):7.0f} CPU-us an image ({_range(costs, 0)})")
    begin_bare(bundle.graph, list(task_of(bundle.manifest).outputs), chips)
    print(f"  runtime    {bare_cost(TOGETHER):7.0f} CPU-us, {TOGETHER} at once, alone")
    for name, times in (("stream", sum(latencies, [])), ("HTTP", http)):
        cut = statistics.quantiles(times, n=100)
        print(
            f"  latency of {name:6} p50 {cut[49]:5.1f} ms, p95 {cut[94]:5.1f} ms, n = {len(times)}"
        )


def _options() -> Namespace:
    parser = ArgumentParser(prog="python -m benchmarks.stream", description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="default: the reference network")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=20, help="frames a second, for the latency")
    parser.add_argument("--samples", type=int, default=200, help="latencies of a round")
    return parser.parse_args()


class Bench:
    """Topics and one worker of a round."""

    def __init__(self, brokers: str, name: str, options: Namespace, folder: Path) -> None:
        """Create the topics."""
        self._brokers, self._options, self._folder = brokers, options, folder
        self.cost = 0.0  # CPU-microseconds of the worker an image
        self._names = {end: f"{name}.{end}" for end in ("frames", "results", "dead")}
        admin = AdminClient({"bootstrap.servers": brokers})
        for future in admin.create_topics(
            [NewTopic(topic, 1, 1) for topic in self._names.values()]
        ).values():
            future.result(30)
        quiet = {"bootstrap.servers": brokers, "log_level": 0}
        self._producer = Producer(quiet | {"linger.ms": 0})
        self._consumer = Consumer(quiet | {"group.id": name, "fetch.wait.max.ms": WAIT})
        self._consumer.assign([TopicPartition(self._names["results"], 0, 0)])

    def throughput(self, contents: Sequence[bytes]) -> float:
        """Images a second of a worker that has enough to do."""
        for number in range(WARM_UP + self._options.images):
            self._send(contents[number % len(contents)], number)
            if number % 1000 == 0:
                self._producer.flush()
        self._producer.flush()
        with self._worker() as pid:
            self._receive(WARM_UP)
            started, before = time.perf_counter(), _cpu(pid)
            self._receive(self._options.images)
            self.cost = (_cpu(pid) - before) / self._options.images * 1e6
            return float(self._options.images / (time.perf_counter() - started))

    def latency(self, contents: Sequence[bytes]) -> list[float]:
        """Milliseconds from sending to the answer, of one frame at a time."""
        found = []
        with self._worker():
            for number in range(20 + self._options.samples):
                time.sleep(1 / self._options.rate)
                started = time.perf_counter()
                self._send(contents[number % len(contents)], number)
                self._producer.poll(0)
                self._receive(1)
                found.append((time.perf_counter() - started) * 1000)
        return found[20:]

    def close(self) -> None:
        """End the clients."""
        self._producer.flush()
        self._consumer.close()

    def _send(self, content: bytes, number: int) -> None:
        headers = headers_of("bench", number, datetime.now(UTC))
        self._producer.produce(self._names["frames"], content, "bench", headers=list(headers))

    def _receive(self, count: int) -> None:
        while count > 0:
            message = self._consumer.poll(60)
            if message is None or message.error():
                sys.exit(f"error: no answer came: {message and message.error()}")
            assert "id" in texts(message.headers())
            count -= 1

    @contextmanager
    def _worker(self) -> Iterator[int]:
        own = {
            "SERVICE_BUNDLE": str(self._options.bundle),
            "SERVICE_STATE": str(self._folder / "state"),
            "SERVICE_FEEDBACK": "off",
            "SERVICE_STREAM_BROKERS": self._brokers,
            "SERVICE_STREAM_GROUP": self._names["frames"],
            "SERVICE_STREAM_BATCH": str(self._options.batch),
            "SERVICE_STREAM_PORT": "0",
            "SERVICE_STREAM_CLIENT": f'{{"fetch.wait.max.ms": "{WAIT}"}}',
            "SERVICE_LOG_LEVEL": "warning",
        }
        own |= {f"SERVICE_STREAM_{end.upper()}": topic for end, topic in self._names.items()}
        with _running(["stream"], own) as pid:
            yield pid


def latency_of_http(contents: Sequence[bytes], options: Namespace, folder: Path) -> list[float]:
    """Milliseconds of the same frames to one worker of the service."""
    port = _free_port()
    own = {
        "SERVICE_BUNDLE": str(options.bundle),
        "SERVICE_STATE": str(folder / "http"),
        "SERVICE_FEEDBACK": "off",
        "SERVICE_PORT": str(port),
        "SERVICE_WORKERS": "1",
        "SERVICE_LOG_LEVEL": "error",
    }
    found = []
    with (
        _running([], own),
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}", transport=httpx.HTTPTransport(retries=9)
        ) as client,
    ):
        while client.get("/readyz").status_code != 200:
            time.sleep(0.1)
        for number in range(20 + options.samples * options.rounds):
            time.sleep(1 / options.rate)
            started = time.perf_counter()
            answer = client.post(
                "/predict",
                content=contents[number % len(contents)],
                headers={"content-type": "application/octet-stream"},
            )
            answer.raise_for_status()
            found.append((time.perf_counter() - started) * 1000)
    return found[20:]


@contextmanager
def _running(words: list[str], own: dict[str, str]) -> Iterator[int]:
    process = subprocess.Popen(
        [sys.executable, "-m", "service", *words],
        env=os.environ | own,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _broker(folder: Path) -> Iterator[str]:
    port = _free_port()
    with (folder / "broker.log").open("w", encoding="utf-8") as log:
        process = start_broker(port, port, log)
        try:
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _cpu(pid: int) -> float:
    """CPU-seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _npy(chip: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> bytes:
    content = io.BytesIO()
    np.save(content, chip)
    return content.getvalue()


def _range(values: Sequence[float], digits: int) -> str:
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


if __name__ == "__main__":
    main()
