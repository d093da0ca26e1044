from __future__ import annotations

import gc
import queue

import pytest
from support.waiting import Clock

from parlant_sync._polling.event_feed import Mailbox
from parlant_sync._polling.event_hub import EventHub
from parlant_sync.errors import ForkedProcessError, SessionClosed
from parlant_sync.events import Event


def batch(*offsets: int) -> list[Event]:
    return [Event({"offset": o}) for o in offsets]


def join(hub: EventHub, offset: int | None = None) -> Mailbox:
    box = Mailbox(100)
    hub.join(box, offset, hub.place.epoch)
    return box


def offsets(box: Mailbox) -> list[int]:
    found: list[int] = []
    while box.waiting:
        found += [e.offset for e in box.take(0)]
    return found


def test_every_reader_gets_every_event_once() -> None:
    hub = EventHub(0)
    one, two = join(hub), join(hub)
    assert hub.deliver(batch(0, 1), hub.place) == 2
    assert hub.deliver(batch(1, 2), hub.place) == 1
    assert hub.deliver(batch(0, 2), hub.place) == 0
    assert hub.deliver([], hub.place) == 0
    assert offsets(one) == offsets(two) == [0, 1, 2]
    assert hub.place.next == 3


def test_a_reader_elsewhere_is_behind() -> None:
    hub = EventHub(5)
    assert not join(hub, 5).behind
    assert join(hub, 4).behind
    assert join(hub, 6).behind
    other = Mailbox(10)
    hub.join(other, 5, epoch=7)
    assert other.behind


def test_forgotten_readers_are_forgotten() -> None:
    hub = EventHub(0)
    box = join(hub)
    kept = join(hub)
    hub.deliver(batch(0), hub.place)
    assert hub.backlog == 2
    del box
    gc.collect()
    assert hub.backlog == 1
    assert len(hub._mailboxes) == 1
    hub.leave(kept)
    assert hub.backlog == 0


def test_numbering_that_goes_back() -> None:
    hub = EventHub(0)
    box = join(hub)
    hub.deliver(batch(0, 1, 2), hub.place)
    known = hub.place
    assert not hub.note_posted(3, known)
    assert hub.note_posted(0, known)
    assert hub.renumber(0, known)
    assert hub.place.next == 0
    assert hub.place.base == 0
    assert box.behind
    # What was asked in the old numbering says nothing about the new one.
    assert hub.deliver(batch(3, 4), known) == 0
    assert hub.deliver(batch(0), hub.place) == 1
    # Of several posts that notice it, one begins anew, or one more that has noticed it further below.
    assert not hub.note_posted(1, known)
    assert not hub.renumber(1, known)


def test_two_posts_that_notice_it_out_of_order() -> None:
    hub = EventHub(0)
    hub.deliver(batch(0, 1, 2), hub.place)
    known = hub.place
    assert hub.note_posted(1, known)
    assert hub.renumber(1, known)
    assert hub.note_posted(0, known)
    assert hub.renumber(0, known)
    assert (hub.place.next, hub.place.base) == (0, 0)


def test_the_end_is_reported_to_all_and_the_first_cause_counts() -> None:
    found: list[object] = []
    hub = EventHub(0)
    box = join(hub)
    hub.deliver(batch(0), hub.place)
    hub.on_end(found.append)
    first = SessionClosed("over")
    hub.end(first)
    assert found == [first]
    hub.end(SessionClosed("over again"))  # the first call may have been interrupted: everything is woken again
    assert found == [first, first]
    assert hub.stop_signal.is_set()
    assert hub.ending is first
    assert hub.deliver(batch(1), hub.place) == 0
    assert (offsets(box), box.take(0)) == ([0], ())  # what had arrived, and then the end


def test_a_forked_child_is_recognised_by_its_process_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a hook, which a fork in C skips, and with the lock held by a thread that the child does not have."""
    hub = EventHub(0, "session s1 on http://there")
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(ForkedProcessError, match=r"session s1 on http://there was opened by process .*, before"):
        hub.check()
    assert hub.inherited
    monkeypatch.undo()
    hub.check()


def test_a_post_that_the_poller_saw_first_is_no_renumbering() -> None:
    hub = EventHub(0)
    known = hub.place
    hub.deliver(batch(0, 1), hub.place)
    assert not hub.note_posted(0, known)
    assert hub.latest() == 2
    hub.note_posted(7, hub.place)
    assert hub.latest() == 8


def test_agent_status() -> None:
    hub = EventHub(0)
    assert hub.agent_status is None

    def status(offset: int, text: str, source: str) -> Event:
        return Event({"offset": offset, "kind": "status", "source": source, "data": {"status": text}})

    hub.deliver([status(0, "typing", "ai_agent"), status(1, "x", "customer_ui")], hub.place)
    assert hub.agent_status == "typing"
    hub.deliver(batch(2), hub.place)
    assert hub.agent_status == "typing"


def test_a_poll_that_does_not_deliver_what_was_posted_is_overdue(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """Once for all who wait; again after twice the time, if the next poll does not deliver it either."""
    monkeypatch.setattr("parlant_sync._deadline.monotonic", clock)
    hub = EventHub(0)
    box = join(hub)
    assert (hub.overdue.bound(None), hub.take_overdue()) == (None, False)
    hub.note_posted(4, hub.place)
    assert box.take(0) == ()  # a reader that waits already learns of it
    assert 2.0 <= (hub.overdue.bound(None) or 0) <= 3.0
    hub.deliver(batch(3), hub.place)  # an earlier event proves nothing
    for moment, overdue in [(1.9, False), (3.0, True), (3.0, False), (7.9, False), (8.1, True)]:
        clock.now = moment
        assert hub.take_overdue() is overdue, moment
    hub.deliver(batch(4), hub.place)
    clock.now = 1000
    assert (hub.overdue.bound(None), hub.take_overdue()) == (None, False)
    hub.note_posted(4, hub.place)  # the poll was faster than the answer to the post
    assert hub.overdue.bound(None) is None


def test_a_poll_that_succeeds_wakes_readers_that_are_behind() -> None:
    hub = EventHub(5)
    box, early = join(hub), join(hub, 0)
    hub.deliver([], hub.place)
    assert early.take(0) == ()
    with pytest.raises(queue.Empty):
        box.take(0)


def test_the_mode_that_a_tool_has_set_is_kept() -> None:
    """Whatever else results of tools look like."""
    hub = EventHub(0)

    def tool(offset: int, *results: object) -> Event:
        calls = [{"tool_id": "t", "result": result} for result in results]
        return Event({"offset": offset, "kind": "tool", "data": {"tool_calls": [*calls, {"tool_id": "none"}]}})

    hub.deliver([tool(0, None, "odd", {}, {"control": None}, {"control": {"mode": 5}})], hub.place)
    assert hub.handed_over is None
    hub.deliver([tool(1, {"control": {"mode": "manual"}})], hub.place)
    hub.deliver([tool(2, {}), *batch(3)], hub.place)
    assert hub.handed_over == "manual"
