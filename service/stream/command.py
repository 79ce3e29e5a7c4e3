"""`python -m service stream`: answers frames from Kafka; with `replay`, dead ones again."""

import argparse
import asyncio
import signal
import sys
from typing import Any

from service.errors import ServiceError, UnsafeSettings


def add_to(commands: Any) -> None:
    """Add the command `stream` to those of `python -m service`."""
    line = commands.add_parser(
        "stream",
        help="answer frames from a Kafka topic into another one, or replay dead letters",
        description="A worker: it takes frames from SERVICE_STREAM_FRAMES and answers into "
        "SERVICE_STREAM_RESULTS. Start as many as there are cores. docs/stream.md has the details.",
    )
    what = line.add_subparsers(dest="what")
    again = what.add_parser("replay", help="send the frames of dead letters again, each once")
    again.add_argument("--list", action="store_true", help="only list them, with their reasons")
    line.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> None:
    """Do what the command line says."""
    from service.certificates import trust
    from service.settings import read_settings

    # As process 1 of a container, a signal without a handler would be lost.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        settings = read_settings()
        trust(settings.ca_file, settings.state)
        if chosen.what == "replay":
            from service.stream.replay import replay

            replay(settings, chosen.list)
        else:
            from service.stream.serve import serve

            asyncio.run(serve(settings))
    except UnsafeSettings as error:
        sys.exit(f"error: {error}")
    except ServiceError as error:
        sys.exit(f"error: {error.detail}")
    except KeyboardInterrupt:
        sys.exit(130)
