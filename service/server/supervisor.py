"""Pre-fork supervisor: one process accepts connections, one worker per core serves them.

The supervisor dispatches each new connection to the worker with the fewest open ones, among those
that have a model. If the kernel chose, the worker that wakes first would take all and a core would
idle (docs/benchmarks.md). The supervisor restarts dead workers and stops in order: not ready,
drain, stop listening, finish the requests in flight, exit. When the supervisor dies, its channels
close and the workers end.
"""

import errno
import gc
import logging
import os
import selectors
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass, field

from service.errors import UnsafeSettings
from service.server import descriptors
from service.server.shared import Inboxes, WorkerTable
from service.settings import Settings
from service.telemetry.logs import configure
from service.telemetry.multiprocess import MultiprocessDir, multiprocess_dir

BACKLOG = 2048
GRACE = 30.0  # seconds that requests in flight have to finish
SHORT_LIFE = 5.0  # seconds; a worker that dies sooner is started again more slowly
LONGEST_PAUSE = 10.0  # seconds before a dead worker is started again

log = logging.getLogger("service.server.supervisor")


@dataclass
class WorkerProcess:
    """One worker process as the supervisor sees it."""

    slot: int
    pid: int
    channel: socket.socket
    started: float
    dispatched: int = 0
    """Connections dispatched to it; it counts those that have ended in `WorkerTable.ended`."""


@dataclass
class Supervisor:
    """Accepts connections, dispatches them, restarts workers."""

    settings: Settings
    listener: socket.socket
    table: WorkerTable
    metrics_dir: MultiprocessDir
    inboxes: Inboxes
    workers_by_slot: dict[int, WorkerProcess] = field(default_factory=dict)  # slot -> child
    restart_at: dict[int, float] = field(default_factory=dict)  # slot -> when
    failures: int = 0
    stopping: bool = False

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request_stop)
        address = as_url(*self.listener.getsockname()[:2])
        log.info("listening", extra={"address": address, "workers": self.settings.workers})
        for slot in range(self.settings.workers):
            self._fork(slot)
        with selectors.DefaultSelector() as selector:
            selector.register(self.listener, selectors.EVENT_READ)
            selector.register(wake_read, selectors.EVENT_READ)
            while not self.stopping:
                self._handle_events(selector, wake_read)
            self._drain(selector, wake_read)
        self._end_workers()

    def _handle_events(
        self, selector: selectors.BaseSelector, wake_read: int, timeout: float = 1
    ) -> None:
        for key, _ in selector.select(timeout):
            if key.fd == wake_read:
                os.read(wake_read, 4096)
            else:
                self._accept()
        self._reap_workers()
        for slot, moment in list(self.restart_at.items()):
            if time.monotonic() >= moment and not self.stopping:
                del self.restart_at[slot]
                self._fork(slot)

    def _accept(self) -> None:
        if not self.workers_by_slot:  # connections wait in the kernel until there is one again
            time.sleep(0.05)
            return
        while True:
            try:
                connection, _ = self.listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # out of descriptors, or the client has left already
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    time.sleep(0.05)
                return
            with connection:
                self._dispatch(connection)

    def _dispatch(self, connection: socket.socket) -> None:
        def burden(child: WorkerProcess) -> tuple[bool, int]:
            no_model = not self.table.ready[child.slot]  # it has just started
            return no_model, child.dispatched - self.table.ended[child.slot]

        for child in sorted(self.workers_by_slot.values(), key=burden):
            try:
                socket.send_fds(child.channel, [b"c"], [connection.fileno()])
            except OSError:  # its channel is full, or it has just died
                continue
            child.dispatched += 1
            return

    def _fork(self, slot: int) -> None:
        ours, theirs = socket.socketpair()
        self.table.reset_worker(slot)
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._run_as_worker(slot, theirs)
        theirs.close()
        ours.setblocking(False)
        self.workers_by_slot[slot] = WorkerProcess(slot, pid, ours, time.monotonic())

    def _run_as_worker(self, slot: int, channel: socket.socket) -> None:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.listener.close()
            for child in self.workers_by_slot.values():
                child.channel.close()
            from service.server.worker import run_worker

            run_worker(self.settings, channel, self.table, slot, self.inboxes)
            code = 0
        except BaseException:
            log.exception("worker failed")
        finally:
            sys.stdout.flush()
            os._exit(code)

    def _reap_workers(self) -> None:
        for slot, child in list(self.workers_by_slot.items()):
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid == 0:
                continue
            del self.workers_by_slot[slot]
            child.channel.close()
            self.metrics_dir.reset_gauges(slot)
            if self.stopping:
                continue
            short = time.monotonic() - child.started < SHORT_LIFE
            self.failures = self.failures + 1 if short else 0
            pause = min(LONGEST_PAUSE, 2.0**self.failures / 2) if short else 0.0
            self.restart_at[slot] = time.monotonic() + pause
            code = os.waitstatus_to_exitcode(status)
            log.error("worker died", extra={"pid": pid, "code": code, "again_in": pause})

    def _request_stop(self, *_: object) -> None:
        self.stopping = True

    def _drain(self, selector: selectors.BaseSelector, wake_read: int) -> None:
        """Report not ready and keep listening: balancers need a moment to notice."""
        log.info("stopping", extra={"drain": self.settings.drain})
        for child in self.workers_by_slot.values():
            os.kill(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + self.settings.drain
        while (left := deadline - time.monotonic()) > 0:
            self._handle_events(selector, wake_read, min(left, 1))
        self._accept()
        self.listener.close()

    def _end_workers(self) -> None:
        """Close the channels, so that the workers finish; kill those that do not."""
        for child in self.workers_by_slot.values():
            child.channel.close()
        deadline = time.monotonic() + GRACE
        while self.workers_by_slot and time.monotonic() < deadline:
            self._reap_workers()
            time.sleep(0.01)
        for child in self.workers_by_slot.values():
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
        log.info("stopped")


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; the exit code.

    Raises:
        UnsafeSettings: the service cannot start with these settings.
    """
    configure(settings.log_level)
    descriptors.raise_limit()
    descriptors.warn_of_few(settings.connections)
    _check_state_folder(settings)
    with _listen(settings) as listener, multiprocess_dir(settings.workers) as metrics_dir:
        # Before the import of prometheus_client, which decides then where values are stored.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_dir.path)
        import service.server.worker  # noqa: F401  once here, shared by all workers after the fork

        _check_device(settings.device)
        if settings.feedback != "off":
            import service.feedback.database  # noqa: F401  too large to load per worker

        # What the workers share after the fork stays shared: the garbage collector would write
        # into all of it.
        gc.freeze()
        table, inboxes = WorkerTable(settings.workers), Inboxes(settings.workers)
        Supervisor(settings, listener, table, metrics_dir, inboxes).run()
    return 0


def check_port(settings: Settings) -> None:
    """Listen where the service would, and stop again.

    Raises:
        UnsafeSettings: it cannot listen there.
    """
    _listen(settings).close()


def as_url(host: str, port: int) -> str:
    """Address to open: brackets around IPv6, and this machine where all addresses are meant."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    both = settings.host == "::" and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server(
            (settings.host, settings.port),
            family=family,
            backlog=BACKLOG,
            dualstack_ipv6=both,
        )
    except OSError as error:
        reason = error.strerror or str(error)
        raise UnsafeSettings(
            f"cannot listen on {settings.host}:{settings.port}: {reason}; stop what listens "
            "there, or choose another SERVICE_HOST or SERVICE_PORT"
        ) from None
    listener.setblocking(False)
    return listener


def _check_device(device: str) -> None:
    """Refuse one that is not built in: each worker would fail by itself, again and again."""
    import onnxruntime

    from service.errors import Unavailable
    from service.inference.providers import choose

    try:
        choose(device, onnxruntime.get_available_providers())
    except Unavailable as error:
        raise UnsafeSettings(error.detail) from None


def _check_state_folder(settings: Settings) -> None:
    try:
        settings.state.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.state):
            pass
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UnsafeSettings(
            f"SERVICE_STATE: {settings.state} cannot be written: {reason}; name a folder that "
            "this user may write"
        ) from None
    first = not (settings.state / "served.json").exists() and not settings.configmap
    if first and not settings.bundle.is_dir():
        raise UnsafeSettings(
            f"SERVICE_BUNDLE: {settings.bundle} has no model bundle: train one with "
            "`dvc repro`, or get the shipped one with `dvc pull`"
        )
