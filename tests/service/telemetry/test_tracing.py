"""Traces go to an OTLP endpoint when there is one."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.fakes.http import Request, answering
from tests.make.bundles import make_chip
from tests.make.images import npy
from tests.make.server import serving


class Collector:
    """Receives what the real exporter sends."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Span] = []

    def answer(self, request: Request) -> None:
        found = ExportTraceServiceRequest.FromString(request.body)
        for resource in found.resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        request.reply(200)


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    with answering(collector.answer) as collector.url:
        yield collector


def test_a_prediction_is_a_trace_below_that_of_the_caller(
    bundle: Path, tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
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
