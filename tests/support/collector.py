"""A collector of traces: it takes OTLP over HTTP and keeps what it decoded."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.waiting import soon

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class CollectedSpan:
    """A span as it came; ids are hexadecimal, `parent` is empty for a root, `links` are trace ids."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent: str
    attributes: Mapping[str, Any]
    events: tuple[str, ...]
    links: tuple[str, ...]
    error: str | None
    nanoseconds: int
    resource: Mapping[str, Any]


@dataclass
class Collector:
    """Listens on a port of its own while it is entered; `env` leads a worker to it."""

    spans: list[CollectedSpan] = field(default_factory=list)

    def __enter__(self) -> Self:
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                spans.extend(_decoded(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="collector", daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def env(self) -> dict[str, str]:
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}"}

    def wait(self, name: str, count: int = 1) -> list[CollectedSpan]:
        """The spans of this name, once there are so many, in the order of their ends."""
        soon(lambda: len(self._named(name)) >= count)
        return self._named(name)

    def _named(self, name: str) -> list[CollectedSpan]:
        return [span for span in list(self.spans) if span.name == name]


def _decoded(body: bytes) -> list[CollectedSpan]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        CollectedSpan(
            span.name,
            span.kind,
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            _attributes(span.attributes),
            tuple(event.name for event in span.events),
            tuple(link.trace_id.hex() for link in span.links),
            span.status.message if span.status.code == 2 else None,
            span.end_time_unix_nano - span.start_time_unix_nano,
            _attributes(resource_spans.resource.attributes),
        )
        for resource_spans in request.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
