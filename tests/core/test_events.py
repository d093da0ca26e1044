"""Values: frozen, tolerant, cheap."""

from __future__ import annotations

import copy
import pickle
from datetime import datetime, timezone

import pytest

from parlant_sync.events import Event, Reply, read_agent, read_events, read_session, select

RAW = {
    "id": "e1",
    "offset": 4,
    "kind": "message",
    "source": "ai_agent",
    "trace_id": "t",
    "creation_utc": "2026-11-22T08:32:08.461227Z",
    "data": {"message": "hi", "participant": {"id": "a", "display_name": "A"}, "tags": ["__preamble__"]},
    "metadata": {"k": 1},
    "brand_new": True,
}


def test_readings() -> None:
    event = Event(RAW)
    assert (event.id, event.offset, event.kind, event.source, event.trace_id) == ("e1", 4, "message", "ai_agent", "t")
    assert event.created == datetime(2026, 11, 22, 8, 32, 8, 461227, tzinfo=timezone.utc)
    assert event.message == "hi"
    assert event.is_preamble
    assert event.participant["display_name"] == "A"
    assert event.metadata == {"k": 1}
    assert event.status is None
    assert event.stage is None
    assert event.raw["brand_new"] is True
    assert not event.is_partial


def test_a_time_without_a_zone_can_be_compared_with_the_others() -> None:
    created = Event({"offset": 0, "creation_utc": "2026-11-22T08:32:08.461227"}).created
    assert created == datetime(2026, 11, 22, 8, 32, 8, 461227, tzinfo=timezone.utc)


def test_status_stage_and_error() -> None:
    ready = Event({"offset": 1, "kind": "status", "data": {"status": "ready", "data": {"stage": "completed"}}})
    assert (ready.status, ready.stage, ready.message) == ("ready", "completed", None)
    error = Event({"offset": 1, "kind": "status", "data": {"status": "error", "data": {"exception": "boom"}}})
    assert error.error_detail == "boom"
    assert ready.error_detail == ""


def test_tool_calls() -> None:
    calls = [{"tool_id": "t", "arguments": {}, "result": {"data": 1}}]
    assert Event({"offset": 0, "kind": "tool", "data": {"tool_calls": [*calls, "rubbish"]}}).tool_calls == calls
    assert Event({"offset": 0, "kind": "message", "data": {"tool_calls": calls}}).tool_calls == []


@pytest.mark.parametrize(
    ("chunks", "partial"), [(["a"], True), ([], True), (["a", None], False), (None, False), ("x", False)]
)
def test_partial(chunks: object, partial: bool) -> None:
    assert Event({"offset": 0, "kind": "message", "data": {"message": "a", "chunks": chunks}}).is_partial is partial


@pytest.mark.parametrize("data", [None, [], "text", 3, {"status": 5, "data": "x"}, {"message": {}, "tags": 1}])
def test_no_reading_raises_whatever_the_data(data: object) -> None:
    for kind in ("message", "status", "tool", "custom", "hologram", 7, None):
        event = Event({"offset": 0, "kind": kind, "data": data, "metadata": data, "creation_utc": data, "source": 1})
        for name in ("message status stage participant is_preamble is_partial tool_calls created").split():
            getattr(event, name)
        assert event.source == ""
        assert isinstance(repr(event), str)


def test_frozen_pickled_compared() -> None:
    event = Event(RAW)
    with pytest.raises(AttributeError, match="frozen"):
        event.offset = 5  # type: ignore[misc]
    with pytest.raises(AttributeError, match="frozen"):
        del event.raw
    again = pickle.loads(pickle.dumps(event))
    assert again == event == copy.copy(event)
    assert hash(again) == hash(event)
    assert event != Event({**RAW, "offset": 5})


@pytest.mark.parametrize("raw", [{}, {"offset": "1"}, {"offset": True}, {"offset": 1.0}, [], "x", None])
def test_an_event_needs_an_offset(raw: object) -> None:
    with pytest.raises(ValueError, match="offset"):
        Event(raw)  # type: ignore[arg-type]


def test_lists_are_put_in_order_once() -> None:
    value = [{"offset": 3}, {"offset": 1}, {"offset": 3, "grown": True}, {"offset": 9}]
    events = read_events(value)
    assert [e.offset for e in events] == [1, 3, 9]
    assert events[1].raw["grown"]
    with pytest.raises(ValueError, match="list"):
        read_events({"detail": "no"})


def test_sessions_and_agents() -> None:
    info = read_session({"id": "s", "agent_id": "a", "labels": ["b", "a"], "metadata": None})
    assert (info.id, info.agent_id, info.labels, info.metadata, info.mode) == ("s", "a", ("a", "b"), {}, "auto")
    assert read_agent({"id": "a"}).name == "a"
    for bad in ({}, {"id": 3}, {"id": ""}, []):
        with pytest.raises(ValueError, match="with an id"):
            read_session(bad)


def test_select() -> None:
    events = [Event({"offset": i, "kind": k, "source": s}) for i, (k, s) in enumerate([("a", "x"), ("b", "x")])]
    assert select(events, None, None) == events
    assert select(events, frozenset({"b"}), None) == events[1:]
    assert select(events, None, frozenset({"y"})) == []


def test_reply_is_its_text() -> None:
    reply = Reply("words", "answered", events=(Event(RAW),))
    assert str(reply) == "words"
    assert pickle.loads(pickle.dumps(reply)) == reply
    with pytest.raises(AttributeError):
        reply.text = "x"  # type: ignore[misc]
