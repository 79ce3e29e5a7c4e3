"""The files of the page: kept by browsers, asked about each time, and not sent twice."""

from contextlib import ExitStack

import httpx

from service.http.page import WEB
from tests.make.server import Server
from tests.make.wire import refusal

PATHS = ["/", *sorted(f"/web/{item.name}" for item in WEB.iterdir() if item.is_file())]


def get(server: Server, path: str, *tags: str) -> httpx.Response:
    return httpx.get(server.url + path, headers=[("if-none-match", tag) for tag in tags])


def test_a_file_is_revalidated_each_time(server: Server) -> None:
    assert {"/web/index.html", "/web/style.css"} < set(PATHS)
    for path in PATHS:
        first = get(server, path)
        assert first.status_code == 200
        assert first.headers["cache-control"] == "no-cache"
        again = get(server, path, first.headers["etag"])
        assert (again.status_code, again.content) == (304, b"")
        assert "content-type" not in again.headers


def test_an_answer_without_content_repeats_the_headers_that_a_browser_keeps(server: Server) -> None:
    first = get(server, "/")
    again = get(server, "/", first.headers["etag"])
    for name in ("etag", "cache-control", "content-security-policy", "referrer-policy"):
        assert again.headers[name] == first.headers[name]


def test_every_worker_gives_a_file_the_same_tag(server: Server) -> None:
    """Connections that stay open together are spread over the workers."""
    with ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(4)]
        tags = {client.get("/").headers["etag"] for client in clients}
    assert len(tags) == 1


def test_two_files_have_two_tags(server: Server) -> None:
    tags = [get(server, path).headers["etag"] for path in PATHS]
    assert len(set(tags)) == len(PATHS) - 1  # `/` is index.html


def test_a_tag_may_be_weak_one_of_several_or_any(server: Server) -> None:
    tag = get(server, "/").headers["etag"]
    for form in ("W/{}", '"other", {}', '"other",W/{} , "more"', "*"):
        assert get(server, "/", form.format(tag)).status_code == 304, form
    assert get(server, "/", '"other"', tag).status_code == 304  # in the second of two headers


def test_another_tag_gets_the_file(server: Server) -> None:
    for tag in ('"other"', "", "W/", '"', "\xff", "," * 1000):
        answer = httpx.get(server.url + "/", headers=[(b"if-none-match", tag.encode("latin-1"))])
        assert answer.status_code == 200, tag
        assert answer.content == (WEB / "index.html").read_bytes()


def test_head_has_the_headers_and_no_content(server: Server) -> None:
    tag = get(server, "/").headers["etag"]
    answer = httpx.head(server.url + "/")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["etag"] == tag
    assert httpx.head(server.url + "/", headers={"if-none-match": tag}).status_code == 304


def test_a_file_that_is_not_of_the_page_is_not_found(server: Server) -> None:
    for name in ("nothing.js", "%2e%2e", "%2e%2e%2fapp.py", "index.html.", "*"):
        refusal(httpx.get(f"{server.url}/web/{name}", headers={"if-none-match": "*"}), 404)
