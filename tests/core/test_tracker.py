"""When a turn is over, in cases that the recordings do not show."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from parlant_sync._turns.tracker import EMPTY_QUIET, HOOK_QUIET, TOOL_QUIET, TurnFacts, TurnTracker, matched
from parlant_sync.events import Event

BEGAN = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Script:
    """Writes events in the way servers do, offsets and all."""

    def __init__(self) -> None:
        self.offset = -1

    def event(
        self, kind: str, data: dict[str, Any], trace: str, source: str = "ai_agent", at: float | None = None
    ) -> Event:
        self.offset += 1
        raw = {"id": f"e{self.offset}", "offset": self.offset, "kind": kind, "source": source, "trace_id": trace}
        if at is not None:
            raw["creation_utc"] = (BEGAN + timedelta(seconds=at)).isoformat()
        return Event({**raw, "data": data})

    def status(self, status: str, trace: str, **data: Any) -> Event:
        return self.event("status", {"status": status, "data": data}, trace)

    def says(self, text: str, trace: str, **data: Any) -> Event:
        return self.event("message", {"message": text, **data}, trace)

    def customer(self, text: str, trace: str = "<main>") -> Event:
        return self.event("message", {"message": text}, trace, "customer")

    def human(self, text: str) -> Event:
        return self.event("message", {"message": text}, "<main>", "human_agent")


def said(tracker: TurnTracker) -> list[str | None]:
    return [e.message for e in tracker.events if e.kind == "message"]


def feed(tracker: TurnTracker, *events: Event) -> list[bool]:
    """Which of them are of the turn."""
    return [tracker.feed(event) is not None for event in events]


def test_own_trace_waits_for_its_own_beginning() -> None:
    s = Script()
    tracker = TurnTracker(s.customer("q", trace="own"))
    assert feed(tracker, s.status("acknowledged", "other")) == [False]
    assert tracker.trace is None
    # ... unless a newer message has come, whose turn answers both.
    assert feed(tracker, s.customer("newer", trace="own2"), s.status("acknowledged", "own2")) == [False, True]
    assert tracker.trace == "own2"


def test_a_trace_once_left_stays_left() -> None:
    s = Script()
    tracker = TurnTracker(s.customer("q"))
    feed(tracker, s.status("acknowledged", "t1"), s.customer("newer"), s.status("cancelled", "t1"))
    feed(tracker, s.status("acknowledged", "t1"), s.says("ghost", "t1"), s.status("ready", "t1", stage="completed"))
    assert not tracker.over
    feed(tracker, s.status("acknowledged", "t2"), s.status("ready", "t2", stage="completed"))
    assert tracker.over
    assert not [e for e in tracker.events if e.message]


@pytest.mark.parametrize("said", [True, False])
def test_after_its_end_only_the_engines_error_is_of_a_turn(said: bool) -> None:
    """It may follow if nothing was said, or if the agent meant to say more."""
    s = Script()
    tracker = TurnTracker(s.customer("q"))
    said_before = [s.says("one", "t1"), s.status("typing", "t1")] if said else []
    feed(tracker, s.status("acknowledged", "t1"), *said_before, s.status("ready", "t1", stage="completed"))
    assert (tracker.over, tracker.looks_done) == (True, False)
    late = [s.status("typing", "t1", exception="none"), s.status("error", "other", exception="another's")]
    late += [s.status("error", "t1", exception="boom"), s.status("error", "t1", exception="again")]
    assert feed(tracker, *late) == [False, False, True, False]
    assert tracker.error is not None
    assert tracker.error.error_detail == "boom"


def test_a_human_answers_only_while_no_agent_does() -> None:
    s = Script()
    tracker = TurnTracker(s.customer("q"))
    feed(tracker, s.status("acknowledged", "t1"))
    assert feed(tracker, s.human("meanwhile")) == [False]
    feed(tracker, s.customer("newer"), s.status("cancelled", "t1"))
    assert feed(tracker, s.human("now me")) == [True]
    assert tracker.over
    assert tracker.human is not None
    assert tracker.human.message == "now me"


def test_the_turn_of_a_message_runs_beside_a_triggered_turn() -> None:
    s = Script()
    tracker = TurnTracker(trace="t1")
    feed(tracker, s.status("typing", "t1"), s.customer("q"), s.status("acknowledged", "t2"), s.says("to q", "t2"))
    feed(tracker, s.says("proactive", "t1"), s.status("ready", "t1", stage="completed"))
    assert (tracker.over, said(tracker)) == (True, ["proactive"])


@pytest.mark.parametrize("staged", [True, False])
@pytest.mark.parametrize("next_begins", [True, False])
def test_a_message_may_meet_the_beginning_of_an_older_ones_turn(staged: bool, next_begins: bool) -> None:
    """Recorded on 3.1.2: two messages at once, and then both turns, of which the first is cancelled for the second."""
    s = Script()
    tracker = TurnTracker(s.customer("second"), TurnFacts(staged, fluid=True))
    feed(tracker, s.status("acknowledged", "t1"), s.says("to the first", "t1"), s.status("cancelled", "t1"))
    feed(tracker, s.status("ready", "t1", **({"stage": "completed"} if staged else {})))
    assert (tracker.over, tracker.quiet_for) == (False, EMPTY_QUIET)
    if next_begins:
        feed(tracker, s.status("acknowledged", "t2"), s.status("typing", "t2"), s.says("answer", "t2"))
        assert (said(tracker), tracker.trace, tracker.restarts) == (["answer"], "t2", 1)
    else:
        tracker.end_quiet()
    assert (tracker.cancelled, tracker.over) == (not next_begins, not next_begins)


def test_unknown_things_are_tolerated() -> None:
    s = Script()
    tracker = TurnTracker(s.customer("q"))
    feed(
        tracker,
        s.status("acknowledged", "t1"),
        s.event("hologram", {"x": 1}, "t1"),
        s.event("status", {"status": "ready", "cost_control": {}, "data": None}, "t2"),
        s.event("status", {}, "t1"),
        s.status("typing", "t1"),
        s.says("answer", "t1"),
        s.event("status", {"status": "ready", "data": {"cost_control": {}}}, "t1"),
        s.event("status", {"status": "ready", "data": {"stage": "completed", "new": 1}}, "t1"),
    )
    assert tracker.refusal is None
    assert tracker.over
    assert said(tracker) == ["answer"]


@pytest.mark.parametrize("bare_errors", [True, False])
@pytest.mark.parametrize(("data", "engine"), [({}, True), ({"data": None}, False)], ids=["no data", "null"])
def test_without_data_an_error_is_the_engines_on_4_0_only(bare_errors: bool, data: Any, engine: bool) -> None:
    """A tool that calls ``emit_status("error")`` sends null as data. On 3.x, all such errors are a tool's."""
    s = Script()
    tracker = TurnTracker(s.customer("q"), TurnFacts(bare_errors=bare_errors))
    feed(tracker, s.status("acknowledged", "t1"), s.event("status", {"status": "error", **data}, "t1"))
    assert tracker.over == (bare_errors and engine)


@pytest.mark.parametrize("fluid", [True, False, None])
def test_a_ready_of_a_tool_is_not_the_end_before_3_2(fluid: bool | None) -> None:
    """Seen on 3.0.4 and 3.1.2 with ``emit_status("ready")``: it looks like the engine's, but comes while tools run."""
    s = Script()
    tracker = TurnTracker(s.customer("q"), TurnFacts(staged=False, fluid=fluid))
    feed(tracker, s.status("acknowledged", "t1"), s.status("ready", "t1"))
    feed(
        tracker, s.status("processing", "t1", stage="Interpreting"), s.status("processing", "t1", stage="Fetching data")
    )
    feed(tracker, s.status("ready", "t1"))
    # The same events, if the engine then called no tool, and the agent had nothing to say.
    assert (tracker.over, tracker.quiet_for) == (False, TOOL_QUIET)
    feed(tracker, s.event("tool", {"tool_calls": []}, "t1"))
    assert tracker.quiet_for is None
    feed(tracker, s.status("typing", "t1"), s.says("answer", "t1"), s.status("ready", "t1"))
    assert (tracker.over, tracker.quiet_for) == (fluid is True, EMPTY_QUIET if fluid is None else None)
    feed(tracker, s.status("ready", "t1"))
    assert tracker.over


def test_the_ready_of_a_preamble_is_never_the_end() -> None:
    s = Script()
    tracker = TurnTracker(s.customer("q"), TurnFacts(staged=False))
    feed(tracker, s.status("acknowledged", "t1"), s.says("Hmm", "t1", tags=["__preamble__"]), s.status("ready", "t1"))
    assert (tracker.over, tracker.quiet_for) == (False, None)


def test_a_ready_after_the_tools_results_is_the_engines() -> None:
    """Before 3.2, the engine reports nothing between the tools' results and the end of a turn without a message."""
    s = Script()
    tracker = TurnTracker(s.customer("q"), TurnFacts(staged=False, fluid=False))
    feed(tracker, s.status("acknowledged", "t1"), s.status("processing", "t1", stage="Interpreting"))
    feed(tracker, s.status("processing", "t1", stage="Fetching data"), s.event("tool", {"tool_calls": []}, "t1"))
    feed(tracker, s.status("ready", "t1"))
    assert tracker.over


@pytest.mark.parametrize("speaker", ["hook", "tool"])
def test_a_turn_in_which_only_a_hook_or_a_tool_spoke_ends_before_3_2(speaker: str) -> None:
    """Recorded with strict agents on 3.0.4 and 3.1.2: one bare ``ready`` ends it, and no message is right before it."""
    s = Script()
    tracker = TurnTracker(s.customer("q"), TurnFacts(staged=False, fluid=False))
    feed(tracker, s.status("acknowledged", "t1"))
    if speaker == "tool":
        feed(tracker, s.status("processing", "t1", stage="Fetching data"))
    feed(tracker, s.says("spoken", "t1"), s.status("processing", "t1", stage="Articulating"), s.status("ready", "t1"))
    assert tracker.quiet_for == EMPTY_QUIET


@pytest.mark.parametrize("data", [{}, {"message": "down"}])
def test_a_tools_error_is_only_an_event(data: dict[str, Any]) -> None:
    s = Script()
    tracker = TurnTracker(s.customer("q"))
    feed(tracker, s.status("acknowledged", "t1"), s.status("processing", "t1"), s.status("error", "t1", **data))
    assert not tracker.over
    feed(tracker, s.says("answer", "t1"), s.status("ready", "t1", stage="completed"), s.status("error", "t1", **data))
    assert (tracker.over, tracker.error, said(tracker)) == (True, None, ["answer"])


@pytest.mark.parametrize("staged", [True, False])
def test_a_tools_ready_does_not_end_the_turn(staged: bool) -> None:
    s = Script()
    tracker = TurnTracker(s.customer("q"), TurnFacts(staged, fluid=True))
    feed(tracker, s.status("acknowledged", "t1"), s.status("processing", "t1", stage="Interpreting"))
    feed(tracker, s.status("ready", "t1", progress=50))
    assert (tracker.over, tracker.quiet_for) == (False, None)


def test_a_message_of_the_system_is_not_an_answer() -> None:
    s = Script()
    tracker = TurnTracker(s.customer("q"))
    feed(tracker, s.status("acknowledged", "t1"), s.status("processing", "t1"))
    feed(tracker, s.event("message", {"message": "summary"}, "t1", source="system"))
    feed(tracker, s.status("ready", "t1", stage="completed"))
    assert (tracker.over, tracker.looks_done) == (True, False)  # as an empty turn


def test_growing_reasoning_is_not_a_message() -> None:
    s = Script()
    tracker = TurnTracker(s.customer("q"), TurnFacts(staged=False, fluid=True))
    thinking = {"status": "processing", "message": "Thinking", "chunks": ["Think", "ing"]}
    feed(tracker, s.status("acknowledged", "t1"), s.event("status", thinking, "t1"), s.status("ready", "t1"))
    assert (tracker.over, tracker.quiet_for, said(tracker)) == (False, EMPTY_QUIET, [])


def greeted(s: Script) -> TurnTracker:
    tracker = TurnTracker(s.customer("q"))
    feed(tracker, s.event("status", {"status": "acknowledged", "data": {}}, "t1", at=0.0))
    feed(tracker, s.event("message", {"message": "hi"}, "t1", at=0.1))
    assert (tracker.over, tracker.quiet_for) == (False, HOOK_QUIET)
    return tracker


@pytest.mark.parametrize(("later", "over"), [(0.1 + HOOK_QUIET - 0.01, False), (0.1 + HOOK_QUIET, True)])
def test_a_later_event_of_the_server_proves_that_the_quiet_period_passed(later: float, over: bool) -> None:
    s = Script()
    tracker = greeted(s)
    assert feed(tracker, s.event("custom", {}, "t2", at=later)) == [False]
    assert (tracker.over, tracker.quiet_for is None) == (over, over)


def test_a_turn_that_a_hook_answered_is_not_left_for_the_next() -> None:
    s = Script()
    tracker = greeted(s)
    feed(tracker, s.customer("newer"), s.status("acknowledged", "t2"))
    assert (tracker.over, tracker.restarts, said(tracker)) == (True, 0, ["hi"])


def test_a_ready_that_may_be_the_end_is_left_for_the_next_turn_if_that_comes_soon() -> None:
    s = Script()
    tracker = TurnTracker(s.customer("q"), TurnFacts(staged=False, fluid=True))
    feed(tracker, s.status("acknowledged", "t1"), s.status("ready", "t1"))
    assert tracker.quiet_for == EMPTY_QUIET
    feed(tracker, s.customer("newer"), s.status("acknowledged", "t2"))
    assert (tracker.over, tracker.trace, tracker.quiet_for) == (False, "t2", None)


@pytest.mark.parametrize("newer_now", [True, False])
@pytest.mark.parametrize("own_traces", [True, False])
def test_a_turn_that_answers_newer_messages_and_is_stopped_is_over(own_traces: bool, newer_now: bool) -> None:
    """4.0: the trace of the turn, if messages have one, says which message is the last that it answers."""
    s = Script()
    a, b, c, d = "ABCD" if own_traces else ["<main>"] * 4
    tracker = TurnTracker(s.customer("a", a), TurnFacts(bare_errors=True))
    feed(tracker, s.status("acknowledged", "A"), s.customer("b", b))
    feed(tracker, *([s.customer("c", c)] if own_traces else []))
    feed(tracker, s.status("cancelled", "A"), s.status("acknowledged", "C"))
    feed(tracker, *([s.customer("d", d)] if newer_now else []))
    feed(tracker, s.status("cancelled", "C"))
    assert (tracker.over, tracker.cancelled) == (not newer_now, not newer_now)


def test_only_the_agent_begins_a_turn() -> None:
    """Clients can post status events, too. The trace of what they post is <main>, or one of its own."""
    s = Script()
    tracker, unannounced = TurnTracker(s.customer("q")), TurnTracker(unannounced=True)
    posted = s.event("status", {"status": "acknowledged"}, "X", "customer_ui"), s.status("acknowledged", "<main>")
    assert [feed(tracker, *posted), feed(unannounced, *posted)] == [[False, False]] * 2
    feed(unannounced, s.says("spoken", "t1"))
    assert unannounced.quiet_for is None  # not a hook's
    feed(unannounced, s.status("ready", "t1", stage="completed"))
    assert (unannounced.over, said(unannounced)) == (True, ["spoken"])


@pytest.mark.parametrize("unannounced", [True, False])
def test_a_triggered_turn_that_is_stopped_for_a_message_goes_on_as_that_message_s_turn(unannounced: bool) -> None:
    s = Script()
    tracker = TurnTracker(unannounced=True) if unannounced else TurnTracker(trace="t1")
    feed(tracker, s.status("typing", "t1"), s.customer("q"), s.status("cancelled", "t1"))
    assert feed(tracker, s.status("ready", "t1", stage="completed")) == [False]
    feed(tracker, s.status("acknowledged", "t2"), s.says("hi", "t2"))  # a hook's
    assert (tracker.trace, tracker.quiet_for) == ("t2", HOOK_QUIET)


def test_what_matched() -> None:
    s = Script()
    ids = [{"id": "g1"}, {"id": "g2"}, {"no": "id"}, "odd"]
    assert matched(s.status("ready", "t", matched_guidelines=ids)) == [("g1", "g2"), (), ()]
    assert matched(s.status("ready", "t", matched_journeys="odd", matched_journey_states=ids)) == [(), (), ("g1", "g2")]
    assert matched(s.status("ready", "t")) == matched(None) == [(), (), ()]
