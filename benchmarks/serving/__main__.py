"""The service beside the bare runtime and other servers, on one machine and one bundle.

    make bench-serving
    python -m benchmarks.serving --only ours,naive-workers --kinds tiff --rounds 5 --seconds 10

Contenders take turns, forwards and backwards, and the runtime alone is measured between any two of
them: the machine's speed drifts, and only ratios of neighbours mean something. Every server is
started anew, answers one request that is checked against the runtime, is warmed up, and loaded.
Peers are installed in `artifacts/bench/peers/` on first use. All that was measured goes to
`artifacts/bench/serving.json`.
"""

import shutil
import subprocess
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks import machine
from benchmarks.serving import raw, report, samples, servers, swaps
from benchmarks.serving.bundle import KINDS, NETWORKS, Served, make
from benchmarks.serving.raw import Raw
from benchmarks.serving.samples import Sample
from benchmarks.serving.servers import CONTENDERS, BenchmarkError, Contender
from contracts import commands
from pipeline.files import write_json
from pipeline.params import read_params

RESULTS = Path("artifacts/bench/serving.json")


class Course(NamedTuple):
    """What is served of one kind, and the runtime to hold servers against."""

    served: Served
    expected: npt.NDArray[np.float32]
    raw: Raw
    """With the float32 graph, whatever a contender serves."""
    int8: tuple[Served, npt.NDArray[np.float32]] | None = None

    def of(self, contender: Contender) -> tuple[Served, npt.NDArray[np.float32]]:
        """Give what a contender serves, and what it must answer."""
        if contender.int8:
            assert self.int8
            return self.int8
        return self.served, self.expected


def main() -> None:
    """Measure, and print the tables."""
    options = parse()
    for program in ("wrk", "git"):
        if shutil.which(program) is None:
            sys.exit(f"error: {program} is not installed: apt-get install {program}")
    try:
        found, swapped = run(options)
    except BenchmarkError as error:
        sys.exit(f"error: {error}")
    document = {"machine": machine.line(), "samples": report.as_json(found)}
    write_json(RESULTS, document | {"swaps": report.plain(swapped)})
    if any(sample.failure for sample in found) or (swapped and swapped.failures):
        sys.exit("error: some samples failed, see above")


def parse() -> Namespace:
    """Read the command line."""
    parser = commands.parser("benchmarks.serving", __doc__)
    names = [*(item.name for item in CONTENDERS), "swaps"]
    parser.add_argument("--rounds", type=int, default=3, help="samples of each (default: 3)")
    parser.add_argument("--seconds", type=int, default=4, help="of each load (default: 4)")
    parser.add_argument("--bundle", choices=sorted(NETWORKS), default="reference")
    parser.add_argument("--kinds", type=some_of(KINDS), default=list(KINDS), help="tiff,jpeg")
    parser.add_argument("--only", type=some_of(names), default=names, help=", ".join(names))
    parser.add_argument(
        "--keep-disturbed",
        action="store_true",
        help="drop nothing, on a machine that is never quiet; such figures are no results",
    )
    return parser.parse_args()


def some_of(names: Collection[str]) -> Callable[[str], list[str]]:
    """Make a reader of lists, separated by commas, of known names."""

    def read(text: str) -> list[str]:
        for name in (chosen := text.split(",")):
            if name not in names:
                raise ArgumentTypeError(f"{name!r} is none of {', '.join(names)}")
        return chosen

    return read


def run(options: Namespace) -> tuple[list[Sample], swaps.Swaps | None]:
    """Measure everything, then print it."""
    chosen = [item for item in CONTENDERS if item.name in options.only]
    servers.refuse_taken_ports()
    for environment in sorted({item.environment for item in chosen if item.environment}):
        servers.install(environment)
    with ExitStack() as stack:
        kinds = options.kinds if chosen else []
        int8 = any(item.int8 for item in chosen)
        courses = [prepare(kind, options.bundle, stack, int8) for kind in kinds]
        found = list(take(options, courses, chosen))
    swapped = swaps.measure(options.bundle, options.seconds) if "swaps" in options.only else None
    show(options, courses, chosen, found)
    if swapped:
        print("\n" + report.swap_section(swapped))
    return found, swapped


def prepare(kind: str, network: str, stack: ExitStack, int8: bool) -> Course:
    """Make a bundle, and its int8 graph where that is served; start the runtime on it."""
    print(f"making the bundle for {kind}", file=sys.stderr, flush=True)
    served = make(kind, network, read_params())
    runtime = stack.enter_context(raw.running(served.folder, served.chip))
    course = Course(served, raw.answer(served.folder, served.chip), runtime)
    if not int8:
        return course
    small = make(kind, network, read_params(), int8=True)
    return course._replace(int8=(small, raw.answer(small.folder, small.chip)))


def take(options: Namespace, courses: list[Course], chosen: list[Contender]) -> Iterator[Sample]:
    """Yield all samples, round by round; odd rounds go backwards."""
    turns = [(course, contender) for course in courses for contender in chosen]
    pause = max(1.0, options.seconds / 2)
    last: tuple[Course, samples.Bare] | None = None
    broken = set()
    for number in range(options.rounds):
        for course, contender in turns[:: -1 if number % 2 else 1]:
            key = (course.served.kind, contender.name)
            if key in broken:
                continue
            if last is None or last[0] is not course:
                last = course, samples.measure_raw(course.raw, pause)
            sample = samples.measure(
                contender,
                *course.of(contender),
                number=number,
                before=last[1],
                seconds=options.seconds,
            )
            last = course, samples.measure_raw(course.raw, pause)
            sample = sample._replace(after=last[1])
            samples.progress(sample)
            if not sample.many:  # it did not start, and will not next time
                broken.add(key)
            yield sample


def show(
    options: Namespace, courses: list[Course], chosen: list[Contender], found: list[Sample]
) -> None:
    """Print the tables."""
    print(machine.line() + f"; {wrk_version()}")
    peers = sorted({item.environment for item in chosen if item.environment})
    print("Peers: " + ("; ".join(versions(name) for name in peers) or "none"))
    print(f"{options.rounds} rounds, {options.seconds} s of each load, {servers.CORES} workers.")

    def keep(others: float) -> bool:
        return bool(options.keep_disturbed) or others <= report.QUIET

    for course in courses:
        own = [sample for sample in found if sample.kind == course.served.kind]
        print(f"\n{course.served.line}\n")
        print(report.kind_section(own, str(course.raw.way), keep))
    if courses:
        print(f"\n{report.LEGEND}")


def versions(name: str) -> str:
    """Give the pinned packages of a peer."""
    lines = (servers.PEERS / name / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return ", ".join(line.replace("==", " ") for line in lines if not line.startswith("#"))


def wrk_version() -> str:
    """Give the first words that wrk says of itself."""
    said = subprocess.run(["wrk", "--version"], capture_output=True, text=True, check=False)
    return " ".join((said.stdout or said.stderr).split()[:2])


if __name__ == "__main__":
    main()
