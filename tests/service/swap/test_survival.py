"""Hostile uploads: each gets one clear refusal, and the next valid request is right."""

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conftest import ROOT
from tests.fakes.http import Request, answering
from tests.make.bundles import expected, make_chip
from tests.make.images import (
    CHIPS,
    broken,
    deflated_gibibyte,
    npy,
    one_strip,
    png_of,
    strangers,
    tiff,
)
from tests.make.processes import until
from tests.make.server import Server, serving

CHIP = make_chip(3)
GOOD = npy(CHIP)
BARE = {"content-type": "application/octet-stream"}


# tests/service/inference/test_decode.py asks the decoder about all of them.
KINDS = (
    *("film of 200 frames", "directories in a circle", "only a magic number", "PNG without data"),
    *("JPEG within a TIFF", "NPY of shape (-1, 64, 64)", "NPY of objects", "NPY with code"),
    *("NPY nested 4,000 deep", "EPS", "FITS", "PSD", "GIF", "ZIP", "pickle"),
)


def bombs() -> tuple[bytes, bytes]:
    """A picture of gigabytes, and a strip that inflates to one."""
    return png_of(60_000, 60_000), one_strip(deflated_gibibyte(), 8)


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


def test_hostile_files_are_refused(server: Server, answer: Any) -> None:
    kinds = {name: content for name, content in (*broken(), *strangers()) if name in KINDS}
    assert kinds.keys() == set(KINDS)
    halves = (CHIPS["plain TIFF"][:5000], CHIPS["deflated TIFF"][:5000], GOOD[:9999])
    for content in (b"", os.urandom(500), *halves, *bombs(), *kinds.values()):
        check_refusal(httpx.post(server.url + "/predict", content=content, headers=BARE))
        check_refusal(httpx.post(server.url + "/predict", files={"file": content}))
        check_next(server, answer)


def test_bombs_do_not_grow_the_workers(server: Server) -> None:
    before = peak(server)
    for content in bombs():
        check_refusal(httpx.post(server.url + "/predict", content=content, headers=BARE))
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
