"""Fetch the file of a band: resumed, signed at the moment of use, checked before it is used."""

import hashlib
import shutil
import time
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urljoin

import rasterio
import requests
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from contracts.proxies import missing_certificates
from pipeline.errors import SourceError
from pipeline.sources.download import bar
from pipeline.sources.sentinel2.access import Access
from pipeline.sources.sentinel2.assets import Asset, SceneFault
from pipeline.sources.sentinel2.catalogues import Patience

CHUNK = 2**16  # bytes that an interruption can lose
LARGEST = 2 * 2**30  # bytes of one file
SPARE = 2**28  # bytes that stay free on the disk
JPEG2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")  # how such a file begins
REDIRECTS = 5
DAMAGED = 2  # times that a file may arrive damaged
GONE = ("HTTP 404", "HTTP 410")
REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
PASSING = (408, 425, 429, 500, 502, 503, 504)


def fetch(asset: Asset, target: Path, access: Access, patience: Patience) -> Path:
    """Fetch a file to `target`, going on where an earlier try ended; return `target`.

    Raises:
        SceneFault: the file is gone, or damaged whenever it is fetched.
        SourceError: the server cannot be reached or refuses, or the disk is full.
    """
    if target.exists():  # complete: it gets its name at the end
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    for arrival in range(1, DAMAGED + 1):
        _fetch(asset, part, access, patience)
        fault = _fault(asset, part)
        if not fault:
            part.replace(target)
            return target
        part.unlink()
    raise SceneFault(f"asset {asset.key}: {fault}, at {arrival} of {DAMAGED} downloads")


def _fetch(asset: Asset, part: Path, access: Access, patience: Patience) -> None:
    """Fetch to the end; bytes that arrive give new tries."""
    problem, attempt = "", 0
    while attempt < patience.tries:
        attempt += 1
        had = _size(part)
        wait = patience.wait * 2 ** (attempt - 1)
        try:
            status, after = _exchange(asset, part, access, patience)
        except requests.RequestException as error:
            problem = _reason(error)
        else:
            if status < HTTPStatus.BAD_REQUEST:
                return
            problem, wait = f"HTTP {status}", min(patience.longest, max(wait, after))
            if not _is_passing(status, access):
                break
        if _size(part) > had:
            attempt = 0
        if attempt < patience.tries:
            time.sleep(wait)
    if problem in GONE:
        raise SceneFault(
            f"asset {asset.key}: {problem}: the catalogue lists it, its server does not have it"
        )
    raise SourceError(
        missing_certificates()
        or f"asset {asset.key}: {problem}, try {attempt} of {patience.tries}; {_size(part)} bytes "
        f"are in {part}: run it again to go on"
    )


def _is_passing(status: int, access: Access) -> bool:
    """Whether another try may do better; a token that was refused is renewed for it."""
    if status in REFUSED and access.renewable:
        access.forget()
        return True
    return status in PASSING


def _exchange(asset: Asset, part: Path, access: Access, patience: Patience) -> tuple[int, float]:
    """Ask for what is missing; return the status, and the seconds that the server asks to wait."""
    have = _size(part)
    with _get(asset.url, have, access, patience) as response:
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            is_whole = response.headers.get("Content-Range") == f"bytes */{have}"
            if not is_whole:
                part.unlink()  # of another version of the file
            return (HTTPStatus.OK if is_whole else HTTPStatus.SERVICE_UNAVAILABLE), 0
        if not response.ok:
            return response.status_code, _number(response.headers.get("Retry-After", ""))
        if response.status_code != HTTPStatus.PARTIAL_CONTENT:
            have = 0  # the server does not resume: from the start
        missing = int(_number(response.headers.get("Content-Length", "")))
        check_disk(part.parent, missing)
        with part.open("ab" if have else "wb") as file, bar() as progress:
            task = progress.add_task(asset.key, total=have + missing or None, completed=have)
            for chunk in response.iter_content(CHUNK):
                have += len(chunk)
                if have > LARGEST:
                    raise SourceError(f"asset {asset.key}: more than {LARGEST} bytes, the limit")
                file.write(chunk)
                progress.advance(task, len(chunk))
        return response.status_code, 0


def _get(address: str, have: int, access: Access, patience: Patience) -> requests.Response:
    """Follow redirects, and sign each: requests drops a token on the way to another host."""
    for _ in range(REDIRECTS):
        url, headers = access.sign(address)
        headers |= {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        response = requests.get(
            url, headers=headers, stream=True, timeout=patience.timeout, allow_redirects=False
        )
        if not response.is_redirect:
            return response
        response.close()
        address = urljoin(address, response.headers["Location"])
    raise requests.TooManyRedirects


def check_disk(folder: Path, size: int) -> None:
    """Refuse to fill a disk.

    Raises:
        SourceError: so many bytes, and some to spare, are not free.
    """
    free = shutil.disk_usage(folder).free
    if size + SPARE > free:
        raise SourceError(
            f"{size / 2**20:.0f} MiB are needed and {SPARE / 2**20:.0f} to spare, "
            f"{free / 2**20:.0f} MiB are free in {folder}: free some space, or name a folder on "
            "another disk with --cache"
        )


def _fault(asset: Asset, path: Path) -> str | None:
    """What is wrong with a file: its size, its checksum or, where none is named, its blocks."""
    if asset.size is not None and _size(path) != asset.size:
        return f"{_size(path)} bytes, the catalogue names {asset.size}"
    if asset.checksum:
        name, wanted = asset.checksum
        with path.open("rb") as file:
            found = hashlib.file_digest(file, name).hexdigest()
        return None if found == wanted else f"{name} is {found}, the catalogue names {wanted}"
    try:
        with open_raster(path) as raster:
            for _, window in raster.block_windows(1):
                raster.read(window=window)
    except RasterioError as error:
        return f"it cannot be decoded ({str(error).splitlines()[0][:100]})"
    return None


def open_raster(path: Path) -> DatasetReader:
    """Open a TIFF or JPEG 2000. GDAL must not guess: it follows other formats to other files."""
    with path.open("rb") as file:
        start = file.read(8)
    return rasterio.open(path, driver="JP2OpenJPEG" if start.startswith(JPEG2000) else "GTiff")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _number(text: str) -> float:
    with suppress(ValueError):
        return max(0.0, float(text))
    return 0.0


def _reason(error: requests.RequestException) -> str:
    """Without the address: it may be signed."""
    if isinstance(error, requests.ConnectTimeout | requests.ReadTimeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    cause = getattr(error.args[0] if error.args else None, "reason", None)
    return f"no connection ({type(cause or error).__name__})"
