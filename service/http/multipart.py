"""The field `file` of a multipart/form-data body that is already in memory (RFC 7578).

Strict, bounded, and without a copy: the usual parsers are made for streams and forms of any size
and cost more than the rest of a request (docs/benchmarks.md).
"""

import re

from service.errors import BadRequest

FIELD = b"file"
MAX_PARTS = 16
MAX_HEADERS = 8192  # bytes of headers in one part
DISPOSITION = re.compile(rb"(?im)^content-disposition:[ \t]*form-data[ \t]*(;[^\r\n]*)$")
# The parameters before the one that is looked for are skipped whole: in quotes they may hold
# anything, such as a file called `; name=file`.
PARAMETER = (
    rb"(?i)(?:;[ \t]*(?!%(name)s=)[^\s;=\"]+=(?:\"(?:[^\"\\]|\\.)*\"|[^\s;\"]*)[ \t]*)*"
    rb";[ \t]*%(name)s=(?:\"([^\"\r\n]*)\"|([^\s;,\"]+))[ \t]*(?:;|$)"
)
NAME = re.compile(PARAMETER % {b"name": b"name"})
BOUNDARY = re.compile(PARAMETER % {b"name": b"boundary"})
MAX_BOUNDARY = 70  # RFC 2046
ENCODING = re.compile(rb"(?im)^content-transfer-encoding:[ \t]*([^\r\n]*?)[ \t]*$")
PLAIN_ENCODINGS = (b"binary", b"8bit", b"7bit")


def file_field(content_type: bytes, body: bytes) -> memoryview:
    """Find the content of the one part named `file`.

    Raises:
        BadRequest: the body is not such a form, is cut off, or has no or several such parts.
    """
    match = BOUNDARY.match(content_type, max(0, content_type.find(b";")))
    boundary = (match[1] or match[2] or b"") if match else b""
    if not 1 <= len(boundary) <= MAX_BOUNDARY:
        raise BadRequest(
            "content-type: multipart/form-data needs its boundary, of 1 to 70 characters: let the "
            "client set it"
        )
    delimiter = b"--" + boundary
    found: memoryview | None = None
    position = _first(body, delimiter)
    for _ in range(MAX_PARTS + 1):
        if body.startswith(b"--", position):
            break
        start = _end_of_headers(body, position)
        # From the headers on: a part that is empty may lack the line's end of its own.
        end = body.find(b"\r\n" + delimiter, position)
        if end < 0:
            raise BadRequest("the form is cut off: the closing boundary is missing")
        if end < start - 2:
            raise BadRequest("the form is broken: a boundary stands among the headers of a part")
        if _name(body[position:start].replace(b"\r\n", b"\n")) == FIELD:
            if found is not None:
                raise BadRequest(
                    "the form has several parts named `file`: send one image a request"
                )
            found = memoryview(body)[start:end]
        position = end + 2 + len(delimiter)
    else:
        raise BadRequest(f"the form has more than {MAX_PARTS} parts: send one named `file`")
    if found is None:
        raise BadRequest("the form has no part named `file`: send the image as `file`")
    return found


def _first(body: bytes, delimiter: bytes) -> int:
    """Position after the first delimiter; what stands before it is ignored, as RFC 2046 says."""
    if body.startswith(delimiter):
        return len(delimiter)
    position = body.find(b"\r\n" + delimiter, 0, MAX_HEADERS)
    if position < 0:
        raise BadRequest("the body does not begin with the boundary that content-type names")
    return position + 2 + len(delimiter)


def _end_of_headers(body: bytes, position: int) -> int:
    if not body.startswith(b"\r\n", position):
        raise BadRequest("the form is broken after a boundary")
    end = body.find(b"\r\n\r\n", position, position + MAX_HEADERS)
    if end < 0:
        raise BadRequest(f"the headers of a part do not end within {MAX_HEADERS} bytes")
    return end + 4


def _name(headers: bytes) -> bytes | None:
    disposition = DISPOSITION.search(headers)
    if disposition is None:
        return None
    name = NAME.match(disposition[1])
    if name is None:
        return None
    encoding = ENCODING.search(headers)
    if encoding is not None and encoding[1].lower() not in PLAIN_ENCODINGS:
        raise BadRequest("content-transfer-encoding: only binary is taken")
    return name[1] if name[1] is not None else name[2]
