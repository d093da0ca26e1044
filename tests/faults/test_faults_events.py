"""Events repeated, shuffled, with gaps; offsets that go back: each once, in order."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from support.fault_backends import Backend, connected, fake_backend, polling, take
from support.fault_orders import split_answer, with_body
from support.raw_server import answer

from parlant_sync.testing import FakeServer

pytestmark = pytest.mark.usefixtures("quick_retries")

Events = list[dict[str, Any]]


def with_events(change: Callable[[Events], Any]) -> Callable[[bytes], tuple[bytes, str]]:
    def apply(whole: bytes) -> tuple[bytes, str]:
        events = json.loads(split_answer(whole)[1])
        return with_body(whole, json.dumps(change(events)).encode()), "keep"

    return apply


def _shuffled(seed: int) -> Callable[[Events], Events]:
    chance = random.Random(seed)

    def change(events: Events) -> Events:
        events = [*events, *chance.sample(events, len(events) // 2)]
        chance.shuffle(events)
        return events

    return change


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_and_repeated_within_an_answer(seed: int, backend: Backend) -> None:
    with connected(backend) as (proxy, client):
        session = client.create_session("quick")
        reader = session.iter_events(timeout=20)
        proxy.change(with_events(_shuffled(seed)), lambda e: e.kind in ("poll", "list"), times=float("inf"))
        for number in range(3):
            assert session.send(f"m{number}", timeout=30).text == f"echo: m{number}"
        offsets = backend.offsets(session.id)
        assert [event.offset for event in take(session, len(offsets), reader)] == offsets
        assert [event.offset for event in session.history()] == offsets


def test_old_events_in_every_answer(both: Backend) -> None:
    """A server (or a cache before it) that ignores ``min_offset``."""
    with connected(both) as (proxy, client):
        session = client.create_session("quick")
        reader = session.iter_events(timeout=20)
        past: dict[int, Any] = {}

        def all_of_it(events: Events) -> Events:
            past.update({event["offset"]: event for event in events})
            return list(past.values())

        proxy.change(with_events(all_of_it), times=float("inf"))
        for number in range(3):
            assert session.send(f"m{number}", timeout=30).text == f"echo: m{number}"
        offsets = both.offsets(session.id)
        assert [event.offset for event in take(session, len(offsets), reader)] == offsets
        proxy.wait(lambda: client.stats().events == len(offsets), what="the count of events")


def test_an_answer_that_only_repeats_is_no_busy_loop(fake: Backend) -> None:
    """The stale answer of a cache, at once, for ever: as many requests as early 504s may have."""
    with connected(fake) as (proxy, client):
        session = client.create_session("quick")
        fake.custom(session.id)
        assert len(take(session, 1)) == 1
        stale = json.dumps(fake.events(session.id)).encode()
        polling(proxy, session)
        proxy.answer(answer(stale), "poll", times=float("inf"))
        proxy.cut_all()
        before = len(proxy.of("poll"))
        # Retries are quick here: between 0.01 and 0.2 s. A busy loop does hundreds in this time.
        with pytest.raises(TimeoutError):
            proxy.wait(lambda: len(proxy.of("poll")) - before > 60, 1.5)
        proxy.clear()
        assert session.send("hello", timeout=30).text == "echo: hello"


def test_gaps(fake: Backend) -> None:
    assert fake.fake is not None
    with connected(fake) as (proxy, client):
        session = client.create_session("quick")
        reader = session.iter_events(timeout=20)
        fake.fake.add_event(session.id, offset=3)
        fake.fake.add_event(session.id, offset=4)
        fake.fake.add_event(session.id, offset=1000)
        assert session.send("over the gap", timeout=30).text == "echo: over the gap"
        offsets = fake.offsets(session.id)
        assert offsets[:4] == [3, 4, 1000, 1001]
        assert [event.offset for event in take(session, len(offsets), reader)] == offsets
        assert [event.offset for event in take(session, 2, session.iter_events(since=5, timeout=10))] == [1000, 1001]
        assert proxy.of("poll")[-1].min_offset == offsets[-1] + 1


@pytest.mark.parametrize("version", ["3.1", "3.2", "3.3"])
@pytest.mark.parametrize("down_to", [0, 3])
def test_a_wiped_session(version: str, down_to: int) -> None:
    """Up to 3.2 the numbering goes back; ``send()`` notices, and readers go on from there."""
    with FakeServer(version) as server:
        backend = fake_backend(server)
        with connected(backend) as (_, client):
            session = client.create_session("quick")
            reader = session.iter_events(timeout=20)
            independent = session.iter_events(since="beginning", timeout=20)
            for number in range(2):
                assert session.send(f"m{number}", timeout=30).text == f"echo: m{number}"
            offsets = backend.offsets(session.id)
            for each in (reader, independent):
                assert [event.offset for event in take(session, len(offsets), each)] == offsets

            server.wipe(session.id, down_to)
            for number in range(2):
                assert session.send(f"again {number}", timeout=30).text == f"echo: again {number}"

            new = [o for o in backend.offsets(session.id) if o >= (down_to if version != "3.3" else offsets[-1] + 1)]
            assert new
            assert (new[0] == down_to) == (version != "3.3")
            for each in (reader, independent):
                assert [event.offset for event in take(session, len(new), each)] == new
            assert session.cursor == new[-1]


@pytest.mark.parametrize("version", ["3.1", "3.2"])
def test_a_session_wiped_between_a_post_and_its_answer(version: str) -> None:
    """The wipe happens while a turn runs; the session is usable afterwards."""
    with FakeServer(version) as server:
        server.agent("quick").echoes().waits("gate")
        with connected(Backend(server.base_url, server)) as (_, client):
            session = client.create_session("quick")
            event = session.post("lost")
            server.reached("gate")
            server.wipe(session.id, 0)
            server.release("gate")
            server.wait_idle()
            assert session.send("after", timeout=30).text == "echo: after"
            assert event.offset == 0


@pytest.mark.real
def test_the_real_server_after_a_wipe(real: Backend) -> None:
    with connected(real) as (_, client):
        session = client.create_session("quick")
        assert session.send("one", timeout=30).text == "echo: one"
        try:
            real.ask("DELETE", f"/sessions/{session.id}/events?min_offset=0")
        except OSError:
            pass  # it says 500 though it has done it (WIRE.md)
        assert session.send("two", timeout=30).text == "echo: two"
