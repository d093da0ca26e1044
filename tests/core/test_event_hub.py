from __future__ import annotations

import gc

from parlant_sync._polling.event_hub import EventHub
from parlant_sync._polling.mailbox import Mailbox
from parlant_sync.errors import NotFoundError, SessionClosed
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
    assert not join(hub, 5).is_behind()
    assert join(hub, 4).is_behind()
    assert join(hub, 6).is_behind()
    other = Mailbox(10)
    hub.join(other, 5, epoch=7)
    assert other.is_behind()


def test_forgotten_readers_are_forgotten() -> None:
    hub = EventHub(0)
    box = join(hub)
    kept = join(hub)
    hub.deliver(batch(0), hub.place)
    assert hub.backlog == 2
    del box
    gc.collect()
    assert hub.backlog == 1
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
    assert box.is_behind()
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


def test_the_end_is_reported_once() -> None:
    ends: list[str] = []
    hub = EventHub(0, on_end=lambda: ends.append("ended"))
    hub.end(SessionClosed("over"))
    hub.end(SessionClosed("over again"))
    assert ends == ["ended"]


def test_a_post_that_the_poller_saw_first_is_no_renumbering() -> None:
    hub = EventHub(0)
    known = hub.place
    hub.deliver(batch(0, 1), hub.place)
    assert not hub.note_posted(0, known)
    assert hub.latest() == 2
    hub.note_posted(7, hub.place)
    assert hub.latest() == 8


def test_the_first_ending_wins() -> None:
    hub = EventHub(0)
    box = join(hub)
    hub.deliver(batch(0), hub.place)
    first = NotFoundError("gone", status=404)
    assert hub.end(first)
    assert not hub.end(SessionClosed("later"))
    assert hub.ending is first
    assert hub.deliver(batch(1), hub.place) == 0
    assert offsets(box) == [0]


def test_agent_status() -> None:
    hub = EventHub(0)
    assert hub.agent_status is None

    def status(offset: int, text: str, source: str) -> Event:
        return Event({"offset": offset, "kind": "status", "source": source, "data": {"status": text}})

    hub.deliver([status(0, "typing", "ai_agent"), status(1, "x", "customer_ui")], hub.place)
    assert hub.agent_status == "typing"
    hub.deliver(batch(2), hub.place)
    assert hub.agent_status == "typing"
