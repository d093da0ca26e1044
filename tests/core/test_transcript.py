"""What a turn has told, event by event and without a server."""

from __future__ import annotations

from typing import Any

import pytest

from parlant_sync._turns.tracker import Transcript, TurnTracker
from parlant_sync.events import Event


def event(offset: int, kind: str, data: dict[str, Any], *, source: str = "ai_agent", trace: str = "T") -> Event:
    return Event({"offset": offset, "kind": kind, "source": source, "trace_id": trace, "data": data})


def status(offset: int, name: str, *, trace: str = "T", stage: str | None = None) -> Event:
    return event(offset, "status", {"status": name, "data": {"stage": stage} if stage else {}}, trace=trace)


def message(offset: int, text: str, *, trace: str = "T", **more: Any) -> Event:
    return event(offset, "message", {"message": text, **more}, trace=trace)


def streamed(offset: int, text: str, *, whole: bool = False, trace: str = "T", **more: Any) -> Event:
    return message(offset, text, chunks=[text, None] if whole else [text], trace=trace, **more)


PREAMBLE = {"tags": ["__preamble__"]}


@pytest.fixture
def told() -> Transcript:
    """Of a turn that has begun."""
    transcript = Transcript(TurnTracker(event(0, "message", {"message": "q"}, source="customer", trace="<main>")))
    transcript.take(status(1, "acknowledged"))
    return transcript


def take(told: Transcript, *events: Event) -> None:
    for each in events:
        told.take(each)


def grow(told: Transcript, fresh: Event) -> None:
    assert told.growing is not None
    told.growing.store(fresh, 1.0)
    told.show_growth()


def offsets(told: Transcript) -> list[int]:
    return [each.offset for each in told.log]


def test_what_stands_behind_a_growing_message_comes_after_it(told: Transcript) -> None:
    take(told, streamed(2, "a "), status(3, "typing"), message(4, "later"))
    assert (offsets(told), told.pieces) == ([1], ["a "])
    grow(told, streamed(2, "a b", whole=True))
    assert (offsets(told), told.pieces, told.growing) == ([1, 2, 3, 4], ["a ", "b"], None)
    assert [each.message for each in told.reply(None, 0.0).messages] == ["a b", "later"]


def test_a_second_streamed_message_begins_anew(told: Transcript) -> None:
    """Though it begins with what the first one was, or with something else."""
    take(told, streamed(2, "one"))
    grow(told, streamed(2, "one", whole=True))
    take(told, streamed(3, "one more"))
    grow(told, streamed(3, "one more time", whole=True))
    assert told.pieces == ["one", "\n\none more", " time"]
    assert "".join(told.pieces) == told.reply(None, 0.0).text
    assert told.restarts == 0


def test_a_message_that_is_written_anew_begins_the_pieces_again(told: Transcript) -> None:
    take(told, message(2, "first"), streamed(3, "hal"))
    grow(told, streamed(3, "something else"))
    assert (told.pieces, told.restarts) == (["first\n\nsomething else"], 1)
    assert [u.kind for u in told.updates[-2:]] == ["restart", "text"]
    grow(told, streamed(3, "something else", whole=True))
    assert "".join(told.pieces) == told.reply(None, 0.0).text


def test_a_growing_preamble_is_no_text(told: Transcript) -> None:
    take(told, streamed(2, "Hm", **PREAMBLE))
    grow(told, streamed(2, "Hmm...", whole=True, **PREAMBLE))
    assert (told.pieces, [(u.kind, u.text) for u in told.updates[1:]]) == ([], [("preamble", "Hmm...")])
    reply = told.reply(None, 0.0)
    assert (reply.text, [each.message for each in reply.preambles]) == ("", ["Hmm..."])


def test_cancelled_while_a_message_grows(told: Transcript) -> None:
    """Its events are given, and in order; its text is not a part of the answer."""
    newer = event(4, "message", {"message": "newer"}, source="customer", trace="<main>")
    take(told, streamed(2, "half"), status(3, "typing"), newer, status(5, "cancelled"))
    assert (told.growing, told.pieces, told.restarts) == (None, [], 1)
    assert offsets(told) == [1, 2, 3, 5]
    assert [(u.kind, u.text) for u in told.updates[-3:]] == [
        ("status", "typing"),
        ("restart", ""),
        ("status", "cancelled"),
    ]
    take(told, status(6, "acknowledged", trace="U"), message(7, "whole", trace="U"))
    assert (told.pieces, told.reply(None, 0.0).text, told.reply(None, 0.0).trace_id) == (["whole"], "whole", "U")


def test_a_turn_that_just_stops_while_a_message_grows(told: Transcript) -> None:
    """3.0 says no word of it: the next turn begins."""
    take(told, streamed(2, "half"), status(3, "acknowledged", trace="U"))
    assert (told.growing, told.pieces, told.restarts, offsets(told)) == (None, [], 1, [1, 2, 3])


def test_after_an_interrupt_all_events_are_told_again(told: Transcript) -> None:
    """After an interrupt: nothing of before is left, be it half a message, and the pieces begin again."""
    take(told, message(2, "first"), streamed(3, "hal"), status(4, "typing"))
    told.start_over()
    assert (told.log, told.pieces, told.growing, told.restarts) == ([], [], None, 1)
    take(told, status(1, "acknowledged"), message(2, "first"), streamed(3, "half", whole=True))
    assert (offsets(told), told.pieces) == ([1, 2, 3], ["first", "\n\nhalf"])
    assert [u.kind for u in told.updates] == ["status", "text", "text"]
    assert told.reply(None, 0.0).text == "first\n\nhalf"


def test_a_human_s_answer_has_its_own_trace() -> None:
    told = Transcript(TurnTracker(event(0, "message", {"message": "q"}, source="customer")))
    take(told, event(1, "message", {"message": "Dana here."}, source="human_agent", trace="H"))
    reply = told.reply(None, 0.0)
    assert (reply.outcome, reply.text, reply.trace_id) == ("human", "Dana here.", "H")


def test_the_text_leaves_out_messages_without_any(told: Transcript) -> None:
    take(told, message(2, ""), message(3, "said"))
    assert (told.pieces, told.reply(None, 0.0).text, len(told.reply(None, 0.0).messages)) == (["said"], "said", 2)
