"""The client: wrk, on the same machine as the server.

wrk is written in C and costs about 30 CPU-us for a request of 107 KB; what it takes is taken from
the server, and from every server alike. Two kinds of load, both by `wrk.lua`:

saturating  each of n connections sends the next request when it has the answer to the last.
paced       requests come at exponential gaps of a given mean (Poisson), on a timetable that does
            not wait for answers: an open loop, up to the number of connections. Places in it are
            rounded to a millisecond, the finest that wrk can wait.

Not hey: its `-q` starts the clocks of all its workers together, and the requests come in bursts.
wrk corrects its percentiles for requests that a slow answer kept from being sent.
"""

import json
import subprocess
from pathlib import Path
from typing import NamedTuple

from benchmarks.serving.bundle import Body

SCRIPT = Path(__file__).with_name("wrk.lua")
CONNECTIONS = 64  # of the paced load: so many requests can be under way
TIMEOUT = 20  # seconds for one answer, more is an error


class Result(NamedTuple):
    """What the client saw."""

    rate: float
    """Answers a second."""
    requests: int
    p50: float
    """Milliseconds."""
    p99: float
    worst: float
    errors: int
    """Answers of status 400 and above, and errors of the connection."""
    late: int
    """Paced requests that had to wait for a free connection."""


def saturate(url: str, body: Body, *, connections: int, seconds: float) -> Result:
    """Send as fast as the answers come."""
    return _wrk(url, body, connections, seconds, ())


def paced(url: str, body: Body, *, rate: float, seconds: float) -> Result:
    """Send `rate` requests a second."""
    return _wrk(url, body, CONNECTIONS, seconds, (f"{rate:.3f}",))


def command(
    url: str, body: Body, connections: int, seconds: float, extra: tuple[str, ...]
) -> list[str]:
    """How wrk is called. It takes whole seconds only."""
    options = ["--threads=1", f"--connections={connections}", f"--duration={seconds:.0f}s"]
    options += [f"--timeout={TIMEOUT}s", f"--script={SCRIPT}"]
    if body.single:
        options.append("--header=Connection: close")
    return ["wrk", *options, url, "--", str(body.path), body.content_type, *extra]


def read(output: str) -> Result:
    """Read what wrk printed."""
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    found = json.loads(line.removeprefix("RESULT "))
    return Result(
        rate=found["requests"] / found["seconds"],
        requests=found["requests"],
        p50=found["p50"],
        p99=found["p99"],
        worst=found["max"],
        errors=found["bad"] + found["socket"],
        late=found["late"],
    )


def _wrk(url: str, body: Body, connections: int, seconds: float, extra: tuple[str, ...]) -> Result:
    line = command(url, body, connections, max(1, seconds), extra)
    return read(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
