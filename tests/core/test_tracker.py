"""The turn rule against recordings of five server versions, and against cases that they do not show."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from parlant_sync._turns.tracker import EMPTY_QUIET, HOOK_QUIET, TOOL_QUIET, TurnFacts, TurnTracker, matched
from parlant_sync.events import Event, read_events

TRACES = Path(__file__).parents[1] / "traces"
PARTS = ["echo: three parts word word word word word word word word word word word word ", "second part", "third part"]
STREAMED = "streamed echo of: one two three four five six"
SORRY = "Not sure I understand. Could you please say that another way?"

# One row per turn: the offset of what requested it (None: a greeting), the texts of the answer, the outcome, the offset
# of the turn's last event. Per scenario, for all versions or for some of them.
Turns = list[tuple[int | None, list[str], str, int]]
TABLE: list[tuple[str, str, Turns]] = [
    ("cancelled", "4.0", [(0, ["echo: echo-me long"], "cancelled", 5)]),
    ("cancelled_matching", "4.0", [(0, [], "cancelled", 3)]),
    ("cancelled_streaming", "4.0", [(0, [STREAMED], "cancelled", 5)]),
    ("cancelled_idle", "4.0", [(0, ["echo: echo-me x"], "answered", 5)]),
    ("composited_agent", "3.0 3.1 3.2 3.3", [(0, ["echo: hello"], "answered", 9)]),
    ("engine_error", "3.0 3.1 3.2 3.3", [(0, [], "error", 4)]),
    ("engine_error", "4.0", [(0, [], "error", 3)]),
    ("greeting", "3.0 3.1 3.2 3.3", [(None, ["echo: (greeting)"], "answered", 8)]),
    ("hook_answers", "4.0", [(0, ["the hook answers"], "answered", 2)]),
    ("hook_answers", "3.0 3.1 3.2 3.3", [(0, ["Hello from the hook."], "answered", 2)]),
    ("hook_drops", "3.0 3.1", [(0, [], "empty", 7)]),
    ("hook_drops", "3.2 3.3", [(0, [], "empty", 8)]),
    ("hook_drops", "4.0", [(0, ["echo: hookdrop"], "answered", 5)]),
    ("hook_greets", "4.0", [(0, ["the hook greets", "echo: hookgo"], "answered", 6)]),
    ("hook_greets", "3.0 3.1 3.2 3.3", [(0, ["Hello from the hook.", "echo: hookgo"], "answered", 10)]),
    ("hook_stops", "3.0 3.1 3.2 3.3", [(0, [], "running", 5)]),
    ("hook_stops", "4.0", [(0, [], "running", 2)]),
    ("interrupted", "3.0 3.1", [(0, ["echo: now"], "answered", 10), (2, ["echo: now"], "answered", 19)]),
    ("interrupted", "3.2 3.3", [(n, ["echo: now"], "answered", 16) for n in (0, 2)]),
    ("interrupted", "4.0", [(n, ["echo: echo-me second"], "answered", 12) for n in (0, 3)]),
    ("interrupted_at_once", "3.0 3.1", [(n, ["echo: second"], "answered", 14) for n in (0, 2)]),
    ("interrupted_at_once", "3.2", [(n, ["echo: second"], "answered", 13) for n in (0, 2)]),
    ("interrupted_at_once", "3.3", [(n, ["echo: second"], "answered", 17) for n in (0, 2)]),
    ("interrupted_in_follow_up", "3.0 3.1 3.3", [(0, PARTS, "answered", 16), (10, ["echo: now"], "answered", 25)]),
    ("interrupted_in_follow_up", "3.2", [(n, ["echo: now"], "answered", 15) for n in (0, 7)]),
    ("interrupted_matching", "4.0", [(n, ["echo: second"], "answered", 10) for n in (0, 3)]),
    ("interrupted_streaming", "4.0", [(n, ["streamed echo of: now"], "answered", 12) for n in (0, 5)]),
    ("manual_mode", "4.0", [(0, ["echo: hello"], "answered", 5)]),
    ("manual_human", "3.0 3.1 3.2 3.3", [(0, ["Dana here."], "human", 1)]),
    ("no_preamble", "3.0", [(0, ["echo: hello"], "answered", 9)]),
    ("no_preamble", "3.1", [(0, ["echo: hello"], "answered", 5)]),
    ("no_preamble", "3.2 3.3", [(0, ["echo: hello"], "answered", 6)]),
    ("rest_agent", "3.0 3.1 3.2 3.3", [(0, ["echo: hello"], "answered", 6)]),
    ("refused", "4.0", [(0, [], "refused", 2)]),
    ("rest_error", "4.0", [(0, [], "error", 4)]),
    ("rest_error", "3.0 3.1 3.2 3.3", [(0, [], "error", 6)]),
    ("rest_interrupted", "3.0 3.1 3.2 3.3", [(n, ["echo: now"], "answered", 12) for n in (0, 2)]),
    ("rest_interrupted_late", "3.0 3.1 3.2", [(n, ["echo: now"], "answered", 12) for n in (0, 3)]),
    ("rest_interrupted_late", "3.3", [(n, ["echo: now"], "answered", 13) for n in (0, 5)]),
    ("rest_prompted", "3.0", [(0, ["echo: hello"], "answered", 6), (8, ["echo: (none)"], "answered", 9)]),
    ("rest_prompted", "3.1 3.2 3.3", [(0, ["echo: hello"], "answered", 6), (8, ["echo: hello"], "answered", 9)]),
    (
        "rest_second_turn",
        "3.0 3.1 3.2 3.3",
        [(0, ["echo: hello"], "answered", 6), (7, ["echo: again"], "answered", 13)],
    ),
    ("rest_silent", "3.0 3.1 3.2 3.3", [(0, [], "empty", 5)]),
    ("second_turn", "3.0 3.1 3.2 3.3", [(0, ["echo: hello"], "answered", 9), (10, ["echo: again"], "answered", 19)]),
    ("second_turn", "4.0", [(0, ["echo: echo-me hello"], "answered", 5), (6, ["echo: echo-me again"], "answered", 11)]),
    ("silent", "4.0", [(0, [], "empty", 3)]),
    ("silent", "3.0", [(0, [], "empty", 7)]),
    ("silent", "3.1 3.2 3.3", [(0, [], "empty", 9)]),
    ("simple", "3.0 3.1 3.2 3.3", [(0, ["echo: hello"], "answered", 9)]),
    ("simple", "4.0", [(0, ["echo: echo-me hello"], "answered", 5)]),
    ("stream_breaks", "4.0", [(0, ["streamed echo of: one "], "error", 5)]),
    ("streaming", "3.2 3.3", [(0, ["streamed echo of: a b c d e "], "answered", 6)]),
    ("streaming", "4.0", [(0, ["streamed echo of: echo-me streamed words here"], "answered", 5)]),
    ("streaming_with_preamble", "3.2 3.3", [(0, ["streamed echo of: a b c "], "answered", 9)]),
    ("strict_agent", "4.0", [(0, [], "error", 3)]),
    ("strict_agent", "3.0 3.1 3.2 3.3", [(0, [SORRY], "answered", 8)]),
    ("tool_hands_over", "3.1", [(0, ["echo: handoff"], "answered", 11), (12, ["Dana here."], "human", 13)]),
    ("tool_hands_over", "3.2 3.3", [(0, ["echo: handoff"], "answered", 12), (13, ["Dana here."], "human", 14)]),
    ("thinks", "4.0", [(0, ["echo: a thought"], "answered", 6)]),
    ("tool_hands_over", "4.0", [(0, ["echo: handoff"], "answered", 8), (9, ["echo: and now"], "answered", 14)]),
    ("tool_says_error", "4.0", [(0, ["echo: errtool"], "answered", 9)]),
    ("tool_says_message", "4.0", [(0, ["the tool speaks", "echo: msgtool"], "answered", 9)]),
    ("tool_says_ready", "4.0", [(0, ["echo: readytool"], "answered", 9)]),
    ("tool_says_error", "3.2 3.3", [(0, ["echo: errtool"], "answered", 13)]),
    ("tool_says_message", "3.2 3.3", [(0, ["I have found three.", "echo: msgtool"], "answered", 14)]),
    ("tool_says_ready", "3.2 3.3", [(0, ["echo: readytool"], "answered", 13)]),
    ("two_messages", "3.0 3.1 3.2 3.3", [(0, ["echo: two", "second part"], "answered", 12)]),
]
NUMBERS = {"3.0": "3.0.4", "3.1": "3.1.2", "3.2": "3.2.2", "3.3": "3.3.2", "4.0": "4.0.0a1"}
EXPECTED = {f"{NUMBERS[v]}/{name}": turns for name, versions, turns in TABLE for v in versions.split()}


class Recording:
    """What a server sent in one scenario, and what must be known to read it."""

    def __init__(self, name: str) -> None:
        self.trace = json.loads((TRACES / f"{name}.json").read_text())
        self.events = read_events(self.trace["final"])
        self.facts = TurnFacts(
            staged=not name.startswith(("3.0", "3.1")),
            fluid=self.trace["agent"] == "rest",
            bare_errors=name.startswith("4.0"),
        )

    def tracker(self, offset: int | None, facts: TurnFacts) -> TurnTracker:
        requested = next((e for e in self.events if e.offset == offset), None)
        if requested is not None and requested.source == "ai_agent":
            return TurnTracker(None, facts, trace=requested.trace_id)
        return TurnTracker(requested, facts)

    def after(self, tracker: TurnTracker, offset: int | None) -> list[Event]:
        """What is fed to the tracker: of a prompted turn, also what came before the message that the POST returned."""
        start = -1 if offset is None or tracker.trace is not None else offset
        return [event for event in self.events if event.offset > start]


def result(tracker: TurnTracker) -> tuple[list[str], str, int]:
    said = [e.message or "" for e in tracker.events if e.kind == "message" and not e.is_preamble]
    outcome = "human" if tracker.human else "error" if tracker.error else "cancelled" if tracker.cancelled else ""
    outcome = "refused" if tracker.refusal else outcome
    if not outcome:
        outcome = "running" if not tracker.over else "answered" if said else "empty"
    return said, outcome, tracker.events[-1].offset


def test_every_recording_is_expected() -> None:
    recorded = {str(path.relative_to(TRACES).with_suffix("")) for path in TRACES.glob("*/*.json")}
    assert recorded == set(EXPECTED)
    assert len(recorded) == 135


@pytest.mark.parametrize("name", sorted(EXPECTED))
@pytest.mark.parametrize("mode_is_known", [True, False], ids=["", "unknown mode"])
def test_recording(name: str, mode_is_known: bool) -> None:
    recording = Recording(name)
    facts = recording.facts if mode_is_known else recording.facts._replace(fluid=None)
    for offset, *expected in EXPECTED[name]:
        tracker = recording.tracker(offset, facts)
        for event in recording.after(tracker, offset):
            tracker.feed(event)
        if not tracker.over and tracker.quiet_for:
            tracker.end_quiet()  # nothing came after the recording
        assert list(result(tracker)) == expected


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_only_unusual_ends_are_checked_again(name: str) -> None:
    """A turn that ended in the usual way does not wait; one without an answer does.

    Compass, one of the two engines of 4.0, sends no error after an end.
    """
    recording = Recording(name)
    compass = name.startswith("4.0") and name != "4.0.0a1/rest_error"
    for offset, _, outcome, last in EXPECTED[name]:
        tracker = recording.tracker(offset, recording.facts)
        for event in recording.after(tracker, offset):
            if event.offset <= last and event.status != "error":
                tracker.feed(event)
        ended_empty = tracker.over and outcome in ("empty", "error") and not compass
        assert tracker.looks_unfinished == ended_empty


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_only_what_may_be_the_end_waits_for_quiet(name: str) -> None:
    """As the poll showed it: no quiet period passes in the middle of a turn, and no ordinary turn ends by one."""
    recording = Recording(name)
    arrived = {event["offset"]: batch["at"] for batch in recording.trace["batches"] for event in batch["events"]}
    for offset, _, outcome, _ in EXPECTED[name]:
        tracker = recording.tracker(offset, recording.facts)
        last_arrived = 0.0
        for event in recording.after(tracker, offset):
            quiet_for = tracker.quiet_for
            if tracker.feed(event) and event.offset in arrived:
                assert quiet_for is None or arrived[event.offset] - last_arrived < quiet_for
                last_arrived = arrived[event.offset]
        assert tracker.over == (outcome != "running" and not name.endswith("hook_answers"))


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


def test_another_trace_is_never_of_the_turn() -> None:
    s = Script()
    tracker = TurnTracker(s.customer("q", trace="own"), TurnFacts(staged=False))
    taken = feed(
        tracker,
        s.says("late words of the turn before", "old"),
        s.status("ready", "old", stage="completed"),
        s.status("acknowledged", "own::process"),
        s.status("typing", "own::process"),
        s.says("dribble", "old"),
        s.says("answer", "own::process"),
        s.status("ready", "own::process"),
        s.status("ready", "own::process"),
    )
    assert taken == [False, False, True, True, False, True, True, True]
    assert tracker.over
    assert said(tracker) == ["answer"]


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
    feed(tracker, s.status("acknowledged", "t1"), s.status("typing", "t1"), s.says("first half", "t1"))
    feed(tracker, s.customer("newer"), s.status("acknowledged", "t2"), s.says("to both", "t2"))
    feed(tracker, s.status("ready", "t2"), s.status("ready", "t2", stage="completed"))
    assert tracker.over
    assert tracker.restarts == 1
    assert said(tracker) == ["to both"]


def test_a_trace_once_left_stays_left() -> None:
    s = Script()
    tracker = TurnTracker(s.customer("q"))
    feed(tracker, s.status("acknowledged", "t1"), s.customer("newer"), s.status("cancelled", "t1"))
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


def test_after_its_end_only_the_engines_error_is_of_a_turn() -> None:
    s = Script()
    tracker = TurnTracker(s.customer("q"))
    feed(tracker, s.status("acknowledged", "t1"), s.status("ready", "t1", stage="completed"))
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
    feed(tracker, s.status("acknowledged", "t1"), s.status("cancelled", "t1"))
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


@pytest.mark.parametrize("fluid", [True, False])
def test_a_ready_of_a_tool_is_not_the_end_before_3_2(fluid: bool) -> None:
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
    assert tracker.over == fluid
    feed(tracker, s.status("ready", "t1"))
    assert tracker.over


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


def test_cost_control_refuses_a_turn() -> None:
    s = Script()
    tracker = TurnTracker(s.customer("q"))
    refusal = {"circuit_breaker": "open", "retry_after_utc": "2026-01-01T00:00:00Z"}
    feed(tracker, s.status("acknowledged", "t1"), s.status("ready", "t1", stage="completed", cost_control=refusal))
    assert (tracker.over, tracker.refusal, tracker.looks_unfinished) == (True, refusal, False)


def test_a_message_of_the_system_is_not_an_answer() -> None:
    s = Script()
    tracker = TurnTracker(s.customer("q"))
    feed(tracker, s.status("acknowledged", "t1"), s.status("processing", "t1"))
    feed(tracker, s.event("message", {"message": "summary"}, "t1", source="system"))
    feed(tracker, s.status("ready", "t1", stage="completed"))
    assert tracker.looks_unfinished  # as an empty turn does


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


def test_work_after_a_hooks_message_ends_its_quiet_period() -> None:
    s = Script()
    tracker = greeted(s)
    feed(tracker, s.status("ready", "t1"))
    assert tracker.quiet_for == HOOK_QUIET  # of a preamble that there is not; the engine may still be stopped
    feed(tracker, s.status("processing", "t1", stage="Interpreting"))
    assert tracker.quiet_for is None
    feed(tracker, s.says("answer", "t1"), s.status("ready", "t1", stage="completed"))
    assert (tracker.over, said(tracker)) == (True, ["hi", "answer"])


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


def test_a_turn_that_answers_a_newer_message_and_is_stopped_is_over() -> None:
    """4.0: the trace of the turn says which message is the last that it answers."""
    for last, over in (("B", True), ("C", False)):
        s = Script()
        tracker = TurnTracker(s.customer("a", "A"))
        feed(tracker, s.status("acknowledged", "A"), s.customer("b", "B"), s.status("cancelled", "A"))
        feed(tracker, s.status("acknowledged", "B"))
        feed(tracker, *([s.customer("c", "C")] if last == "C" else []))
        feed(tracker, s.status("cancelled", "B"))
        assert (tracker.over, tracker.cancelled) == (over, over)


def test_acknowledged_again_by_a_tool_is_the_same_turn() -> None:
    s = Script()
    tracker = TurnTracker(s.customer("q"))
    feed(tracker, s.status("acknowledged", "t1"), s.status("processing", "t1"), s.status("acknowledged", "t1"))
    assert (tracker.trace, tracker.restarts) == ("t1", 0)


def test_what_matched() -> None:
    s = Script()
    ids = [{"id": "g1"}, {"id": "g2"}, {"no": "id"}, "odd"]
    assert matched(s.status("ready", "t", matched_guidelines=ids)) == [("g1", "g2"), (), ()]
    assert matched(s.status("ready", "t", matched_journeys="odd", matched_journey_states=ids)) == [(), (), ("g1", "g2")]
    assert matched(s.status("ready", "t")) == matched(None) == [(), (), ()]
