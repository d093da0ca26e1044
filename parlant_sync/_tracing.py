"""One OpenTelemetry span for each turn and each post, if the application uses OpenTelemetry (extra ``otel``).

Nothing is imported here: an application that uses OpenTelemetry has loaded it. A tracer that raises costs a span and
nothing else. No span holds the text of a message.
"""

from __future__ import annotations

import sys
from typing import Any

from parlant_sync._version import __version__

# If this is in ``sys.modules``, the application uses OpenTelemetry. A ``Span`` is only made then.
OPENTELEMETRY = "opentelemetry.trace"


class Span:
    """A running span, or nothing if the tracer has raised. For one thread at a time."""

    __slots__ = ("_span",)

    def __init__(self, name: str, **attributes: Any) -> None:
        """Start the span ``parlant_sync.NAME`` as a child of the caller's current span."""
        self._span: Any = None
        try:
            tracer = sys.modules[OPENTELEMETRY].get_tracer("parlant_sync", __version__)
            self._span = tracer.start_span(f"parlant_sync.{name}", attributes=_named(attributes))
        except Exception:
            self._span = None

    def end(self, error: BaseException | None = None, **attributes: Any) -> None:
        """End the span, as failed if there is an ``error``. Idempotent."""
        span, self._span = self._span, None
        if span is None:
            return
        try:
            span.set_attributes(_named(attributes))
            if error is not None:
                trace = sys.modules[OPENTELEMETRY]
                # The type alone: the text of an error may quote a message.
                span.set_status(trace.Status(trace.StatusCode.ERROR, type(error).__name__))
                span.set_attribute("error.type", type(error).__name__)
            span.end()
        except Exception:
            return


def _named(attributes: dict[str, Any]) -> dict[str, Any]:
    return {f"parlant.{name}": value for name, value in attributes.items() if value is not None}
