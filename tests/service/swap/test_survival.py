"""Hostile uploads: each gets one clear refusal, and the next valid request is right."""

import io
import os
import socket
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tifffile

from tests.conftest import ROOT
from tests.fakes.http import Request, answering
from tests.make.bundles import expected, make_chip
from tests.make.images import CHIPS, npy, tiff
from tests.make.processes import until
from tests.make.server import Server, serving

CHIP = make_chip(3)
GOOD = npy(CHIP)
BARE = {"content-type": "application/octet-stream"}


def png_bomb(side: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def film() -> bytes:
    content = io.BytesIO()
    with tifffile.TiffWriter(content) as writer:
        for _ in range(200):
            writer.write(CHIP[0], photometric="minisblack", contiguous=False)
    return content.getvalue()


def cyclic() -> bytes:
    content = bytearray(tiff(CHIP.transpose(1, 2, 0), planarconfig="contig"))
    (directory,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, directory)
    struct.pack_into("<I", content, directory + 2 + 12 * count, directory)
    return bytes(content)


def inflating() -> bytes:
    """A strip of a 64 x 64 image that inflates to a gigabyte: one packed block 1024 times."""
    squeeze = zlib.compressobj(9, wbits=-15)
    block = squeeze.compress(b"\0" * (1 << 20)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    checksum = ((1 << 30) % 65521) << 16 | 1  # Adler-32 of zeros
    bomb = b"\x78\xda" + block * 1024 + squeeze.flush() + struct.pack(">I", checksum)
    entries = [
        (256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 16), (259, 3, 1, 8), (262, 3, 1, 1),
        (273, 4, 1, 200), (277, 3, 1, 1), (278, 4, 1, 64), (279, 4, 1, len(bomb)),
    ]  # fmt: skip
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    head += b"".join(struct.pack("<HHII", *entry) for entry in entries) + struct.pack("<I", 0)
    return head.ljust(200, b"\0") + bomb


def header(shape: str, dtype: str = "<u2") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


HOSTILE = {
    "nothing": b"",
    "noise": os.urandom(500),
    "half a TIFF": CHIPS["plain TIFF"][:5000],
    "half a deflated TIFF": CHIPS["deflated TIFF"][:5000],
    "a TIFF's first bytes": b"II*\x00",
    "half an NPY": GOOD[:9999],
    "a PNG of 60,000 x 60,000": png_bomb(60_000),
    "a PNG of 8,000 x 8,000": png_bomb(8_000),
    "a TIFF of 200 frames": film(),
    "a TIFF that runs in a circle": cyclic(),
    "a strip that inflates to 1 GiB": inflating(),
    "an NPY of 2^62 values": header(f"(4, {1 << 31}, {1 << 31})"),
    "an NPY with a negative side": header("(4, -64, 64)"),
    "an NPY of objects": header("(4, 64, 64)", "|O") + b"cos\nsystem\n(S'true'\ntR.",
    "an NPY whose header is code": header("__import__('os')"),
    "an NPY whose header is deep": header("(" * 3000),
    "an EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n",
    "a FITS": b"SIMPLE  =                    T" + b" " * 2850,
    "a PSD": b"8BPS\x00\x01" + b"\0" * 40,
    "a GIF": b"GIF89a@\x00@\x00\x00\x00\x00;",
    "a ZIP": b"PK\x03\x04" + b"\0" * 60,
    "a pickle": b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
}


@pytest.fixture(scope="module")
def answer(bundle: Path) -> Any:
    return expected(bundle, CHIP)


def check_next(server: Server, answer: Any) -> None:
    response = httpx.post(server.url + "/predict", content=GOOD, headers=BARE, timeout=60)
    assert response.status_code == 200
    assert np.allclose(list(response.json()["probabilities"].values()), answer, atol=2e-6)


def check_refusal(response: httpx.Response) -> None:
    assert response.status_code in (400, 408, 413, 415, 422, 503, 507), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert len(response.json()["detail"]) > 20
    for secret in (str(ROOT), "/tmp", "Traceback"):
        assert secret not in response.text


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(server: Server, answer: Any, name: str) -> None:
    check_refusal(httpx.post(server.url + "/predict", content=HOSTILE[name], headers=BARE))
    check_refusal(httpx.post(server.url + "/predict", files={"file": HOSTILE[name]}))
    check_next(server, answer)


def test_bombs_do_not_grow_the_workers(server: Server) -> None:
    before = peak(server)
    for name in ("a PNG of 60,000 x 60,000", "a strip that inflates to 1 GiB"):
        check_refusal(httpx.post(server.url + "/predict", content=HOSTILE[name], headers=BARE))
    assert peak(server) - before < 100 << 10, "KiB"


def peak(server: Server) -> int:
    """Highest resident memory that any worker ever had, KiB."""
    found = 0
    for pid in server.workers():
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                found = max(found, int(line.split()[1]))
    return found


def test_files_that_point_elsewhere_leak_nothing(
    server: Server, answer: Any, tmp_path: Path
) -> None:
    canary = tmp_path / "canary.tif"
    canary.write_bytes(CHIPS["plain TIFF"])
    hits: list[str] = []

    def answer_404(request: Request) -> None:
        hits.append(request.path)
        request.reply(404)

    with answering(answer_404) as url:
        for target in (str(canary), f"/vsicurl/{url}/x.tif", f"{url}/x.tif"):
            source = f"<SourceFilename>{target}</SourceFilename>"
            vrt = f'<VRTDataset rasterXSize="64" rasterYSize="64">{source}</VRTDataset>'
            wms = f"<GDAL_WMS><Service><ServerUrl>{target}</ServerUrl></Service></GDAL_WMS>"
            ome = f'<OME><UUID FileName="{target}">urn:uuid:x</UUID></OME>'
            described = tiff(CHIP[0], description=ome)
            for content in (vrt.encode(), wms.encode(), described):
                check_refusal(
                    httpx.post(server.url + "/predict", files={"file": ("a.tif", content)})
                )
    assert hits == []
    check_next(server, answer)


def endless() -> Iterator[bytes]:
    for _ in range(600):
        yield b"\0" * (1 << 20)


def test_600_mib_in_chunks_end_with_413_and_bounded_memory(server: Server, answer: Any) -> None:
    before = peak(server)
    response = httpx.post(server.url + "/predict", content=endless(), headers=BARE, timeout=120)
    assert response.status_code == 413
    check_refusal(response)
    assert peak(server) - before < 150 << 10, "KiB"
    check_next(server, answer)


FORM = "multipart/form-data; boundary=b"
PART = b'--b\r\ncontent-disposition: form-data; name="%s"\r\n\r\nx\r\n'
FORMS = {
    "10,000 parts": (FORM, PART % b"other" * 10_000 + b"--b--"),
    "headers of a megabyte": (FORM, b"--b\r\nx: " + b"y" * (1 << 20) + b"\r\n\r\n\r\n--b--"),
    "no end": (FORM, PART % b"file"),
    "no file": (FORM, PART % b"other" + b"--b--"),
    "two files": (FORM, PART % b"file" + PART % b"file" + b"--b--"),
    "no boundary": ("multipart/form-data", b"x"),
    "a boundary that is too long": (f"multipart/form-data; boundary={'b' * 71}", b"x"),
    "another boundary": ("multipart/form-data; boundary=c", PART % b"file" + b"--b--"),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_broken_form_is_refused(server: Server, answer: Any, name: str) -> None:
    kind, body = FORMS[name]
    headers = {"content-type": kind}
    response = httpx.post(server.url + "/predict", content=body, headers=headers)
    assert response.status_code == 400
    check_refusal(response)
    check_next(server, answer)


@pytest.mark.parametrize("name", ["../../etc/passwd", 'a"b', "a\0b", "x" * 4000, "%00", "$(id)"])
def test_the_name_of_a_file_does_not_matter(server: Server, name: str) -> None:
    response = httpx.post(server.url + "/predict", files={"file": (name, GOOD)})
    assert response.status_code == 200


def test_false_content_lengths_do_not_break_the_server(server: Server, answer: Any) -> None:
    for length in (b"999999999", b"99999", b"5", b"-1", b"abc", b"5\r\ncontent-length: 6"):
        with connect(server) as connection:
            head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/tiff\r\n"
            connection.sendall(head + b"content-length: " + length + b"\r\n\r\n" + b"x" * 10)
            connection.shutdown(socket.SHUT_WR)
            status = connection.recv(4096)[9:12]
            assert status in (b"", b"400", b"413", b"415"), (length, status)
    check_next(server, answer)


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def test_300_disconnects_leak_no_files_and_no_threads(server: Server, answer: Any) -> None:
    before = open_files(server)
    for _ in range(300):
        with connect(server) as connection:
            head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/tiff\r\n"
            connection.sendall(head + b"content-length: 30000\r\n\r\n" + b"x" * 10_000)
    # Workers open their metrics' files when first needed.
    until(lambda: open_files(server) <= before + 20, "the end of the leaking descriptors")
    check_next(server, answer)


def open_files(server: Server) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in server.workers())


def test_200_slow_senders_delay_no_other_client_and_end_with_408(
    bundle: Path, tmp_path: Path, answer: Any
) -> None:
    with serving(bundle, tmp_path, upload_timeout=3) as server:
        slow = [connect(server) for _ in range(200)]
        for connection in slow:
            head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/tiff\r\n"
            connection.sendall(head + b"content-length: 30000\r\n\r\n" + b"x")
        for _ in range(100):  # 100 of 100
            check_next(server, answer)
        for connection in slow:  # 200 of 200
            with connection:
                assert connection.recv(4096)[9:12] == b"408"


def test_an_overloaded_worker_answers_503_with_retry_after(
    bundle: Path, tmp_path: Path, answer: Any
) -> None:
    with serving(bundle, tmp_path, workers=1, queue=1) as server:

        def ask(_: int) -> httpx.Response:
            return httpx.post(server.url + "/predict", content=GOOD, headers=BARE, timeout=60)

        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(ask, range(600)))
        assert {item.status_code for item in answers} <= {200, 503}
        for item in answers:
            if item.status_code == 503:
                check_refusal(item)
                assert item.headers["retry-after"] == "1"
        check_next(server, answer)


def test_mutated_images_never_break_the_server(server: Server, answer: Any) -> None:
    generator = np.random.default_rng(20261121)
    before = server.workers()
    formats = list(CHIPS.values())
    with server.client() as client:
        for number in range(600):
            content = bytearray(formats[number % len(formats)])
            for _ in range(int(generator.integers(1, 20))):
                content[int(generator.integers(0, min(len(content), 400)))] = int(
                    generator.integers(0, 256)
                )
            status = client.post("/predict", content=bytes(content), headers=BARE).status_code
            assert status in (200, 400, 413, 415, 422), (20261121, number, status)
    assert server.workers() == before
    check_next(server, answer)
