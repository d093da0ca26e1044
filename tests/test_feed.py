"""A reader's place: in order, each once, from the mailbox or the list."""

from __future__ import annotations

import threading

import pytest

from parlant_sync.deadline import Deadline
from parlant_sync.errors import NotFoundError, SessionClosed, TransportError
from parlant_sync.events import Event
from parlant_sync.feed import Feed, FeedEnd
from parlant_sync.hub import Hub


class Server:
    """A log that the hub is fed from and that the feed lists."""

    def __init__(self, length: int = 0, start: int = 0) -> None:
        self.log = [Event({"offset": i}) for i in range(length)]
        self.hub = Hub(start)
        self.lists: list[int] = []
        self.failures: list[Exception] = []

    def lister(self, since: int, deadline: Deadline) -> list[Event]:
        self.lists.append(since)
        if self.failures:
            raise self.failures.pop(0)
        return [e for e in self.log if e.offset >= since]

    def add(self, count: int = 1) -> None:
        start = self.log[-1].offset + 1 if self.log else 0
        self.log += [Event({"offset": start + i}) for i in range(count)]

    def poll(self) -> None:
        place = self.hub.place
        self.hub.deliver([e for e in self.log if e.offset >= place.next], place)

    def feed(self, offset: int | None = None, limit: int = 100) -> Feed:
        return Feed(self.hub, self.lister, limit, offset=offset)


def drain(feed: Feed) -> list[int]:
    found = []
    while (event := feed.get(Deadline(0))) is not None:
        found.append(event.offset)
    return found


def test_from_now_on_costs_no_list() -> None:
    server = Server(5, start=5)
    feed = server.feed()
    server.add(2)
    server.poll()
    assert drain(feed) == [5, 6]
    assert server.lists == []


def test_behind_lists_then_follows() -> None:
    server = Server(5, start=5)
    feed = server.feed(2)
    assert drain(feed) == [2, 3, 4]
    assert server.lists == [2]
    server.add()
    server.poll()
    assert drain(feed) == [5]
    assert server.lists == [2]


def test_what_comes_by_both_ways_is_given_once() -> None:
    server = Server(3)
    feed = server.feed(1)
    first = feed.get(Deadline(0))
    assert first is not None
    server.poll()  # the list had these already
    assert [first.offset, *drain(feed)] == [1, 2]


def test_an_overflow_is_read_again() -> None:
    server = Server()
    feed = server.feed(limit=3)
    for _ in range(10):
        server.add(2)
        server.poll()
    assert drain(feed) == list(range(20))
    assert server.lists == [0]


def test_closed_and_opened_again() -> None:
    server = Server()
    feed = server.feed()
    server.add(2)
    server.poll()
    assert drain(feed) == [0, 1]
    feed.close()
    with pytest.raises(FeedEnd):
        feed.get(Deadline(0))
    server.add(2)
    server.poll()
    feed.open()
    assert drain(feed) == [2, 3]


def test_an_interrupted_take_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """KeyboardInterrupt after ``Queue.get`` took the item, before anybody had it."""
    server = Server()
    feed = server.feed()
    server.add(3)
    server.poll()
    mailbox = feed._mailbox
    assert mailbox is not None
    take = mailbox.take

    def interrupted(timeout: float | None) -> object:
        take(timeout)
        raise KeyboardInterrupt

    monkeypatch.setattr(mailbox, "take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        feed.get(Deadline(0))
    monkeypatch.undo()
    assert drain(feed) == [0, 1, 2]


def test_a_failing_list_is_repeated_until_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parlant_sync.feed.jittered", lambda attempt: 0.0)
    server = Server(3, start=3)
    server.failures = [TransportError("down")] * 3
    event = server.feed(0).get(Deadline(30))
    assert event is not None
    assert event.offset == 0
    assert server.lists == [0, 0, 0, 0]


def test_what_no_patience_mends_is_raised() -> None:
    server = Server(3, start=3)
    server.failures = [NotFoundError("gone", status=404)]
    with pytest.raises(NotFoundError):
        server.feed(0).get(Deadline(30))


def test_the_end_comes_after_what_had_arrived() -> None:
    server = Server()
    feed = server.feed()
    server.add(2)
    server.poll()
    server.hub.end(SessionClosed("closed"))
    assert [e.offset for e in (feed.get(Deadline(30)), feed.get(Deadline(30))) if e] == [0, 1]
    with pytest.raises(FeedEnd) as end:
        feed.get(Deadline(30))
    assert isinstance(end.value.cause, SessionClosed)


@pytest.mark.parametrize("how", ["end", "close"])
def test_a_waiting_reader_is_woken(how: str) -> None:
    server = Server()
    feed = server.feed()
    ended = threading.Event()

    def read() -> None:
        with pytest.raises(FeedEnd):
            feed.get(Deadline(None))
        ended.set()

    thread = threading.Thread(target=read)
    thread.start()
    if how == "end":
        server.hub.end(SessionClosed("closed"))
    else:
        feed.close()
    assert ended.wait(5)
    thread.join()


def test_a_pause_between_lists_ends_with_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(1, start=1)

    def pause(attempt: int) -> float:
        server.hub.end(SessionClosed("closed"))
        return 60.0

    monkeypatch.setattr("parlant_sync.feed.jittered", pause)
    server.failures = [TransportError("down")] * 99
    with pytest.raises(FeedEnd):
        server.feed(0).get(Deadline(None))


def test_numbering_that_goes_back_is_followed() -> None:
    server = Server()
    feed, elsewhere = server.feed(), server.feed()
    elsewhere.close()
    server.add(3)
    server.poll()
    assert drain(feed) == [0, 1, 2]
    known = server.hub.place
    server.log = []
    server.add(2)  # offsets 0 and 1 again: other events
    assert server.hub.note_posted(1, known)
    server.poll()
    assert drain(feed) == [1]
    late = Feed(server.hub, server.lister, 100, offset=3, epoch=0)
    assert drain(late) == [1]


def test_back_to_gives_again() -> None:
    server = Server()
    feed = server.feed()
    server.add(3)
    server.poll()
    assert drain(feed) == [0, 1, 2]
    feed.back_to(1)
    assert drain(feed) == [1, 2]
