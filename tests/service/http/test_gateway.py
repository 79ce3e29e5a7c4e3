"""The gateway before every route: rights, errors, ids, logs, metrics."""

import asyncio
import json
import random
import string
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from service.app import create_app
from service.auth.roles import ROLES, Role, new_key
from service.container import Container
from service.settings import read_settings
from tests.conftest import ROOT
from tests.make.processes import until
from tests.make.server import Server, serving
from tests.make.wire import BODY, chunked, connect, exchange, head, read, refusal, upload

KEYS = {role: new_key() for role in Role}
CREDENTIALS: dict[str, str | None] = {
    "nothing": None,
    "a wrong key": "cvy_wrong",
    **{role.value: key for role, (key, _) in KEYS.items()},
}


@pytest.fixture(scope="module")
def closed(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A service in which every role needs its key."""
    keys = json.dumps({digest: [role] for role, (_, digest) in KEYS.items()})
    folder = tmp_path_factory.mktemp("closed")
    with serving(bundle, folder, api_keys=keys, open_roles="[]", workers=1) as server:
        yield server


def call(server: Server, method: str, path: str, key: str | None) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.request(method, server.url + path, headers=headers, timeout=30)


def test_every_route_admits_its_role_and_refuses_all_others(closed: Server) -> None:
    wrong = []
    for (method, template), role in ROLES.items():
        path = template.replace("{index}", "0").replace("{file}", "style.css")
        for name, key in CREDENTIALS.items():
            answer = call(closed, method, path, key)
            if role is None or name == role.value:
                right = answer.status_code not in (401, 403)
            else:
                right = answer.status_code == (401 if name in ("nothing", "a wrong key") else 403)
                refusal(answer)
            wrong += [] if right else [(method, path, name, answer.status_code)]
    assert not wrong


def test_every_route_of_the_application_is_in_the_table_of_roles(tmp_path: Path) -> None:
    container = Container()
    container.settings.override(read_settings(state=tmp_path))
    gateway = create_app(container)
    routes = {
        (method, route.path)
        for route in cast(Any, gateway.app).routes
        if hasattr(route, "path")
        for method in getattr(route, "methods", set()) - {"HEAD"}
    }
    assert ("POST", "/predict") in routes
    unlisted = routes - set(ROLES) - {("GET", "/docs/oauth2-redirect")}
    assert not unlisted, "the gateway admits no route that the table of roles does not list"


def test_a_route_that_the_table_of_roles_lacks_is_not_reached(closed: Server) -> None:
    assert call(closed, "GET", "/docs/oauth2-redirect", KEYS[Role.DEPLOY][0]).status_code == 404


def test_predict_is_described_in_the_openapi_document(closed: Server) -> None:
    document = call(closed, "GET", "/openapi.json", None).json()
    operation = document["paths"]["/predict"]["post"]
    assert "multipart/form-data" in operation["requestBody"]["content"]
    assert operation["responses"]["200"]["content"]["application/json"]["schema"]


def test_a_path_that_does_not_exist_is_a_problem_body(server: Server) -> None:
    for path in ("/../etc/passwd", "/predict/", "/PREDICT", "//predict", "/docs/x", "/a" * 900):
        response = httpx.get(server.url + path)
        refusal(response, 404)
        assert set(response.json()) == {"type", "title", "status", "detail", "instance"}


def test_another_method_is_refused_with_the_allowed_ones(server: Server) -> None:
    response = httpx.delete(server.url + "/predict")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert httpx.head(server.url + "/healthz").status_code == 200


def test_random_paths_add_no_metric_series(closed: Server) -> None:
    generator = random.Random(7)
    with httpx.Client(base_url=closed.url, timeout=60) as client:
        client.get("/unknown")
        client.request("PROPFIND", "/unknown")
        before = series(client)
        for _ in range(500):
            path = "".join(generator.choices(string.ascii_letters + "/%.-_~", k=12))
            assert client.get("/x" + path).status_code in (400, 404)
        assert series(client) == before


def series(client: httpx.Client) -> set[str]:
    lines = client.get("/metrics").text.splitlines()
    # Series of requests alone: those of the feedback appear when it is first counted, at any time.
    # The look itself is a request, and its own series appear with it.
    return {
        line.rsplit(" ", 1)[0]
        for line in lines
        if line.startswith(("http_", "uploads_")) and "/metrics" not in line
    }


def test_metrics_name_routes_by_their_template(server: Server) -> None:
    httpx.get(server.url + "/samples/0")
    httpx.get(server.url + "/samples/1")
    text = httpx.get(server.url + "/metrics").text
    assert 'http_requests_total{handler="/samples/{index}",method="GET",status="200"}' in text
    assert "/samples/1" not in text


EXABYTES = "content-length: 9000000000000000000"


def test_only_bytes_that_came_are_counted_as_received(server: Server) -> None:
    routes = ("/predict", "/preview", "/feedback", "/healthz", "none")
    before = {route: received(server, route) for route in routes}
    abandon(server, head(EXABYTES), 413)
    abandon(server, head(EXABYTES) + bytes(1000), 413)
    abandon(server, head(EXABYTES, path="/unknown"), 404)
    abandon(server, f"GET /healthz HTTP/1.1\r\nhost: x\r\n{EXABYTES}\r\n\r\n".encode(), 200)
    abandon(server, head(EXABYTES, path="/feedback", kind="application/json") + b'{"label')
    pieces = chunked([BODY[:100], BODY[100:]])
    assert exchange(server, head("transfer-encoding: chunked"), *pieces).status == 200
    assert upload(server, BODY).status_code == 200
    assert upload(server, BODY, path="/preview").status_code == 200
    answer = {"request_id": "unknown", "label": "x"}
    sent = httpx.post(server.url + "/feedback", json=answer).request.content
    wanted = {
        "/predict": (4, 1000 + 2 * len(BODY)),
        "/preview": (1, len(BODY)),
        "/feedback": (2, len(b'{"label') + len(sent)),
        "/healthz": (1, 0),
        "none": (1, 0),
    }

    def change() -> dict[str, tuple[float, float]]:
        now = {route: received(server, route) for route in routes}
        return {route: (now[route][0] - a, now[route][1] - b) for route, (a, b) in before.items()}

    until(lambda: [count for count, _ in change().values()] == [it[0] for it in wanted.values()])
    assert change() == wanted


def abandon(server: Server, start: bytes, *status: int) -> None:
    """Begin a request, read the answer if there is to be one, and leave."""
    with connect(server) as connection:
        connection.sendall(start)
        assert not status or read(connection).status == status[0]


def received(server: Server, route: str) -> tuple[float, float]:
    """Requests to a route, and the bytes of their bodies."""
    values = {}
    for line in httpx.get(server.url + "/metrics", timeout=60).text.splitlines():
        for name in ("count", "sum"):
            if line.startswith(f'http_request_size_bytes_{name}{{handler="{route}"}}'):
                values[name] = float(line.rsplit(" ", 1)[1])
    return values.get("count", 0.0), values.get("sum", 0.0)


def test_the_log_has_one_line_a_request_and_no_key(server: Server) -> None:
    key = new_key()[0]
    headers = {"authorization": f"Bearer {key}", "x-request-id": "mine"}
    answer = httpx.post(server.url + "/predict", files={"file": BODY}, headers=headers).json()
    httpx.post(server.url + "/replace_ml_model", json={"tag": "x"}, headers=headers)
    mine = sorted(wait_for_lines(server, "mine", 2), key=lambda line: str(line["route"]))
    assert [(line["route"], line["status"]) for line in mine] == [
        ("/predict", 200),
        ("/replace_ml_model", 401),
    ]
    assert mine[0]["model"] == "local"
    assert mine[0]["ms"] > 0
    assert mine[0]["prediction"] == answer["request_id"]
    assert "prediction" not in mine[1]
    assert key not in server.log.read_text(encoding="utf-8")
    assert str(ROOT) not in json.dumps(mine)


def test_a_prediction_without_an_id_of_the_caller_is_logged_under_one_id(server: Server) -> None:
    answer = httpx.post(server.url + "/predict", files={"file": BODY}).json()
    (line,) = wait_for_lines(server, answer["request_id"], 1)
    assert line["route"] == "/predict"
    assert "prediction" not in line


def wait_for_lines(server: Server, name: str, count: int) -> list[dict[str, Any]]:
    def found() -> list[dict[str, Any]]:
        lines = [line for line in server.lines() if line.get("id") == name]
        return lines if len(lines) >= count else []

    return until(found)


def test_a_bug_is_answered_with_an_id_and_logged_with_its_stack(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("a secret detail")

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    container = Container()
    container.settings.override(read_settings(state=tmp_path))
    container.predict.override(broken)
    gateway = create_app(container)
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "headers": [],
        "query_string": b"",
    }
    asyncio.run(gateway(scope, receive, send))
    assert sent[0]["status"] == 500
    assert b"secret" not in sent[1]["body"]
    assert "a secret detail" in caplog.text


def test_the_page_may_load_nothing_from_elsewhere(server: Server) -> None:
    policy = httpx.get(server.url + "/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert httpx.get(server.url + "/").headers["x-content-type-options"] == "nosniff"


def test_an_upload_says_in_any_case_that_it_is_not_compressed(server: Server) -> None:
    found = {
        coding: exchange(
            server, head(f"content-length: {len(BODY)}", f"content-encoding: {coding}"), BODY
        ).status
        for coding in ("identity", "Identity", "gzip")
    }
    assert found == {"identity": 200, "Identity": 200, "gzip": 415}
