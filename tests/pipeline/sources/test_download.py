"""Fetching a large file from a real server on loopback."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.errors import SourceError
from pipeline.sources.download import download

CONTENT = bytes(range(256)) * 4000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT: whole, by range, cut off, or not at all."""

    def do_GET(self) -> None:
        requested = self.headers.get("Range")
        self.server.requested.append(requested)  # type: ignore[attr-defined]
        if self.path == "/missing":
            self.send_error(404)
            return
        start = 0
        if requested and self.path != "/whole":
            start = int(requested.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        end = start + 200_000 if self.path == "/cut" else len(CONTENT)
        self.wfile.write(CONTENT[start:end])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.requested = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def fetch(server: ThreadingHTTPServer, path: str, target: Path, md5: str = MD5) -> Path:
    return download(f"http://127.0.0.1:{server.server_port}{path}", target, len(CONTENT), md5)


def test_a_file_is_fetched_once(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    target = tmp_path / "cache" / "a.zip"
    assert fetch(server, "/a", target).read_bytes() == CONTENT
    fetch(server, "/a", target)
    assert len(server.requested) == 1  # type: ignore[attr-defined]


def test_an_interrupted_download_goes_on(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    target = tmp_path / "a.zip"
    with pytest.raises(SourceError, match="run it again to go on"):
        fetch(server, "/cut", target)
    assert not target.exists()
    assert fetch(server, "/a", target).read_bytes() == CONTENT
    requested: str = server.requested[-1]  # type: ignore[attr-defined]
    resumed_at = int(requested.removeprefix("bytes=").rstrip("-"))
    assert 100_000 < resumed_at <= 200_000


def test_a_server_that_can_not_resume_sends_it_whole(
    server: ThreadingHTTPServer, tmp_path: Path
) -> None:
    (tmp_path / "a.zip.part").write_bytes(b"other")
    assert fetch(server, "/whole", tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_wrong_checksum_keeps_nothing(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="wanted 000"):
        fetch(server, "/a", tmp_path / "a.zip", md5="000")
    assert list(tmp_path.iterdir()) == []
    assert fetch(server, "/a", tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_missing_file_is_said(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="404"):
        fetch(server, "/missing", tmp_path / "a.zip")
