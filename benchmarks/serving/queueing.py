"""What waiting costs: M/M/c by formula, and by simulation ways to share requests out to workers.

    python -m benchmarks.serving.queueing
    python -m benchmarks.serving.queueing --milliseconds 1.85 --load 0.7

Requests come at random (Poisson), each takes the same time, and belongs to a connection that was
dealt to a worker beforehand. Times are multiples of the service time, or milliseconds.
"""

import heapq
import math
from argparse import ArgumentParser
from collections import deque

import numpy as np
import numpy.typing as npt

from pipeline.markdown import table

ARRIVALS = 400_000
HANDING = 0.08  # service times that it takes to hand a request to another worker, on both sides


def percentile(servers: int, load: float, share: float = 0.99) -> float:
    """Response time of M/M/c in mean service times, by bisection of its distribution.

    Source: L. Kleinrock, Queueing Systems, vol. 1 (1975), section 3.5.
    """
    offered = servers * load
    waits = offered**servers / math.factorial(servers) / (1 - load)
    waits /= waits + sum(offered**k / math.factorial(k) for k in range(servers))  # Erlang C
    spare = servers - offered - 1

    def later(time: float) -> float:
        """Share of the requests that take longer."""
        grown = time if abs(spare) < 1e-9 else (1 - math.exp(-spare * time)) / spare
        return math.exp(-time) * (1 + waits * grown)

    low, high = 0.0, 1e3 / (1 - load)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if later(middle) > 1 - share else (low, middle)
    return high


def arrivals(servers: int, load: float, seed: int) -> npt.NDArray[np.float64]:
    """Moments of arrival in service times."""
    gaps = np.random.default_rng(seed).exponential(1 / (servers * load), ARRIVALS)
    return np.cumsum(gaps)


def one_queue(servers: int, load: float, seed: int = 0) -> npt.NDArray[np.float64]:
    """Response times where the next free worker takes the next request."""
    free = [0.0] * servers
    found = []
    for moment in arrivals(servers, load, seed).tolist():
        end = max(moment, heapq.heappop(free)) + 1
        heapq.heappush(free, end)
        found.append(end - moment)
    return np.array(found)


def dealt(servers: int, load: float, seed: int = 0) -> npt.NDArray[np.float64]:
    """Response times where connections are dealt to workers beforehand."""
    owners = np.random.default_rng(seed + 1).integers(0, servers, ARRIVALS).tolist()
    free = [0.0] * servers
    found = []
    for moment, owner in zip(arrivals(servers, load, seed).tolist(), owners, strict=True):
        free[owner] = max(moment, free[owner]) + 1
        found.append(free[owner] - moment)
    return np.array(found)


def handed_over(servers: int, load: float, seed: int = 0) -> npt.NDArray[np.float64]:
    """Response times where a worker, between two requests, hands what waits to idle ones."""
    owners = np.random.default_rng(seed + 1).integers(0, servers, ARRIVALS).tolist()
    moments = arrivals(servers, load, seed).tolist()
    waiting: list[deque[int]] = [deque() for _ in range(servers)]
    busy = [False] * servers
    ends: list[tuple[float, int, int]] = []  # (moment, worker, request)
    found = np.empty(ARRIVALS)
    following = 0

    def begin(moment: float, worker: int, request: int) -> None:
        busy[worker] = True
        heapq.heappush(ends, (moment + 1, worker, request))

    while following < ARRIVALS or ends:
        if following < ARRIVALS and (not ends or moments[following] <= ends[0][0]):
            owner = owners[following]
            if busy[owner]:
                waiting[owner].append(following)
            else:
                begin(moments[following], owner, following)
            following += 1
            continue
        moment, worker, request = heapq.heappop(ends)
        found[request], busy[worker] = moment - moments[request], False
        if not waiting[worker]:
            continue
        own = waiting[worker].popleft()
        for other in range(servers):
            if waiting[worker] and other != worker and not busy[other]:
                moment += HANDING
                begin(moment, other, waiting[worker].popleft())
        begin(moment, worker, own)
    return found


def main() -> None:
    """Print the table."""
    parser = ArgumentParser(prog="python -m benchmarks.serving.queueing", description=__doc__)
    parser.add_argument("--servers", type=int, default=2, help="workers (default: 2)")
    parser.add_argument("--load", type=float, default=0.7, help="of saturation (default: 0.7)")
    parser.add_argument("--milliseconds", type=float, default=1.0, help="of one request")
    options = parser.parse_args()
    rows = [
        (
            "M/M/c, by formula",
            *(
                f"{options.milliseconds * percentile(options.servers, options.load, share):.2f}"
                for share in (0.5, 0.99)
            ),
        )
    ]
    for name, simulate in (
        ("one queue, a constant time", one_queue),
        ("dealt beforehand", dealt),
        (f"dealt, then handed to idle workers at {HANDING:.0%} of a request", handed_over),
    ):
        times = options.milliseconds * simulate(options.servers, options.load)
        rows.append((name, *(f"{np.percentile(times, share):.2f}" for share in (50, 99))))
    print(table(("", "p50", "p99"), rows))


if __name__ == "__main__":
    main()
