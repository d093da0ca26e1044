"""The turn machine against what long polls saw on four server versions, and against the corners they did not show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from parlant_sync._turns.tracker import TurnTracker
from parlant_sync.events import Event, read_events

TRACES = Path(__file__).parents[1] / "traces"
THREE_PARTS = "echo: three parts word word word word word word word word word word word word "

# Per recording: for each customer message (None: the greeting) its offset, the reply's messages, the outcome, and the
# offset of the event that ended the turn.
Expected = list[tuple[int | None, list[str], str, int]]
SIMPLE: Expected = [(0, ["echo: hello"], "answered", 9)]
EXPECTED: dict[str, Expected] = {
    "3.0.4/engine_error": [(0, [], "error", 3)],
    "3.0.4/greeting": [(None, ["echo: (greeting)"], "answered", 8)],
    "3.0.4/interrupted": [(0, ["echo: now"], "answered", 10), (2, ["echo: now"], "answered", 19)],
    "3.0.4/interrupted_at_once": [(0, ["echo: second"], "answered", 14), (2, ["echo: second"], "answered", 14)],
    "3.0.4/interrupted_in_follow_up": [
        (0, [THREE_PARTS, "second part", "third part"], "answered", 16),
        (10, ["echo: now"], "answered", 25),
    ],
    "3.0.4/manual_human": [(0, ["Dana here."], "human", 1)],
    "3.0.4/no_preamble": SIMPLE,
    "3.0.4/second_turn": [(0, ["echo: hello"], "answered", 9), (10, ["echo: again"], "answered", 19)],
    "3.0.4/silent": [(0, [], "empty", 7)],
    "3.0.4/simple": SIMPLE,
    "3.0.4/two_messages": [(0, ["echo: two", "second part"], "answered", 12)],
    "3.1.2/engine_error": [(0, [], "error", 3)],
    "3.1.2/greeting": [(None, ["echo: (greeting)"], "answered", 8)],
    "3.1.2/interrupted": [(0, ["echo: now"], "answered", 10), (2, ["echo: now"], "answered", 19)],
    "3.1.2/interrupted_at_once": [(0, ["echo: second"], "answered", 14), (2, ["echo: second"], "answered", 14)],
    "3.1.2/interrupted_in_follow_up": [
        (0, [THREE_PARTS, "second part", "third part"], "answered", 16),
        (10, ["echo: now"], "answered", 25),
    ],
    "3.1.2/manual_human": [(0, ["Dana here."], "human", 1)],
    "3.1.2/no_preamble": [(0, ["echo: hello"], "answered", 5)],
    "3.1.2/second_turn": [(0, ["echo: hello"], "answered", 9), (10, ["echo: again"], "answered", 19)],
    "3.1.2/silent": [(0, [], "empty", 9)],
    "3.1.2/simple": SIMPLE,
    "3.1.2/two_messages": [(0, ["echo: two", "second part"], "answered", 12)],
    "3.2.2/engine_error": [(0, [], "error", 3)],
    "3.2.2/greeting": [(None, ["echo: (greeting)"], "answered", 8)],
    "3.2.2/interrupted": [(0, ["echo: now"], "answered", 16), (2, ["echo: now"], "answered", 16)],
    "3.2.2/interrupted_at_once": [(0, ["echo: second"], "answered", 13), (2, ["echo: second"], "answered", 13)],
    "3.2.2/interrupted_in_follow_up": [(0, ["echo: now"], "answered", 15), (7, ["echo: now"], "answered", 15)],
    "3.2.2/manual_human": [(0, ["Dana here."], "human", 1)],
    "3.2.2/no_preamble": [(0, ["echo: hello"], "answered", 6)],
    "3.2.2/second_turn": [(0, ["echo: hello"], "answered", 9), (10, ["echo: again"], "answered", 19)],
    "3.2.2/silent": [(0, [], "empty", 9)],
    "3.2.2/simple": SIMPLE,
    "3.2.2/streaming": [(0, ["streamed echo of: a b c d e "], "answered", 6)],
    "3.2.2/streaming_with_preamble": [(0, ["streamed echo of: a b c "], "answered", 9)],
    "3.2.2/two_messages": [(0, ["echo: two", "second part"], "answered", 12)],
    "3.3.2/engine_error": [(0, [], "error", 3)],
    "3.3.2/greeting": [(None, ["echo: (greeting)"], "answered", 8)],
    "3.3.2/interrupted": [(0, ["echo: now"], "answered", 16), (2, ["echo: now"], "answered", 16)],
    "3.3.2/interrupted_at_once": [(0, ["echo: second"], "answered", 17), (2, ["echo: second"], "answered", 17)],
    "3.3.2/interrupted_in_follow_up": [
        (0, [THREE_PARTS, "second part", "third part"], "answered", 16),
        (10, ["echo: now"], "answered", 25),
    ],
    "3.3.2/manual_human": [(0, ["Dana here."], "human", 1)],
    "3.3.2/no_preamble": [(0, ["echo: hello"], "answered", 6)],
    "3.3.2/second_turn": [(0, ["echo: hello"], "answered", 9), (10, ["echo: again"], "answered", 19)],
    "3.3.2/silent": [(0, [], "empty", 9)],
    "3.3.2/simple": SIMPLE,
    "3.3.2/streaming": [(0, ["streamed echo of: a b c d e "], "answered", 6)],
    "3.3.2/streaming_with_preamble": [(0, ["streamed echo of: a b c "], "answered", 9)],
    "3.3.2/two_messages": [(0, ["echo: two", "second part"], "answered", 12)],
}


def test_every_recording_is_expected() -> None:
    recorded = {str(path.relative_to(TRACES).with_suffix("")) for path in TRACES.glob("*/*.json")}
    assert recorded >= set(EXPECTED)  # the rest of the recordings is for the new turn rule


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_recording(name: str) -> None:
    events = read_events(json.loads((TRACES / f"{name}.json").read_text())["final"])
    for offset, texts, outcome, last in EXPECTED[name]:
        request = next((e for e in events if e.offset == offset), None)
        tracker = TurnTracker(request)
        ended = None
        for event in events:
            if offset is None or event.offset > offset:
                tracker.feed(event)
                if tracker.over and ended is None:
                    ended = event.offset
        assert ended == last
        said = [e.message for e in tracker.events if e.kind == "message" and not e.is_preamble]
        assert said == texts
        found = "human" if tracker.human else "error" if tracker.error else "answered" if said else "empty"
        assert found == outcome


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_only_unusual_ends_are_looked_at_again(name: str) -> None:
    """A turn that ended in the usual way costs nobody a second look; one without an answer does."""
    events = read_events(json.loads((TRACES / f"{name}.json").read_text())["final"])
    for offset, _, outcome, last in EXPECTED[name]:
        tracker = TurnTracker(next((e for e in events if e.offset == offset), None))
        for event in events:
            if (offset is None or event.offset > offset) and event.offset <= last:
                tracker.feed(event)
        assert tracker.looks_unfinished == (outcome in ("empty", "error"))


class Script:
    """Writes events in the way servers do, offsets and all."""

    def __init__(self) -> None:
        self.offset = -1

    def event(self, kind: str, data: dict[str, Any], trace: str, source: str = "ai_agent") -> Event:
        self.offset += 1
        raw = {"id": f"e{self.offset}", "offset": self.offset, "kind": kind, "source": source, "trace_id": trace}
        return Event({**raw, "data": data})

    def status(self, status: str, trace: str, **data: Any) -> Event:
        return self.event("status", {"status": status, "data": data}, trace)

    def says(self, text: str, trace: str, **data: Any) -> Event:
        return self.event("message", {"message": text, **data}, trace)

    def customer(self, text: str, trace: str = "<main>") -> Event:
        return self.event("message", {"message": text}, trace, "customer")

    def human(self, text: str) -> Event:
        return self.event("message", {"message": text}, "<main>", "human_agent")


def feed(tracker: TurnTracker, *events: Event) -> list[bool]:
    return [tracker.feed(event) for event in events]


def test_another_trace_is_never_of_the_turn() -> None:
    s = Script()
    tracker = TurnTracker(s.customer("q", trace="own"))
    taken = feed(
        tracker,
        s.says("late words of the turn before", "old"),
        s.status("ready", "old", stage="completed"),
        s.status("acknowledged", "own::process"),
        s.says("dribble", "old"),
        s.says("answer", "own::process"),
        s.status("ready", "own::process"),
        s.status("ready", "own::process"),
    )
    assert taken == [False, False, True, False, True, True, True]
    assert tracker.over
    assert [e.message for e in tracker.events if e.message] == ["answer"]


def test_own_trace_waits_for_its_own_beginning() -> None:
    s = Script()
    tracker = TurnTracker(s.customer("q", trace="own"))
    assert feed(tracker, s.status("acknowledged", "other")) == [False]
    assert tracker.trace is None
    # ... unless a newer message has come, whose turn answers both.
    assert feed(tracker, s.customer("newer", trace="own2"), s.status("acknowledged", "own2")) == [False, True]
    assert tracker.trace == "own2"


def test_a_turn_that_just_stops_is_left_for_the_next() -> None:
    """3.0 stops a turn between its messages without a word."""
    s = Script()
    tracker = TurnTracker(s.customer("q"))
    feed(tracker, s.status("acknowledged", "t1"), s.says("first half", "t1"), s.status("ready", "t1"))
    feed(tracker, s.customer("newer"), s.status("acknowledged", "t2"), s.says("to both", "t2"))
    feed(tracker, s.status("ready", "t2"), s.status("ready", "t2", stage="completed"))
    assert tracker.over
    assert tracker.restarts == 1
    assert [e.message for e in tracker.events if e.message] == ["to both"]


def test_a_trace_once_left_stays_left() -> None:
    s = Script()
    tracker = TurnTracker(s.customer("q"))
    feed(tracker, s.status("acknowledged", "t1"), s.status("cancelled", "t1"))
    feed(tracker, s.status("acknowledged", "t1"), s.says("ghost", "t1"), s.status("ready", "t1", stage="completed"))
    assert not tracker.over
    feed(tracker, s.status("acknowledged", "t2"), s.status("ready", "t2", stage="completed"))
    assert tracker.over
    assert not [e for e in tracker.events if e.message]


def test_an_error_of_a_left_turn_does_not_leak() -> None:
    s = Script()
    tracker = TurnTracker(s.customer("q"))
    feed(tracker, s.status("error", "before"), s.status("acknowledged", "t1"), s.status("error", "before"))
    assert tracker.error is None
    assert not tracker.over


def test_an_error_alone_ends_the_turn() -> None:
    """The unreleased 4.0 branch sends nothing else."""
    s = Script()
    tracker = TurnTracker(s.customer("q"))
    feed(tracker, s.status("acknowledged", "t1"), s.status("error", "t1", exception="boom"))
    assert tracker.over
    assert tracker.error is not None
    assert tracker.error.error_detail == "boom"


def test_a_stream_that_broke_looks_unfinished() -> None:
    s = Script()
    tracker = TurnTracker(s.customer("q"))
    feed(tracker, s.status("acknowledged", "t1"), s.says("half", "t1", chunks=["half", None]))
    feed(tracker, s.status("ready", "t1", stage="completed"))
    assert tracker.over
    assert tracker.looks_unfinished
    assert feed(tracker, s.status("error", "t1", exception="broke")) == [True]
    assert tracker.error is not None


def test_a_human_answers_only_while_no_agent_does() -> None:
    s = Script()
    tracker = TurnTracker(s.customer("q"))
    feed(tracker, s.status("acknowledged", "t1"))
    assert feed(tracker, s.human("meanwhile")) == [False]
    feed(tracker, s.status("cancelled", "t1"))
    assert feed(tracker, s.human("now me")) == [True]
    assert tracker.over
    assert tracker.human is not None
    assert tracker.human.message == "now me"


def test_a_triggered_turn_is_told_by_its_trace() -> None:
    s = Script()
    tracker = TurnTracker(trace="t1")
    feed(tracker, s.status("typing", "t1"), s.says("proactive", "t1"), s.status("ready", "t1"))
    assert not tracker.over
    feed(tracker, s.status("ready", "t1", stage="completed"))
    assert tracker.over
    assert not tracker.looks_unfinished


def test_unknown_things_are_tolerated() -> None:
    s = Script()
    tracker = TurnTracker(s.customer("q"))
    feed(
        tracker,
        s.status("acknowledged", "t1"),
        s.event("hologram", {"x": 1}, "t1"),
        s.event("status", {"status": "ready", "cost_control": {}, "data": None}, "t2"),
        s.event("status", {}, "t1"),
        s.says("answer", "t1"),
        s.event("status", {"status": "ready", "data": {"cost_control": {}}}, "t1"),
        s.event("status", {"status": "ready"}, "t1"),
    )
    assert tracker.over
    assert [e.message for e in tracker.events if e.message] == ["answer"]
