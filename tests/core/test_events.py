"""Values: frozen, tolerant, cheap."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import pickle
from datetime import datetime, timezone
from typing import Any

import pytest

from parlant_sync import ClientStats, ServerInfo, SessionHealth
from parlant_sync.events import Event, Reply, ServerAbilities, read_agent, read_events, read_session, select

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
        for name in "message status stage participant is_preamble is_partial tool_calls created flagged".split():
            getattr(event, name)
        assert (event.source, event.moderation_tags) == ("", ())
        assert isinstance(repr(event), str)
        assert isinstance(event._repr_markdown_(), str)
        assert json.loads(json.dumps(event.to_dict()))["data"] == data


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


def message(source: str = "customer", kind: str = "message", **data: object) -> Event:
    return Event({"offset": 0, "kind": kind, "source": source, "data": {"message": "m", **data}})


def test_what_the_moderation_reported() -> None:
    bad = message(flagged=True, tags=["jailbreak", 5])
    assert (bad.flagged, bad.moderation_tags) == (True, ("jailbreak",))
    assert message(flagged=True, groups=["hate"]).moderation_tags == ("hate",)  # 4.0
    for other in (message(flagged=False), message(), message("ai_agent", flagged=True, tags=["x"])):
        assert (other.flagged, other.moderation_tags) == (False, ())


@pytest.mark.parametrize("field", ["tags", "groups"])
def test_preambles_of_all_versions(field: str) -> None:
    assert message("ai_agent", **{field: ["__preamble__"]}).is_preamble
    assert not message("ai_agent", **{field: ["other"]}).is_preamble


VALUES = [
    Event(RAW),
    Reply("words " * 100, "answered", (Event(RAW),), matched_guidelines=("g",), request=Event(RAW), duration=1.25),
    read_session({"id": "s", "agent_id": "a", "title": "t", "creation_utc": RAW["creation_utc"], "metadata": {"a": 1}}),
    read_agent({"id": "a", "name": "n"}),
    ServerInfo("3.3", True, 0.01),
    ClientStats(1, 2, 3, 4, 5, 6, 7, 8, 9.5),
    SessionHealth("polling", Event(RAW).created, 0, None, 1, 2, 3),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_print_shortly_and_become_json(value: Any) -> None:
    assert len(repr(value)) < 200
    assert "\n" not in repr(value)
    plain = json.loads(json.dumps(value.to_dict()))
    for name in set(plain) - {"created", "last_poll", "messages", "events", "request", "labels", "tool_calls"}:
        assert plain[name] == json.loads(json.dumps(getattr(value, name))), name


def test_reprs_and_dicts() -> None:
    session, event, reply = VALUES[2], VALUES[0], VALUES[1]
    assert repr(event) == "<Event 4 08:32:08 ai_agent message: 'hi'>"
    assert repr(reply).startswith("<Reply answered in 1.2 s: 'words words")
    assert event.to_dict() == {
        **{name: RAW[name] for name in ("id", "offset", "kind", "source", "trace_id", "data", "metadata")},
        "created": "2026-11-22T08:32:08.461227+00:00",
    }
    assert reply.to_dict()["messages"] == [event.to_dict()]
    assert reply.to_dict()["request"] == event.to_dict()
    assert session.to_dict()["created"] == "2026-11-22T08:32:08.461227+00:00"
    assert repr(session) == "<SessionInfo 's' 't' of agent 'a', 2026-11-22 08:32>"


def test_notebooks_show_markdown() -> None:
    assert Reply("**bold**", "answered")._repr_markdown_() == "**bold**"
    assert Reply("", "empty")._repr_markdown_() == "*(empty)*"
    assert Event(RAW)._repr_markdown_() == "**A:** hi"
    assert message("human_agent_on_behalf_of_ai_agent")._repr_markdown_() == (
        r"**human\_agent\_on\_behalf\_of\_ai\_agent:** m"
    )
    ready = Event({"offset": 1, "kind": "status", "source": "ai_agent", "data": {"status": "ready"}})
    assert ready._repr_markdown_() == r"*ai\_agent: ready*"
    assert "```json\n{" in message(kind="custom")._repr_markdown_()
    assert "````json" in message(kind="custom", text="```")._repr_markdown_()


@pytest.mark.parametrize(
    ("fields", "version"),
    [("", "3.0"), ("metadata", "3.1"), ("metadata labels", "3.2 or 3.3"), ("metadata labels modified_utc", "4.0")],
)
def test_a_server_is_recognised_by_the_fields_of_its_sessions(fields: str, version: str) -> None:
    found = ServerAbilities.of({"id": "s", **dict.fromkeys(fields.split())})
    assert found.version.startswith(version)
    known = {name for name, field in [("metadata", found.metadata), ("labels", found.labels)] if field}
    assert known == set(fields.split()) - {"modified_utc"}
    assert found.cancel is ("modified_utc" in fields)


@pytest.mark.parametrize("offset", [-1, 2**53, 10**400, True, 1.0])
def test_offsets_that_no_log_reaches(offset: object) -> None:
    """The next poll would ask from there on, and never see an event again."""
    with pytest.raises(ValueError, match="offset"):
        Event({"offset": offset})


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "0000", "x" * 10_000])
def test_dates_at_the_ends_of_the_calendar(text: str) -> None:
    assert Event({"offset": 0, "creation_utc": text}).created is None


SERVER = {"version": "3.3.2", "healthy": True, "latency": 0.1}


def test_values_are_dataclasses() -> None:
    """What ``dataclass(frozen=True)`` gives, at half of its cost at import."""
    whole = dataclasses.make_dataclass("ServerInfo", SERVER, frozen=True)
    same = whole(**SERVER)
    info = ServerInfo("3.3.2", True, latency=0.1)
    assert list(inspect.signature(ServerInfo).parameters) == list(inspect.signature(whole).parameters)
    assert repr(info) == repr(same)
    assert hash(info) == hash(same)
    assert info == ServerInfo(**SERVER)
    assert info != same
    assert dataclasses.asdict(info) == SERVER
    assert dataclasses.replace(info, healthy=False) == ServerInfo("3.3.2", False, 0.1)
    assert pickle.loads(pickle.dumps(info)) == copy.deepcopy(info) == info
    match info:
        case ServerInfo(version, healthy, latency):
            assert (version, healthy, latency) == ("3.3.2", True, 0.1)
    for change in (lambda: setattr(info, "latency", 1), lambda: delattr(info, "latency")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            change()
    assert info.latency == 0.1


def test_fields_with_what_cannot_be_hashed_do_not_count() -> None:
    raw = {"id": "a"}
    assert hash(read_agent(raw)) == hash(read_agent({**raw, "more": []}))
    assert read_agent(raw) != read_agent({**raw, "more": []})


@pytest.mark.parametrize(
    ("args", "given"),
    [
        ((), {}),
        (("3.3.2", True), {}),
        (("3.3.2", True, 0.1, 1), {}),
        (("3.3.2", True, 0.1), {"latency": 0.1}),
        (("3.3.2", True), {"latency": 0.1, "other": 1}),
    ],
)
def test_values_have_exactly_their_fields(args: tuple[Any, ...], given: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        ServerInfo(*args, **given)


def test_a_value_can_be_inherited_from() -> None:
    @dataclasses.dataclass(frozen=True)
    class Rated(Reply):
        stars: int = 0

    rated = Rated("hi", "answered", stars=5)
    assert (rated.text, rated.messages, rated.stars) == ("hi", (), 5)
    assert rated == Rated("hi", "answered", stars=5) != Rated("hi", "answered")
