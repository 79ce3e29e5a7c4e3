"""How each contender is installed, started, recognised as ready, and ended.

Each server gets the machine to itself, a port that nobody holds, an empty folder to work in, and
as many processes as there are cores where it can have them.
"""

import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.serving import processes
from benchmarks.serving.bundle import Body, Served

PEERS = Path(__file__).with_name("peers").resolve()
ENVIRONMENTS = Path("artifacts/bench/peers")
HOST, PORT = "127.0.0.1", 8700
PORTS = 3  # MLServer takes three
START, STOP = 60, 3  # seconds that a server may take
TOLERANCE = 1e-4  # of a probability
CORES = os.cpu_count() or 1


class BenchmarkError(Exception):
    """A contender that can not be measured; the message says why."""


class Launch(NamedTuple):
    """A command line and what it adds to the environment."""

    line: list[str]
    variables: dict[str, str]


class Contender(NamedTuple):
    """A server, and the way in which it is asked."""

    name: str
    title: str
    launch: Callable[[Served, Path], Launch]
    environment: str | None
    """Folder below `peers/` with its requirements; None is the project's own environment."""
    multipart: bool = True
    int8: bool = False
    """Whether it serves the graph that is quantized."""
    single: bool = False
    """Whether each request comes on a connection of its own."""

    def body(self, served: Served) -> Body:
        """Give what it is sent."""
        body = served.multipart if self.multipart else served.bare
        return body._replace(single=self.single)


class Server(NamedTuple):
    """A server that runs."""

    pid: int
    url: str
    seconds: float
    """From the start of its process to its first right answer."""
    state: Path


def ours(served: Served, state: Path) -> Launch:
    """Start the service as a user does, with a worker a core."""
    variables = {
        "SERVICE_PORT": str(PORT),
        "SERVICE_BUNDLE": str(served.folder),
        "SERVICE_STATE": str(state / "service"),
        "SERVICE_WORKERS": str(CORES),
    }
    return Launch([sys.executable, "-m", "service"], variables)


def naive(served: Served, state: Path) -> Launch:
    """One process, the runtime's default session."""
    line = [_program("naive", "uvicorn"), "app:app", "--port", str(PORT), "--no-access-log"]
    return Launch(line, _variables("naive", served))


def naive_workers(served: Served, state: Path) -> Launch:
    """A process a core, one thread a session."""
    line, variables = naive(served, state)
    return Launch([*line, "--workers", str(CORES)], variables | {"NAIVE_THREADS": "1"})


def bentoml(served: Served, state: Path) -> Launch:
    """As `peers/bentoml/service.py` says."""
    line = [_program("bentoml", "bentoml"), "serve", "service:Chips", "--host", HOST]
    line += ["--port", str(PORT), "--working-dir", str(PEERS / "bentoml")]
    extra = {"BENTOML_HOME": str(state / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    return Launch(line, _variables("bentoml", served) | extra)


def litserve(served: Served, state: Path) -> Launch:
    """As `peers/litserve/server.py` says."""
    line = [_program("litserve", "python"), str(PEERS / "litserve/server.py"), str(PORT)]
    return Launch(line, _variables("litserve", served))


def mlserver(served: Served, state: Path) -> Launch:
    """A worker process a core behind one process for HTTP."""
    settings = {
        "HOST": HOST,
        "HTTP_PORT": str(PORT),
        "GRPC_PORT": str(PORT + 1),
        "METRICS_PORT": str(PORT + 2),
        "PARALLEL_WORKERS": str(CORES),
        "DEBUG": "false",
    }
    variables = {f"MLSERVER_{name}": value for name, value in settings.items()}
    line = [_program("mlserver", "mlserver"), "start", str(PEERS / "mlserver")]
    return Launch(line, _variables("mlserver", served) | variables)


CONTENDERS = (
    Contender("ours", "this service", ours, None),
    Contender("ours-bare", "this service, bare body", ours, None, multipart=False),
    Contender("ours-single", "this service, a connection a request", ours, None, single=True),
    Contender("ours-int8", "this service, int8", ours, None, int8=True),
    Contender("naive", "FastAPI, one process", naive, "naive"),
    Contender("naive-workers", "FastAPI, a process a core", naive_workers, "naive"),
    Contender("bentoml", "BentoML", bentoml, "bentoml"),
    Contender("litserve", "LitServe", litserve, "litserve"),
    Contender("mlserver", "MLServer, a worker a core", mlserver, "mlserver"),
)


def install(name: str) -> None:
    """Make a peer's environment, unless it stands and its requirements are the same.

    Raises:
        BenchmarkError: pip failed.
    """
    folder, requirements = ENVIRONMENTS / name, PEERS / name / "requirements.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    mark = folder / "requirements.sha256"
    if mark.exists() and mark.read_text(encoding="utf-8") == digest:
        return
    print(f"installing {name} in {folder}", file=sys.stderr, flush=True)
    steps = (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "-r", str(requirements)],
    )
    for step in steps:
        result = subprocess.run(step, capture_output=True, text=True, check=False)
        if result.returncode:
            raise BenchmarkError(f"{name} could not be installed: {result.stderr[-500:]}")
    mark.write_text(digest, encoding="utf-8")


@contextmanager
def started(
    contender: Contender, served: Served, expected: npt.NDArray[np.float32]
) -> Iterator[Server]:
    """Start a server, wait for its first right answer, end it with all its processes on leaving.

    Raises:
        BenchmarkError: its port is taken, it ends, stays silent, or answers wrongly.
    """
    refuse_taken_ports()
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("wb") as log:
        state = Path(folder)
        launch = contender.launch(served, state)
        begun = time.perf_counter()
        process = subprocess.Popen(
            launch.line,
            env=os.environ | launch.variables,
            cwd=state if contender.environment else None,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            answer = _first_answer(process, contender.body(served), begun + START, state / "log")
            seconds = time.perf_counter() - begun
            check(answer, served, expected)
            yield Server(process.pid, f"http://{HOST}:{PORT}/predict", seconds, state)
        finally:
            stop(process)


def refuse_taken_ports() -> None:
    """Make sure that no server left over from before answers for the next one.

    Raises:
        BenchmarkError: a port is taken.
    """
    for port in range(PORT, PORT + PORTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                raise BenchmarkError(
                    f"port {port} is taken: end what listens there (ss -ltnp)"
                ) from None


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a server: first politely, then all that is left of its session."""
    members = processes.tree(process.pid)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    _wait_for_end(process, members)
    members |= processes.tree(process.pid)
    for pid in members:
        if processes.runs(pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    _wait_for_end(process, members)


def _wait_for_end(process: "subprocess.Popen[bytes]", members: set[int]) -> None:
    deadline = time.monotonic() + STOP
    while time.monotonic() < deadline:
        process.poll()  # no zombie is left
        if not any(processes.runs(pid) for pid in members):
            return
        time.sleep(0.02)


def ask(body: Body, timeout: float = START) -> tuple[int, bytes]:
    """Send one request; give status and content."""
    connection = http.client.HTTPConnection(HOST, PORT, timeout=timeout)
    try:
        headers = {"Content-Type": body.content_type}
        connection.request("POST", "/predict", body.path.read_bytes(), headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def check(answer: Any, served: Served, expected: npt.NDArray[np.float32]) -> None:
    """Compare an answer with the runtime's own.

    Raises:
        BenchmarkError: it is another class, or a probability differs by more than 1e-4.
    """
    found = np.array([answer["probabilities"][name] for name in served.classes])
    worst = float(np.abs(found - expected).max())
    if answer["class"] != served.classes[int(expected.argmax())] or not worst <= TOLERANCE:
        raise BenchmarkError(f"wrong answer: probabilities differ by up to {worst:.1e}")


def _first_answer(
    process: "subprocess.Popen[bytes]", body: Body, deadline: float, log: Path
) -> Any:
    said = "nothing"
    while time.perf_counter() < deadline and process.poll() is None:
        try:
            status, content = ask(body)
            if status == http.client.OK:
                return json.loads(content)
            said = f"{status} {content[:200]!r}"
        except (OSError, http.client.HTTPException) as error:
            said = repr(error)
        time.sleep(0.01)
    ended = f"ended with {process.poll()}" if process.poll() is not None else "still runs"
    tail = log.read_text(encoding="utf-8", errors="replace")[-1500:]
    raise BenchmarkError(f"no answer; it {ended}; last answer: {said}; its log ends:\n{tail}")


def _program(name: str, program: str) -> str:
    return str((ENVIRONMENTS / name / "bin" / program).absolute())  # not resolve: it is a link


def _variables(name: str, served: Served) -> dict[str, str]:
    return {
        "BENCH_BUNDLE": str(served.folder),
        "PYTHONPATH": os.pathsep.join((str(PEERS / name), str(PEERS))),
    }
