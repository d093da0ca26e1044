"""``iter_events()``: in order, each once, from where and until when it was asked."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from parlant_sync import Client, ConcurrencyError, NotFoundError, Session
from parlant_sync.testing import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.agent("a")
        yield server


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.base_url, backlog_limit=50) as client:
        yield client


@pytest.fixture
def session(client: Client) -> Session:
    return client.create_session("a")


def offsets(events: object) -> list[int]:
    return [e.offset for e in events]  # type: ignore[attr-defined]


def test_each_event_once_over_several_loops(server: FakeServer, session: Session) -> None:
    session.send("one")
    first = offsets(session.iter_events(timeout=0))
    session.send("two")
    second = offsets(session.iter_events(timeout=0))
    assert first + second == offsets(session.history())
    assert first
    assert second
    assert offsets(session.iter_events(timeout=0)) == []


def test_a_broken_off_loop_goes_on_after_the_last_event_given(session: Session) -> None:
    session.send("one")
    for event in session.iter_events(timeout=0):
        if event.offset == 2:
            assert session.cursor == 2  # until the following one is asked for
            break
    assert offsets(session.iter_events(timeout=0))[0] == 3
    assert session.cursor == session.history()[-1].offset + 1


def test_two_readers_share_the_default_place(session: Session) -> None:
    session.send("one")
    one, two = session.iter_events(timeout=0), session.iter_events(timeout=0)
    assert [next(one).offset, next(two).offset, next(one).offset, next(two).offset] == [0, 1, 2, 3]
    one.close()
    two.close()


def test_independent_readers(session: Session) -> None:
    session.send("one")
    everything = offsets(session.history())
    assert offsets(session.iter_events(since="beginning", timeout=0)) == everything
    assert offsets(session.iter_events(since=3, timeout=0)) == everything[3:]
    latest = session.iter_events(since="latest", timeout=5)
    session.post("two")
    assert next(latest).offset == everything[-1] + 1
    latest.close()
    assert offsets(session.iter_events(timeout=0))[0] == 0  # the default place was not touched


def test_it_starts_where_it_is_called(session: Session) -> None:
    with session.iter_events(since="latest", timeout=5) as reader:
        posted = session.post("hello")
        assert next(reader).offset == posted.offset


def test_latest_of_an_attached_session(server: FakeServer, client: Client) -> None:
    session_id = server.create_session("a")
    server.fill(session_id, 5000)
    server.forget_requests()
    session = client.session(session_id)
    assert session.cursor == 5000
    server.say(session_id, "after the attach")
    with session.iter_events(timeout=5) as reader:
        event = next(reader)
    assert (event.offset, event.message) == (5000, "after the attach")
    # "costs no download of the history": the length told where the end is
    assert client.stats().bytes < 20_000


def test_filters(session: Session) -> None:
    session.send("one")
    assert {e.kind for e in session.iter_events(since=0, timeout=0, kinds="message")} == {"message"}
    assert [e.message for e in session.iter_events(since=0, timeout=0, sources=["customer"])] == ["one"]
    assert [e.message for e in session.history(kinds=["message"], sources="ai_agent")] == ["echo: one"]


def test_timeout_counts_filtered_events(server: FakeServer, session: Session) -> None:
    with ThreadPoolExecutor(1) as pool:
        reader = session.iter_events(timeout=1.0, kinds="custom")
        reading = pool.submit(list, reader)
        session.post("x")
        assert reading.result(30) == []
    assert session.cursor == len(session.history())


def test_gaps_and_repeats(server: FakeServer, client: Client) -> None:
    session_id = server.create_session("a")
    server.fill(session_id, 10)
    server.drop_events(session_id, [0, 4, 5])
    session = client.session(session_id, since="beginning")
    server.add_event(session_id, "custom", {"x": 1}, offset=20)
    assert offsets(session.iter_events(timeout=0)) == [1, 2, 3, 6, 7, 8, 9, 20]


def test_a_slow_reader_costs_nobody(server: FakeServer, session: Session) -> None:
    """More than ``backlog_limit`` events wait: they are let go of, and read again."""
    slow, fast = session.iter_events(timeout=5), session.iter_events(since=0, timeout=5)
    total = 0
    for _ in range(10):
        server.fill(session.id, 20)
        total += 20
        while next(fast).offset < total - 1:
            pass
    assert session.health.backlog <= 50
    assert offsets(next(slow) for _ in range(total)) == list(range(total))
    slow.close()
    fast.close()


def test_close_ends_a_loop_in_another_thread(session: Session) -> None:
    reader = session.iter_events()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(list, reader)
        reader.close()
        assert reading.result(5) == []
    assert not session.closed


def test_one_thread_at_a_time(server: FakeServer, session: Session) -> None:
    reader = session.iter_events()
    inside = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: (inside.set(), next(reader))[1])
        assert inside.wait(5)
        server.wait_polls(1)
        while not session._position.taken():  # until the thread is inside its next
            threading.Event().wait(0.001)
        with pytest.raises(ConcurrencyError, match="since="):
            session.iter_events()
        with pytest.raises(ConcurrencyError, match="since="):
            next(reader)
        server.say(session.id, "hello")
        assert reading.result(5).message == "hello"
    reader.close()


def test_a_session_that_is_gone_raises(server: FakeServer, session: Session) -> None:
    with session.iter_events() as reader:
        server.wait_polls(1)
        server.delete_session(session.id)
        with pytest.raises(NotFoundError, match=session.id):
            next(reader)
        assert list(reader) == []


def test_an_outage_does_not_end_it(server: FakeServer, session: Session) -> None:
    reader = session.iter_events(timeout=30)
    session.post("one")
    server.wait_idle()
    assert next(reader).message == "one"
    server.restart(keep=True)
    server.say(session.id, "two")
    assert "two" in (event.message for event in reader)
    reader.close()


def test_a_streamed_message_is_given_whole_and_once(server: FakeServer, session: Session) -> None:
    server.agent("a").streams(["a ", "b ", "c"], every=0.05)
    session.post("go")
    found = [e for e in session.iter_events(timeout=2) if e.source == "ai_agent" and e.kind == "message"]
    assert [(e.message, e.is_partial) for e in found] == [("a b c", False)]
    assert session.cursor == session.history()[-1].offset + 1


def test_trouble_while_a_streamed_message_is_read_again_does_not_end_the_reader(
    server: FakeServer, session: Session
) -> None:
    server.agent("a").streams(["a ", "b ", "c"], every=0.05)
    server.fail_next("GET /sessions/*/events/*", 200)  # a proxy's page
    session.post("go")
    found = [e.message for e in session.iter_events(timeout=3, sources="ai_agent", kinds="message")]
    assert found == ["a b c"]


def test_partial_gives_it_as_it_grows(server: FakeServer, session: Session) -> None:
    server.agent("a").streams(["a ", "b ", "c ", "d"], every=0.4)
    session.post("go")
    reader = session.iter_events(timeout=2, partial=True)
    found = [e for e in reader if e.source == "ai_agent" and e.kind == "message"]
    texts = [e.message or "" for e in found]
    assert len(texts) >= 3
    assert all(b.startswith(a) for a, b in itertools.pairwise(texts))
    assert texts[-1] == "a b c d"
    assert [e.is_partial for e in found][-1] is False
    assert len({e.offset for e in found}) == 1


def test_a_stream_that_was_cut_off_comes_with_the_end_of_its_turn(server: FakeServer, session: Session) -> None:
    server.agent("a").streams(["half ", "never"], every=0.1).waits("g", at="answer")
    session.post("go")
    server.reached("g")
    server.add_event(session.id, "message", {"message": "half ", "chunks": ["half "]}, trace="t9")
    server.add_event(session.id, "status", {"status": "cancelled", "data": {}}, trace="t9")
    with session.iter_events(timeout=5, kinds="message", sources="ai_agent") as reader:
        event = next(reader)
    assert (event.message, event.is_partial) == ("half ", True)


def test_numbering_that_went_back() -> None:
    with FakeServer("3.2") as server:
        server.agent("a")
        with Client(server.base_url) as old:
            session = old.create_session("a")
            session.send("one")
            assert len(offsets(session.iter_events(timeout=0))) == len(session.history())
            server.wipe(session.id)
            assert session.send("two").text == "echo: two"
            assert [e.message for e in session.iter_events(timeout=0, kinds="message")] == ["two", "echo: two"]
