"""The reader of forms against the standard library's parser of mail, and against curl."""

import email
import json
import re
import shutil
import string
import subprocess
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from service.errors import BadRequest
from service.http.multipart import MAX_PARTS, file_field
from tests.make.server import Server
from tests.make.wire import BODY, FILE, chunked, exchange, form, head, upload

TOKEN = string.ascii_letters + string.digits + "'+_-."  # of a boundary that needs no quotes
QUOTED = TOKEN + "(),/:=? "  # RFC 2046

repeatable = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow],  # the machine may be busy
)


class Form(NamedTuple):
    """A form as a client writes it."""

    content_type: str
    body: bytes
    content: bytes
    """Of its file."""


def read(content_type: str, body: bytes) -> bytes | None:
    """What the service takes from a form; None when it refuses, for a reason that it gives."""
    try:
        return bytes(file_field(content_type.encode(), body))
    except BadRequest as error:
        assert len(error.detail) > 20, "no sentence"
        return None


def parts_of(content_type: str, body: bytes) -> list[Message]:
    """The parts of a form as the standard library sees them."""
    whole = email.message_from_bytes(f"content-type: {content_type}\r\n\r\n".encode() + body)
    parts = whole.get_payload() if whole.is_multipart() else []
    assert isinstance(parts, list)
    return [part for part in parts if isinstance(part, Message)]


def files_of(parts: list[Message]) -> list[bytes]:
    """The contents of the parts that are named `file`."""
    found = []
    for part in parts:
        is_field = part.get_content_disposition() == "form-data"
        if is_field and part.get_param("name", header="content-disposition") == "file":
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            found.append(content)
    return found


CONTENT_TYPES = (
    "multipart/form-data; boundary=%s",
    "Multipart/Form-Data;Boundary=%s",
    "multipart/form-data; charset=utf-8; boundary=%s",
    "multipart/form-data; boundary=%s; charset=utf-8",
    'multipart/form-data; x="; boundary=other"; boundary=%s',
)
FILE_HEADERS = (
    FILE,
    'content-disposition: form-data; name="file"',
    'content-disposition: form-data; name="file"; filename="a;b=c; name=other.tif"',
    'content-disposition: form-data; filename="; name=other"; name="file"',
    "Content-Disposition: form-data; name=file; filename=chip.tif",
    'CONTENT-DISPOSITION:form-data;name="file";filename="x"\r\ncontent-type: image/tiff',
    'content-type: image/tiff\r\ncontent-disposition: form-data; name="file"',
    f"{FILE}\r\ncontent-transfer-encoding: binary",
    f"{FILE}\r\nx-note: name=other",
    f"{FILE}\r\ncontent-length: 3",
)
OTHER_HEADERS = (
    'content-disposition: form-data; name="note"',
    'content-disposition: form-data; name=""',
    'content-disposition: form-data; name="files"',
    'content-disposition: form-data; name="note"; filename="; name=file"',
    'content-disposition: form-data; name="note"\r\nx-name: file',
    "content-disposition: form-data; name=note; filename=file",
    "content-type: text/plain",
)


@st.composite
def contents(draw: st.DrawFn, boundary: str) -> bytes:
    """Any bytes, and what looks like the boundary. The boundary itself no client lets in."""
    mark = f"--{boundary}".encode()
    pieces = [b"\r\n", b"\n", b"\r", b"--", mark, mark[:-1], b"\r\n" + mark[:-1], b"\n" + mark]
    content = b"".join(draw(st.lists(st.sampled_from(pieces) | st.binary(max_size=20), max_size=8)))
    assume(b"\r\n" + mark not in b"\r\n" + content)
    return content


@st.composite
def forms(draw: st.DrawFn) -> Form:
    """A file among other fields, at any place, under any boundary."""
    boundary = draw(st.text(QUOTED, min_size=1, max_size=70).filter(lambda text: text[-1] != " "))
    others = draw(st.lists(st.sampled_from(OTHER_HEADERS), max_size=5))
    place = draw(st.integers(0, len(others)))
    headers = [*others[:place], draw(st.sampled_from(FILE_HEADERS)), *others[place:]]
    parts = [(lines, draw(contents(boundary))) for lines in headers]
    value = boundary if set(boundary) <= set(TOKEN) else f'"{boundary}"'
    content_type = draw(st.sampled_from(CONTENT_TYPES)) % value
    return Form(content_type, form(boundary, *parts), parts[place][1])


@repeatable
@given(forms())
def test_a_file_comes_out_as_the_client_put_it_in(sent: Form) -> None:
    assert read(sent.content_type, sent.body) == sent.content


WHOLE = [
    *(b"--b\r\n", b'content-disposition: form-data; name="note"\r\n', b"\r\n", b"1", b"\r\n"),
    *(b"--b\r\n", b'content-disposition: form-data; name="file"; filename="a"\r\n'),
    *(b"content-type: image/tiff\r\n", b"\r\n", b"pixels", b"\r\n", b"--b--\r\n"),
]
PIECES = [*WHOLE, b"--b", b"--b--", b"--", b"--bc\r\n", b"x: --b\r\n", b"x", b"\0\xff", b"\r\n\r\n"]


@st.composite
def broken_forms(draw: st.DrawFn) -> bytes:
    """A form in which pieces are missing, moved, or there twice."""
    pieces = list(WHOLE)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(pieces)))
        taken = draw(st.integers(0, 1))
        pieces[place : place + taken] = draw(st.lists(st.sampled_from(PIECES), max_size=2))
    return b"".join(pieces)


@repeatable
@given(broken_forms())
def test_a_broken_form_is_refused_or_read_as_others_read_it(body: bytes) -> None:
    found = read("multipart/form-data; boundary=b", body)
    if found is None:
        return
    parts = parts_of("multipart/form-data; boundary=b", body)
    assume(not any(part.defects for part in parts))  # the standard library guesses here
    assume(not re.search(rb"\r\n--b--(?!\r\n|$)", body))  # it reads past this end
    assert files_of(parts) == [found]


def test_the_standard_library_reads_the_whole_form() -> None:
    """Without it the test above would compare nothing."""
    body = b"".join(WHOLE)
    assert files_of(parts_of("multipart/form-data; boundary=b", body)) == [b"pixels"]
    assert read("multipart/form-data; boundary=b", body) == b"pixels"


def test_a_boundary_among_the_headers_hides_nothing() -> None:
    for end in ("--b--\r\n\r\n", "--b\r\n\r\n", "\r\n--b\r\n", "\r\n--b--\r\n"):
        body = f"--b\r\n{FILE}\r\n{end}hidden\r\n--b--\r\n".encode()
        assert b"hidden" not in (read("multipart/form-data; boundary=b", body) or b""), end


def test_a_form_with_more_parts_than_the_limit_is_refused() -> None:
    for others in (MAX_PARTS - 1, MAX_PARTS):
        parts = [("content-disposition: form-data; name=note", b"1")] * others
        found = read("multipart/form-data; boundary=b", form("b", *parts, (FILE, b"pixels")))
        assert found == (b"pixels" if others < MAX_PARTS else None)


def test_a_boundary_of_more_than_70_characters_is_refused() -> None:
    for length in (1, 70, 71):
        mark = "b" * length
        found = read(f"multipart/form-data; boundary={mark}", form(mark, (FILE, b"pixels")))
        assert found == (b"pixels" if length <= 70 else None)


@pytest.fixture(scope="module")
def answer(server: Server) -> dict[str, Any]:
    """What the service says about the bare body."""
    return said(upload(server, BODY))


def said(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return without_id(response.json())


def without_id(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "request_id"}


FORM = form("b", ("content-disposition: form-data; name=note", b"x--b"), (FILE, BODY))
EDGES = st.integers(0, 100) | st.integers(len(FORM) - 60, len(FORM)) | st.integers(0, len(FORM))


@settings(repeatable, max_examples=40)
@given(cuts=st.lists(EDGES, max_size=8), encoded=st.booleans())
def test_a_form_may_come_in_any_pieces(
    server: Server, answer: dict[str, Any], cuts: list[int], encoded: bool
) -> None:
    places = sorted({0, len(FORM), *cuts})
    pieces = [FORM[start:end] for start, end in zip(places, places[1:], strict=False)]
    kind = "multipart/form-data; boundary=b"
    if encoded:
        sent = [head("transfer-encoding: chunked", kind=kind), *chunked(pieces)]
    else:
        sent = [head(f"content-length: {len(FORM)}", kind=kind), *pieces]
    reply = exchange(server, *sent)
    assert reply.status == 200, reply.body
    assert without_id(json.loads(reply.body)) == answer


CURL = {
    "as the documentation says": ("file=@chip.tif",),
    "with a type": ("file=@chip.tif;type=image/tiff",),
    "with a name full of marks": ('file=@chip.tif;filename="a;b\\"; name=other.tif"',),
    "between other fields": ("note=file", "file=@chip.tif", "files=@other.tif"),
    "with headers of its own": ('file=@chip.tif;headers="x-note: name=other"',),
}


def test_curl_gets_the_answer_of_the_bare_body(
    server: Server, answer: dict[str, Any], tmp_path: Path
) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl here")
    (tmp_path / "chip.tif").write_bytes(BODY)
    (tmp_path / "other.tif").write_bytes(b"II*\0")
    wrong = []
    for options in ((), ("-H", "transfer-encoding: chunked")):
        for way, values in CURL.items():
            fields = [word for field in values for word in ("-F", field)]
            start = [curl, "-q", "-sS", "--noproxy", "*", *options]
            command = [*start, *fields, f"{server.url}/predict"]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
            if done.returncode or without_id(json.loads(done.stdout)) != answer:
                wrong.append((way, options, done.stdout, done.stderr))
    assert not wrong
