"""The turn rule against recordings of five server versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parlant_sync._turns.tracker import TurnFacts, TurnTracker
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
        assert (tracker.over and not tracker.looks_done) == ended_empty


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
