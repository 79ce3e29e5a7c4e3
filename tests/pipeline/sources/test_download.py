"""Fetching a large file from a real server on loopback."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.errors import SourceError
from pipeline.sources.download import download
from tests.fakes.http import Handler, serving

CONTENT = bytes(range(256)) * 4000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Files(Handler[list[str | None]]):
    """Serves CONTENT: whole, by range, cut off, or not at all; its state is the ranges."""

    def do_GET(self) -> None:
        requested = self.headers.get("Range")
        self.state.append(requested)
        if self.path == "/missing":
            return self.reply(404)
        start = 0
        if requested and self.path != "/whole":
            start = int(requested.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        end = start + 200_000 if self.path == "/cut" else len(CONTENT)
        self.wfile.write(CONTENT[start:end])
        self.close_connection = True


class Server(NamedTuple):
    url: str
    requested: list[str | None]


@pytest.fixture
def server() -> Iterator[Server]:
    requested: list[str | None] = []
    with serving(Files, requested) as url:
        yield Server(url, requested)


def fetch(server: Server, path: str, target: Path, md5: str = MD5) -> Path:
    return download(server.url + path, target, len(CONTENT), md5)


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "cache" / "a.zip"
    assert fetch(server, "/a", target).read_bytes() == CONTENT
    fetch(server, "/a", target)
    assert len(server.requested) == 1


def test_an_interrupted_download_goes_on(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "a.zip"
    with pytest.raises(SourceError, match="run it again to go on"):
        fetch(server, "/cut", target)
    assert not target.exists()
    assert fetch(server, "/a", target).read_bytes() == CONTENT
    requested = server.requested[-1]
    assert requested
    resumed_at = int(requested.removeprefix("bytes=").rstrip("-"))
    assert 100_000 < resumed_at <= 200_000


def test_a_server_that_can_not_resume_sends_it_whole(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(b"other")
    assert fetch(server, "/whole", tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_wrong_checksum_keeps_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="wanted 000"):
        fetch(server, "/a", tmp_path / "a.zip", md5="000")
    assert list(tmp_path.iterdir()) == []
    assert fetch(server, "/a", tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_missing_file_is_said(server: Server, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="404"):
        fetch(server, "/missing", tmp_path / "a.zip")
