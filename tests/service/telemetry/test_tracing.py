"""Traces go to an OTLP endpoint when there is one."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.make.bundles import make_chip
from tests.make.images import npy
from tests.make.server import serving


class Collector(ThreadingHTTPServer):
    """Receives what the real exporter sends."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.spans: list[Span] = []


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        request = ExportTraceServiceRequest.FromString(body)
        assert isinstance(self.server, Collector)
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.server.spans.extend(scope.spans)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_prediction_is_a_trace_below_that_of_the_caller(
    bundle: Path, tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = f"http://127.0.0.1:{collector.server_address[1]}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    caller = "0af7651916cd43dd8448eb211c80319c"
    with serving(bundle, tmp_path, workers=1) as server:
        headers = {"traceparent": f"00-{caller}-b7ad6b7169203331-01", "x-request-id": "mine"}
        answer = httpx.post(
            server.url + "/predict", files={"file": npy(make_chip(1))}, headers=headers
        )
        assert answer.status_code == 200
    # Stopping sends what is left.
    spans = {span.name: span for span in collector.spans if span.trace_id.hex() == caller}
    assert set(spans) == {"POST /predict", "decode", "inference"}
    root = spans["POST /predict"]
    assert spans["decode"].parent_span_id == spans["inference"].parent_span_id == root.span_id
    assert {it.key: it.value.string_value for it in root.attributes}["request.id"] == "mine"


def test_without_an_endpoint_the_tracing_library_is_not_even_loaded(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    with serving(bundle, tmp_path, workers=1) as server:
        (worker,) = server.workers()
        maps = Path(f"/proc/{worker}/maps").read_text(encoding="utf-8")
    assert "google/_upb" not in maps
