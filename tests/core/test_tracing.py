"""Spans: one for each turn and each post, none without OpenTelemetry, and no failure of a tracer is anybody else's."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from parlant_sync import AgentError, Client, TurnTimeout
from parlant_sync._tracing import Span
from parlant_sync.testing import FakeServer


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The finished spans, by name."""
    trace = pytest.importorskip("opentelemetry.trace", reason="OpenTelemetry is in the extra 'otel'")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return lambda: {span.name.removeprefix("parlant_sync."): span for span in exporter.get_finished_spans()}


def test_a_turn_and_its_post(spans: Any, parlant_server: FakeServer, parlant_client: Client) -> None:
    parlant_server.agent("support").replies("a secret answer").with_tool("weather:get", {"city": "Oslo"}, result=12)
    session = parlant_client.create_session("support")
    reply = session.send("a secret question", key="k1")
    found = spans()
    assert dict(found["post"].attributes) == {
        "parlant.session_id": session.id,
        "parlant.key": "k1",
        "parlant.offset": reply.request.offset if reply.request else None,
    }
    assert dict(found["turn"].attributes) == {
        "parlant.session_id": session.id,
        "parlant.trace_id": reply.trace_id,
        "parlant.outcome": "answered",
        "parlant.tool_calls": 1,
    }
    assert "secret" not in "".join(span.to_json() for span in found.values())


@pytest.mark.parametrize(("script", "error"), [("fails", AgentError), ("ignores", TurnTimeout)])
def test_a_turn_that_fails(
    spans: Any, parlant_server: FakeServer, parlant_client: Client, script: str, error: type[Exception]
) -> None:
    getattr(parlant_server.agent("support"), script)()
    with pytest.raises(error):
        parlant_client.create_session("support").send("Hi", timeout=0.3 if error is TurnTimeout else 10)
    turn = spans()["turn"]
    assert not turn.status.is_ok
    assert turn.attributes["error.type"] == error.__name__


def test_a_turn_that_is_left(spans: Any, parlant_server: FakeServer, parlant_client: Client) -> None:
    parlant_server.agent("support").ignores()
    with parlant_client.create_session("support").stream("Hi"):
        pass
    assert "turn" in spans()


def test_without_opentelemetry_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "opentelemetry.trace", raising=False)
    span = Span("turn", session_id="s")
    span.end(outcome="answered")
    assert "opentelemetry.trace" not in sys.modules


def test_a_tracer_that_raises_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise RuntimeError("exporter is gone")

    monkeypatch.setitem(sys.modules, "opentelemetry.trace", SimpleNamespace(get_tracer=broken))  # type: ignore[arg-type]
    Span("turn").end()
    late = SimpleNamespace(start_span=lambda *_, **__: SimpleNamespace(set_attributes=broken))
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", SimpleNamespace(get_tracer=lambda *_: late))  # type: ignore[arg-type]
    Span("turn").end(RuntimeError("x"))
