"""Fetch one large file: progress bar, resume after an interruption, checksum at the end."""

import hashlib
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
from urllib3.util import Retry

from contracts.proxies import missing_certificates
from pipeline.errors import SourceError
from pipeline.progress import CONSOLE

CHUNK = 2**16  # bytes that an interruption can lose
TIMEOUT = (10, 60)  # seconds to connect, seconds between two packets


def download(url: str, target: Path, size: int, md5: str) -> Path:
    """Fetch `url` to `target`, resuming an earlier try; return `target`.

    Raises:
        SourceError: the server is unreachable, refuses, or sends another file.
    """
    if target.exists() and _md5(target) == md5:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(target.suffix + ".part")
    try:
        _fetch(url, part, size)
    except requests.RequestException as error:
        have = part.stat().st_size if part.exists() else 0
        raise SourceError(
            f"{url}: {error}; {have} of {size} bytes are in {part}: run it again to go on"
        ) from None
    except OSError:
        if fault := missing_certificates():
            raise SourceError(fault) from None
        raise
    if (found := _md5(part)) != md5:
        part.unlink()
        raise SourceError(f"{url}: MD5 is {found}, wanted {md5}; deleted: run it again")
    part.replace(target)
    return target


def _fetch(url: str, part: Path, size: int) -> None:
    have = part.stat().st_size if part.exists() else 0
    if have >= size:
        return
    with requests.Session() as session:
        retry = Retry(total=5, backoff_factor=1, status_forcelist=(429, 502, 503, 504))
        session.mount("https://", HTTPAdapter(max_retries=retry))
        session.mount("http://", HTTPAdapter(max_retries=retry))
        headers = {"Range": f"bytes={have}-"} if have else {}
        with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            response.raise_for_status()
            if response.status_code != requests.codes.partial_content:
                have = 0  # the server does not resume: from the start
            with part.open("ab" if have else "wb") as file, bar() as progress:
                task = progress.add_task(part.stem, total=size, completed=have)
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    progress.advance(task, len(chunk))


def bar() -> Progress:
    """A bar for bytes, in a terminal."""
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    return Progress(*columns, console=CONSOLE, disable=not CONSOLE.is_terminal)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
