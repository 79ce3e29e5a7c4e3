"""The body of an error (RFC 9457)."""

from http import HTTPStatus

MEDIA_TYPE = "application/problem+json"


def problem(status: int, detail: str, instance: str, step: str | None = None) -> dict[str, object]:
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
    return body
