"""A streamed message while it grows: when it is read again, and what says that it is as whole as it gets."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from support.waiting import Clock

from parlant_sync import NotFoundError, SessionClosed, TransportError, _deadline
from parlant_sync._api import streaming
from parlant_sync._api.rest import RestApi
from parlant_sync._api.streaming import MessageReader, StreamedMessage
from parlant_sync._deadline import Deadline
from parlant_sync.events import Event

BEGUN = datetime(2026, 1, 1, tzinfo=timezone.utc)


def event(data: dict[str, Any], *, kind: str = "status", trace: str = "T", age: float | None = 0.0) -> Event:
    raw = {"offset": 1, "kind": kind, "source": "ai_agent", "trace_id": trace, "data": data}
    return Event(raw if age is None else {**raw, "creation_utc": (BEGUN + timedelta(seconds=age)).isoformat()})


def half(text: str = "a ", **more: Any) -> Event:
    return event({"message": text, "chunks": [text]}, kind="message", **more)


def whole(text: str) -> Event:
    return event({"message": text, "chunks": [text, None]}, kind="message")


@pytest.fixture
def clock(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(_deadline, "monotonic", clock)
    return clock


@pytest.mark.parametrize("status", ["ready", "cancelled", "error"])
def test_its_turn_s_end_says_that_it_is_whole(status: str) -> None:
    assert StreamedMessage(half(), 1.0).is_followed_by(event({"status": status}))
    assert not StreamedMessage(half(), 1.0).is_followed_by(event({"status": status}, trace="other"))


def test_so_does_the_next_message_of_its_turn() -> None:
    assert StreamedMessage(half(), 1.0).is_followed_by(half("next"))
    assert not StreamedMessage(half(), 1.0).is_followed_by(half("next", trace="other"))


@pytest.mark.parametrize("data", [{"status": "typing"}, {"status": "processing"}, {}])
def test_what_says_nothing_of_it(data: dict[str, Any]) -> None:
    assert not StreamedMessage(half(), 1.0).is_followed_by(event(data))
    assert not StreamedMessage(half(), 1.0).is_cut_by(event(data, trace="other"))


def test_another_turn_s_beginning_cuts_it() -> None:
    assert StreamedMessage(half(), 1.0).is_cut_by(event({"status": "acknowledged"}, trace="other"))
    assert not StreamedMessage(half(), 1.0).is_cut_by(event({"status": "acknowledged"}))


def test_what_is_much_younger_cuts_it() -> None:
    assert not StreamedMessage(half(), 1.0).is_cut_by(event({}, age=streaming.DEAD))
    assert StreamedMessage(half(), 1.0).is_cut_by(event({}, age=streaming.DEAD + 1))
    assert not StreamedMessage(half(), 1.0).is_cut_by(event({}, age=None))
    assert not StreamedMessage(half(age=None), 1.0).is_cut_by(event({}, age=streaming.DEAD + 1))


def test_it_is_read_again_from_time_to_time(clock: Clock) -> None:
    message = StreamedMessage(half(), 1.0)
    assert not message.is_due
    clock.now = 1.0
    assert message.is_due
    assert not message.store(half(), 1.0)  # and once more in as long, though it has not grown
    assert not message.is_due
    clock.now = 2.0
    assert message.is_due


def test_one_that_grows_is_not_stale(clock: Clock) -> None:
    message = StreamedMessage(half(), 1.0)
    clock.now = streaming.STALE - 1
    assert message.store(half("a b "), 1.0)
    assert message.event.message == "a b "
    clock.now = streaming.STALE + 1
    assert not message.stale.expired()
    assert not message.store(half("a b "), 1.0)
    clock.now = 2 * streaming.STALE - 1
    assert message.stale.expired()


def test_a_stale_one_that_cannot_be_read_is_not_asked_for_all_the_time(clock: Clock) -> None:
    message = StreamedMessage(half(), 1.0)
    clock.now = streaming.STALE
    assert message.is_due
    message.put_off(1.0)
    assert not message.is_due
    clock.now += 1.0
    assert message.is_due
    assert message.stale.expired()


def test_trouble_does_not_make_it_any_younger(clock: Clock) -> None:
    message = StreamedMessage(half(), 1.0)
    clock.now = streaming.STALE - 0.5
    message.put_off(1.0)
    assert not message.is_due
    clock.now = streaming.STALE
    assert message.stale.expired()


class Api(RestApi):
    """Answers each read with the next of ``answers``, or raises it."""

    def __init__(self, *answers: Event | Exception) -> None:
        super().__init__(SimpleNamespace(settings=SimpleNamespace(request_timeout=30.0)))  # type: ignore[arg-type]
        self.answers = list(answers)

    def held(self, session_id: str, event: Event, *, deadline: Deadline | None = None) -> Event:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def reader_of(*answers: Event | Exception) -> MessageReader:
    return MessageReader(Api(*answers), "s")


@pytest.mark.parametrize("trouble", [TransportError("reset"), SessionClosed("closed")])
def test_a_message_that_cannot_be_read_now_stays_as_it_is_and_is_read_later(clock: Clock, trouble: Exception) -> None:
    message = StreamedMessage(half(), 1.0)
    clock.now = 1.0
    assert reader_of(trouble).refresh(message, Deadline(5), 2.0) is None
    assert (message.event, message.is_due, message.is_final) == (half(), False, False)
    clock.now = 3.0
    assert message.is_due
    assert reader_of(half("a b ")).refresh(message, Deadline(5)) is True
    assert reader_of(half("a b ")).refresh(message, Deadline(5)) is False


def test_what_ends_the_session_is_raised() -> None:
    with pytest.raises(NotFoundError):
        reader_of(NotFoundError("gone", status=404)).refresh(StreamedMessage(half(), 1.0), Deadline(5))


def test_a_message_is_read_to_its_end_in_spite_of_trouble(no_pauses: None) -> None:
    message = StreamedMessage(half(), 1.0)
    reader_of(TransportError("reset"), TransportError("reset"), whole("a b ")).finish(message, Deadline(5))
    assert message.event.message == "a b "
    with pytest.raises(TransportError):  # no time for another attempt
        reader_of(TransportError("reset"), half("c")).finish(message, Deadline(0))


def test_an_old_answer_does_not_end_a_message(no_pauses: None) -> None:
    message = StreamedMessage(half(), 1.0)
    reader_of(half("a "), whole("a b ")).finish(message, Deadline(5))
    assert message.event.message == "a b "
    reader_of(half("c"), half("c")).finish(message, Deadline(5))  # it has broken
    assert message.event.message == "c"
