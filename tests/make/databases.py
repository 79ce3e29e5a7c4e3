"""Real databases: SQLite files, and a PostgreSQL of this machine that ends with the tests."""

import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import pytest

KINDS = ("sqlite", "postgresql")
PASSWORD = "s3cret/of@nobody"  # the server trusts everybody; the password must never show
QUOTED = "s3cret%2Fof%40nobody"


class Postgres:
    """One running server."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._names = count()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]

    def new(self) -> str:
        """Make an empty database; its URL."""
        name = f"test_{next(self._names)}"
        self._run(
            "createdb", "--host=127.0.0.1", f"--port={self.port}", "--username=conveyor", name
        )
        return self.url(name)

    def url(self, name: str) -> str:
        return f"postgresql://conveyor:{QUOTED}@127.0.0.1:{self.port}/{name}"

    def make(self) -> None:
        self._run("initdb", "--username=conveyor", "--auth=trust", "--no-sync", self._data)

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        options += " -c fsync=off"  # what is killed here is a process, never the machine
        log = f"--log={self._folder / 'log'}"
        self._run("pg_ctl", "start", "--wait", log, f"--options={options}", "--pgdata", self._data)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--wait", "--mode=immediate", "--pgdata", self._data)

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        if os.geteuid() == 0:  # it refuses to run as root
            command = ["runuser", "--user", "postgres", "--", *command]
        done = subprocess.run(
            command, check=False, cwd="/", text=True, stdout=subprocess.DEVNULL, stderr=-1
        )
        assert done.returncode == 0, done.stderr


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Run a server; skips, and says so, where none is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="conveyor-postgres-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    server = Postgres(found[-1].parent, folder)
    try:
        server.make()
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Proxy:
    """Stands before a server, and can stop forwarding without an end of any connection."""

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self._forwards = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port = self._listener.getsockname()[1]
        self.connections = 0  # that were ever made

    def before(self, url: str) -> str:
        """The same database through this proxy."""
        return url.replace(f":{self._server[1]}/", f":{self.port}/")

    def stop(self) -> None:
        """Forward nothing from now on."""
        self._forwards.clear()

    def go_on(self) -> None:
        """Forward what has come meanwhile, and all that comes."""
        self._forwards.set()

    def run(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                server = socket.create_connection(self._server)
                self._open += (client, server)
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._forwards.wait()
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # ends the wait for the next connection
        for end in (self._listener, *self._open):
            end.close()
        self.go_on()


@contextmanager
def proxy(server: Postgres) -> Iterator[Proxy]:
    """Run a proxy before a server."""
    running = Proxy(server.port)
    running.go_on()
    threading.Thread(target=running.run, daemon=True).start()
    try:
        yield running
    finally:
        running.close()
