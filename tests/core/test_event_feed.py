"""A reader's end of the log: in order, each once, from the mailbox or the list."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time

import pytest
from support.raw_api import in_background
from support.waiting import must_end, wait_until, within

from parlant_sync import Session
from parlant_sync._deadline import Deadline
from parlant_sync._polling.event_feed import EventFeed, FeedEnded, Mailbox
from parlant_sync._polling.event_hub import EventHub
from parlant_sync.errors import (
    ApiError,
    NotFoundError,
    PermissionDeniedError,
    ProtocolError,
    RateLimitedError,
    SessionClosed,
    TransportError,
)
from parlant_sync.events import Event


class Server:
    """A log that the hub is fed from and that the feed lists."""

    def __init__(self, length: int = 0, start: int = 0) -> None:
        self.log = [Event({"offset": i}) for i in range(length)]
        self.hub = EventHub(start)
        self.lists: list[int] = []
        self.failures: list[Exception] = []

    def lister(self, since: int) -> list[Event]:
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

    def feed(self, offset: int | None = None, limit: int = 100) -> EventFeed:
        return EventFeed(self.hub, self.lister, limit, offset=offset)


def drain(feed: EventFeed) -> list[int]:
    found = []
    while (event := feed.get(Deadline(0))) is not None:
        found.append(event.offset)
    return found


def test_a_reader_from_now_on_needs_no_list() -> None:
    server = Server(5, start=5)
    feed = server.feed()
    server.add(2)
    server.poll()
    assert drain(feed) == [5, 6]
    assert server.lists == []


def test_a_reader_that_is_behind_lists_once_and_then_follows() -> None:
    server = Server(5, start=5)
    feed = server.feed(2)
    assert drain(feed) == [2, 3, 4]
    assert server.lists == [2]
    server.add()
    server.poll()
    assert drain(feed) == [5]
    assert server.lists == [2]


def test_an_event_of_list_and_poll_is_given_once() -> None:
    server = Server(3)
    feed = server.feed(1)
    first = feed.get(Deadline(0))
    assert first is not None
    server.poll()  # the list had these already
    assert [first.offset, *drain(feed)] == [1, 2]


def end(server: Server, feed: EventFeed, how: str) -> None:
    """The session is closed, or the reader alone."""
    server.hub.end(SessionClosed("closed")) if how == "closed" else feed.leave()


@pytest.mark.parametrize("how", ["closed", "left"])
def test_the_end_comes_after_what_had_arrived(how: str) -> None:
    server = Server()
    feed = server.feed()
    server.add(2)
    server.poll()
    end(server, feed, how)
    server.add(2)
    server.poll()
    assert [e.offset for e in (feed.get(Deadline(30)), feed.get(Deadline(30))) if e] == [0, 1]
    with pytest.raises(FeedEnded) as told:
        feed.get(Deadline(30))
    assert isinstance(told.value.cause, SessionClosed)


def test_after_the_end_of_the_session_nothing_is_listed() -> None:
    """The server may say something else by now: 404, of a session that was deleted from here."""
    server = Server(3, start=3)
    feed = server.feed(0)
    server.hub.end(SessionClosed("deleted"))
    with pytest.raises(FeedEnded):
        feed.get(Deadline(30))
    assert server.lists == []


class Limits(RateLimitedError):
    """429 with Retry-After: 30."""

    def __init__(self) -> None:
        super().__init__("slow down", status=429, retry_after=30.0)


@pytest.mark.parametrize("failure", [TransportError("down"), Limits()])
@pytest.mark.parametrize("how", ["closed", "left"])
def test_the_end_cuts_a_pause_between_lists(how: str, failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(3, start=3)
    server.failures = [failure] * 1000
    feed = server.feed(0)

    def pause(attempt: int) -> float:
        thread.start()
        return 60.0

    thread = threading.Thread(target=end, args=(server, feed, how))
    monkeypatch.setattr("parlant_sync._api.retry.jittered", pause)
    with within(5), pytest.raises(FeedEnded):
        feed.get(Deadline(None))
    thread.join()
    assert len(server.lists) == 1


def test_list_now_asks_once() -> None:
    server = Server(2, start=2)
    feed = server.feed(0)
    asked: list[int] = []

    def lister(offset: int) -> list[Event]:
        asked.append(offset)
        return server.lister(offset) if len(asked) > 1 else []

    assert feed.list_now(lister) is None
    assert feed.list_now(lister) == 2
    assert [event.offset for event in iter(feed.pop, None)] == [0, 1]
    assert asked == [0, 0]
    server.failures = [TransportError("down")]
    with pytest.raises(TransportError):
        feed.list_now(server.lister)
    assert not server.failures


@pytest.mark.parametrize("left", [False, True])
def test_an_overflow_just_after_a_look_at_the_empty_mailbox(monkeypatch: pytest.MonkeyPatch, left: bool) -> None:
    """The time is over, or the reader was left, but there is more to give: only the server has it."""
    server = Server()
    feed = server.feed(limit=1)
    mailbox, take = feed._mailbox, feed._mailbox.take

    def late(timeout: float | None) -> object:
        try:
            return take(timeout)
        except queue.Empty:
            monkeypatch.undo()
            for _ in range(2):
                server.add()
                server.poll()
            assert mailbox.behind
            raise

    monkeypatch.setattr(mailbox, "take", late)
    if left:
        feed._left = True  # the first half of leave(): the hub tells it still
    assert [e.offset for e in (feed.get(Deadline(0)), feed.get(Deadline(0))) if e] == [0, 1]


@pytest.mark.parametrize("how", ["closed", "left"])
def test_a_waiting_reader_is_woken(how: str) -> None:
    server = Server()
    feed = server.feed()
    reading = in_background(feed.get, Deadline(None))
    end(server, feed, how)
    assert isinstance(reading.error(5), FeedEnded)


def test_a_reader_that_waits_has_an_overdue_poll_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has not delivered what was posted: its connection may be dead without anybody having been told."""
    monkeypatch.setattr("parlant_sync._polling.event_hub.DELIVERED_WITHIN", 0.05)
    server = Server(1, start=1)
    feed = EventFeed(server.hub, server.lister, 100, ask_again=server.poll)
    server.add()
    server.hub.note_posted(1, server.hub.place)
    event = feed.get(Deadline(10))
    assert event is not None
    assert (event.offset, server.lists) == (1, [])


def wiped(server: Server, keep: int, more: int) -> None:
    """The server deletes what is from ``keep`` on, counts again, and gets ``more`` events: the last one is ours."""
    known = server.hub.place
    server.log = server.log[:keep]
    server.add(more)
    assert server.hub.note_posted(server.log[-1].offset, known)
    assert server.hub.renumber(keep, known)


@pytest.mark.parametrize(
    ("taken", "keep", "more", "given"), [(3, 0, 2, [0, 1]), (3, 1, 2, [1, 2]), (3, 2, 1, [2]), (1, 2, 1, [1, 2])]
)
def test_numbering_that_goes_back_is_followed(taken: int, keep: int, more: int, given: list[int]) -> None:
    server = Server()
    feed = server.feed()
    server.add(3)
    server.poll()
    assert [e.offset for e in (feed.get(Deadline(0)) for _ in range(taken)) if e] == list(range(taken))
    wiped(server, keep, more)
    server.poll()
    assert drain(feed) == given
    assert drain(EventFeed(server.hub, server.lister, 100, offset=taken, epoch=0)) == given


def test_numbering_that_goes_back_twice_between_two_looks() -> None:
    """The second time from further above: what the first one gave anew is not forgotten."""
    server = Server()
    feed = server.feed()
    server.add(5)
    server.poll()
    assert drain(feed) == [0, 1, 2, 3, 4]
    wiped(server, 2, more=1)
    server.add(5)
    server.poll()
    wiped(server, 6, more=1)
    server.poll()
    assert drain(feed) == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("status", [302, 304, 400, 408, 410, 425, 451])
def test_a_failing_list_is_repeated_until_it_works(status: int, no_pauses: None) -> None:
    """An odd answer is a proxy's, as likely as not; the poller bears it, too. What ends a session ends a reader."""
    server = Server(2, start=2)
    failures = [ApiError("odd", status=status), ProtocolError("odd"), TransportError("down")]
    server.failures = [*failures]
    assert drain(server.feed(0)) == []  # no time for another try
    server.failures, server.lists = [*failures], []
    event = server.feed(0).get(Deadline(5))
    assert event is not None
    assert (event.offset, server.lists) == (0, [0, 0, 0, 0])
    for gone in (NotFoundError("gone", status=404), PermissionDeniedError("no", status=403)):
        server.failures = [gone]
        with pytest.raises(type(gone)):
            server.feed(0).get(Deadline(5))


def test_start_at_holds_over_a_new_numbering() -> None:
    """A turn begins behind its message, whatever numbering is noticed later, from further below."""
    server = Server(5, start=5)
    feed = server.feed()
    wiped(server, 1, more=3)
    feed.start_at(3)
    known = server.hub.place
    assert server.hub.renumber(0, known)
    server.add()
    server.poll()
    assert drain(feed) == [3, 4]


def test_a_numbering_noticed_while_it_catches_up(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(20, start=20)
    feed = server.feed(0)
    assert len(drain(feed)) == 20
    feed.back_to(20)
    mailbox, catch_up = feed._mailbox, feed._mailbox.catch_up

    def noticed() -> None:
        monkeypatch.undo()
        catch_up()
        wiped(server, 0, more=5)

    monkeypatch.setattr(mailbox, "catch_up", noticed)
    assert drain(feed) == [0, 1, 2, 3, 4]


def test_back_to_gives_again() -> None:
    server = Server()
    feed = server.feed()
    server.add(4)
    server.poll()
    assert [e.offset for e in (feed.get(Deadline(0)), feed.get(Deadline(0))) if e] == [0, 1]
    feed.back_to(1)
    assert drain(feed) == [1, 2, 3]


@pytest.mark.parametrize(("failure", "woken"), [(TransportError("reset"), True), (Limits(), False)])
def test_a_poll_that_succeeds_ends_the_pause_of_a_reader(
    failure: Exception, woken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to 10 s otherwise, while the server answers. What a 429 asked for is waited for all the same."""
    monkeypatch.setattr("parlant_sync._api.retry.jittered", lambda attempt: 20.0)
    server = Server(1, start=1)
    server.failures = [failure]
    feed = server.feed(0)
    over = threading.Event()
    answers = threading.Thread(target=lambda: [server.poll() for _ in iter(lambda: over.wait(0.02), True)])
    answers.start()
    started = time.monotonic()
    event = feed.get(Deadline(10 if woken else 0.6))
    took = time.monotonic() - started
    over.set()
    answers.join()
    assert (event is not None) is woken
    assert took >= 0.25  # a server whose lists fail is not asked at once again and again


# -- the mailbox


def batch(*offsets: int) -> list[Event]:
    return [Event({"offset": o}) for o in offsets]


def ready(limit: int = 3) -> Mailbox:
    box = Mailbox(limit)
    box.catch_up()
    return box


def test_a_mailbox_is_a_queue_that_counts_events() -> None:
    box = ready(10)
    assert isinstance(box, queue.Queue)
    box.offer(batch(1, 2))
    box.offer(batch(3))
    assert (box.qsize(), box.waiting, box.full()) == (3, 3, False)
    for _ in range(7):
        box.put_nowait(batch(4))
    with pytest.raises(queue.Full):
        box.put_nowait(batch(4))


def test_behind_until_caught_up() -> None:
    box = Mailbox(10)
    box.offer(batch(1))
    assert box.behind
    assert box.waiting == 0
    box.catch_up()
    box.offer(batch(2, 3))
    assert box.waiting == 2
    assert [e.offset for e in box.take(0)] == [2, 3]
    assert box.waiting == 0
    with pytest.raises(queue.Empty):
        box.take(0)


def test_a_full_mailbox_lets_go_and_is_behind() -> None:
    box = ready()
    box.offer(batch(1, 2))
    box.offer(batch(3))
    assert box.waiting == 3
    box.offer(batch(4))
    assert box.behind
    assert box.waiting == 0
    assert box.take(0) == ()  # what makes the reader look up
    box.offer(batch(5))
    assert box.take(0) == ()  # behind, it gets no events, only the note that the server answers
    with pytest.raises(queue.Empty):
        box.take(0)


def test_a_large_batch_for_an_idle_reader_is_kept() -> None:
    """It is in memory anyway; to let go of it would mean to fetch it twice."""
    box = ready()
    box.offer(batch(1, 2, 3, 4, 5))
    assert not box.behind
    assert len(box.take(0)) == 5


def test_let_go_and_nudge() -> None:
    box = ready(1)
    box.let_go()
    assert box.behind
    assert box.take(0) == ()
    box.nudge()
    box.nudge()
    assert box.take(0) == ()
    with pytest.raises(queue.Empty):
        box.take(0)
    box.nudge()
    box.catch_up()
    assert not box.behind
    with pytest.raises(queue.Empty):
        box.take(0)
    box.nudge()
    box.offer(batch(1))  # it takes no room from the events
    assert len(box.take(0)) == 1


def test_a_nudge_comes_after_the_events() -> None:
    box = ready()
    box.nudge()
    box.offer(batch(1))
    assert len(box.take(0)) == 1
    assert box.take(0) == ()


class Strike(BaseException):
    """What a signal handler raises."""


@pytest.mark.parametrize("step", ["popleft", "notify", "wait"])
def test_interrupted_it_is_behind_and_never_holds_fewer_than_nothing(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it strikes: the mutex is free, and the count is that of what is there."""
    box = ready(10)

    def strike(*_: object) -> None:
        raise Strike

    if step == "popleft":
        box.offer(batch(1, 2))
        get = box._get

        def taken() -> None:
            get()
            raise Strike

        monkeypatch.setattr(box, "_get", taken)
    elif step == "notify":
        box.offer(batch(1, 2))
        monkeypatch.setattr(box.not_full, "notify", strike)
    else:

        def wait(*_: object) -> None:
            box.not_empty._waiters.append(gone)  # type: ignore[attr-defined]
            raise Strike

        gone = threading.Lock()
        gone.acquire()
        monkeypatch.setattr(box.not_empty, "wait", wait)
    box.mutex.acquire()  # as if it had struck between the acquisition and the ``try`` behind it
    with pytest.raises(Strike):
        box.take(5)
    monkeypatch.undo()
    must_end(box.offer, batch(3))
    assert (box.behind, box.waiting) == (True, 0)
    box.catch_up()
    reading = in_background(box.take, 30)
    wait_until(lambda: box.not_empty._waiters, "the reader waits")  # type: ignore[attr-defined]
    box.offer(batch(3))
    assert len(reading.result(5)) == 1
    assert box.waiting == 0


def test_an_interrupted_nudge_does_not_leave_a_reader_asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """``close()`` of another thread, interrupted in the middle."""
    box = ready()

    def strike(n: int = 1) -> None:
        monkeypatch.undo()
        raise Strike

    reading = in_background(box.take, 30)
    wait_until(lambda: box.not_empty._waiters, "the reader waits")  # type: ignore[attr-defined]
    monkeypatch.setattr(box.not_empty, "notify", strike)
    with pytest.raises(Strike):
        box.nudge()
    assert reading.result(5) == ()


def test_the_queue_is_that_of_the_standard_library_also_if_gevent_has_replaced_it() -> None:
    program = (
        "import queue\n"
        "class Other: pass\n"
        "queue.Queue = Other\n"
        "from parlant_sync._polling.event_feed import Mailbox\n"
        "mailbox = Mailbox(5)\n"
        "mailbox.behind = False\n"
        "mailbox.offer([1, 2])\n"
        "print(Mailbox.__bases__[0].__module__, mailbox.take(0), mailbox.waiting)\n"
        "try: mailbox.take(0)\n"
        "except queue.Empty: print('empty')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "queue [1, 2] 0\nempty\n", done.stderr


def test_an_end_by_a_signal_handler_just_before_the_wait_is_seen(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mailbox was found empty, and nobody waits yet whom its nudge could wake."""
    size = Mailbox._qsize

    def close_then_wait(mailbox: Mailbox) -> int:
        found = size(mailbox)
        if not found:
            session._opened.hub.end(SessionClosed("by a handler"))
        return found

    reader = session.iter_events(timeout=30)
    monkeypatch.setattr(Mailbox, "_qsize", close_then_wait)
    with within(10):
        assert list(reader) == []
