"""The body of an error (RFC 9457)."""

from http import HTTPStatus

MEDIA_TYPE = "application/problem+json"


PROTOCOL = "/v2/"
"""Paths of the Open Inference Protocol, whose clients look for the sentence in `error`."""


def problem(
    status: int, detail: str, instance: str, step: str | None = None, path: str = ""
) -> dict[str, object]:
    """Build the body of an error; `step` is the step of a swap that failed."""
    body: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": instance,
    }
    if step is not None:
        body["step"] = step
    if path.startswith(PROTOCOL):
        body["error"] = detail
    return body
