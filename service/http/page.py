"""The page: serves the files of `web/` from memory, with an ETag."""

from hashlib import sha256
from importlib.resources import files

from fastapi import FastAPI, Request
from starlette.responses import Response

from service.errors import NotFound

WEB = files("service") / "web"
PAGE = "index.html"
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
# Nothing from elsewhere, no inline code; blob: is the picture that the visitor has just chosen.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_page(app: FastAPI) -> None:
    """Register the routes of the page."""
    contents = {item.name: item.read_bytes() for item in WEB.iterdir() if item.is_file()}
    tags = {name: f'"{sha256(content).hexdigest()}"' for name, content in contents.items()}

    def answer(name: str, request: Request) -> Response:
        if name not in contents:
            raise NotFound("this file does not exist")
        headers = {
            # Browsers store the file and revalidate it each time: a new release shows at once.
            "cache-control": "no-cache",
            "etag": tags[name],
            "content-security-policy": POLICY,
            "referrer-policy": "no-referrer",
        }
        if _names(request.headers.getlist("if-none-match"), tags[name]):
            return Response(status_code=304, headers=headers)
        kind = TYPES.get("." + name.rpartition(".")[2], "application/octet-stream")
        return Response(contents[name], headers=headers, media_type=kind)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return answer(PAGE, request)

    @app.get("/web/{file}", include_in_schema=False)
    async def asset(file: str, request: Request) -> Response:
        return answer(file, request)


def _names(fields: list[str], tag: str) -> bool:
    """Whether `If-None-Match` names this tag, as RFC 9110 compares: weak or not, one of several."""
    named = {item.strip().removeprefix("W/") for field in fields for item in field.split(",")}
    return tag in named or "*" in named
