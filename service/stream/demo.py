"""`make demo-stream`: a broker, two workers, a camera and the service with its page.

    python -m service.stream.demo [SOURCE] [--rate 10]

The camera shows the images in data/ one after the other, or another SOURCE. Ctrl-C ends it all.
With SERVICE_STREAM_BROKERS the broker is yours, which makes the topics. Ours keeps everything in
memory, and looks through all of it at each fetch: after some 10,000 frames it is slow.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from contracts.commands import parser
from service.errors import ServiceError
from service.settings import Settings, read_settings
from service.stream.broker import start_broker

PORT = 9092
WORKERS = 2
PARTITIONS = 4


def main() -> None:
    """Run it until Ctrl-C, or until a part of it ends."""
    line = parser("service.stream.demo", __doc__ or "")
    line.add_argument("source", nargs="?", default="data", help="of the camera; default: data/")
    line.add_argument("--rate", type=float, default=10, help="frames a second")
    chosen = line.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        _run(chosen, read_settings())
    except ServiceError as error:
        sys.exit(f"error: {error.detail}")
    except KeyboardInterrupt:
        sys.exit(130)


def _run(chosen: argparse.Namespace, settings: Settings) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="conveyor-stream-")))
        log = stack.enter_context((folder / "log").open("w", encoding="utf-8"))
        processes: list[subprocess.Popen[bytes]] = []
        stack.callback(_end, processes)
        own = {"SERVICE_STREAM_PICTURES": "10"}
        if not settings.stream_brokers:
            processes.append(start_broker(PORT, PORT, log))
            _make_topics(settings)
            own["SERVICE_STREAM_BROKERS"] = f"127.0.0.1:{PORT}"
            # Tansu answers a fetch when its time is over, Kafka when a frame comes.
            own["SERVICE_STREAM_CLIENT"] = '{"fetch.wait.max.ms": "10"}'
        commands = [["serve", "--with-key"], *[["stream"]] * WORKERS]
        camera = ["camera", chosen.source, "--loop", "--live", "--fit", "stretch"]
        commands.append([*camera, "--rate", f"{chosen.rate:g}"])
        for number, words in enumerate(commands):
            port = {"SERVICE_STREAM_PORT": str(settings.stream_port + number)}
            output = None if words[0] == "serve" else log
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "service", *words],
                    env=os.environ | own | port,
                    stdout=output,
                    stderr=output,
                )
            )
        print(f"The page shows live frames. Frames a second and more: {folder / 'log'}", flush=True)
        while all(process.poll() is None for process in processes):
            time.sleep(0.2)
        log.flush()
        print((folder / "log").read_text(encoding="utf-8")[-2000:], file=sys.stderr)
        sys.exit("error: a part of the demo has ended; the lines above are its last ones")


def _make_topics(settings: Settings) -> None:
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{PORT}"})
    names = [settings.stream_frames, settings.stream_results]
    names += [settings.stream_dead, settings.stream_annotated]
    wanted = [NewTopic(name, PARTITIONS, 1) for name in names]
    for future in admin.create_topics(wanted).values():
        future.result(30)


def _end(processes: "list[subprocess.Popen[bytes]]") -> None:
    for process in reversed(processes):
        process.terminate()
    for process in processes:
        process.wait()


if __name__ == "__main__":
    main()
