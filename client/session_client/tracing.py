"""The caller's trace goes with its request, where the caller has OpenTelemetry."""

from __future__ import annotations

import sys
from typing import Any


def trace_headers() -> dict[str, Any]:
    """``traceparent`` and ``tracestate`` of the current span; nothing when there is none."""
    if "opentelemetry.trace" not in sys.modules:  # nobody can have begun a span
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, Any] = {}
    TraceContextTextMapPropagator().inject(headers)
    return headers
