"""``iter_events()``: in order, each once, from where and until when it was asked."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from support.raw_api import in_background
from support.waiting import wait_until, within

from parlant_sync import Client, ConcurrencyError, ServerError, Session, TransportError
from parlant_sync.testing import FakeServer, Response


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.base_url, backlog_limit=50) as client:
        yield client


# Offsets are used again: the numbering goes back.
reuses_offsets = pytest.mark.parametrize("server", ["3.2"], indirect=True)


def offsets(events: object) -> list[int]:
    return [e.offset for e in events]  # type: ignore[attr-defined]


def test_a_broken_off_loop_goes_on_after_the_last_event_given(session: Session) -> None:
    session.send("one")
    for event in session.iter_events(timeout=0):
        if event.offset == 2:
            assert session.cursor == 2  # until the following one is asked for
            break
    assert offsets(session.iter_events(timeout=0))[0] == 3
    assert session.cursor == session.history()[-1].offset + 1


def test_timeout_counts_filtered_events(server: FakeServer, session: Session) -> None:
    reader = session.iter_events(timeout=1.0, kinds="custom")
    reading = in_background(list, reader)
    session.post("x")
    assert reading.result(30) == []
    assert session.cursor == len(session.history())


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


def test_one_thread_at_a_time(server: FakeServer, session: Session) -> None:
    reader = session.iter_events()
    reading = in_background(next, reader)
    wait_until(session._opened.hub.position.claim.taken, "the thread is inside its next")
    with pytest.raises(ConcurrencyError, match="since="):
        session.iter_events()
    with pytest.raises(ConcurrencyError, match="since="):
        next(reader)
    server.say(session.id, "hello")
    assert reading.result(5).message == "hello"
    reader.close()


def test_an_outage_does_not_end_it(server: FakeServer, session: Session) -> None:
    reader = session.iter_events(timeout=30)
    session.post("one")
    server.wait_idle()
    assert next(reader).message == "one"
    server.restart(keep=True)
    server.say(session.id, "two")
    assert "two" in (event.message for event in reader)
    reader.close()


@pytest.mark.slow
def test_trouble_while_a_streamed_message_is_read_again_does_not_end_the_reader(
    server: FakeServer, session: Session
) -> None:
    server.agent("a").streams(["a ", "b ", "c"], every=0.05)
    server.fail_next("GET /sessions/*/events/*", 200)  # a proxy's page
    session.post("go")
    found = [e.message for e in session.iter_events(timeout=3, sources="ai_agent", kinds="message")]
    assert found == ["a b c"]


def test_a_stream_that_was_cut_off_comes_with_the_end_of_its_turn(server: FakeServer, session: Session) -> None:
    server.agent("a").streams(["half ", "never"], every=0.1).waits("g", at="answer")
    session.post("go")
    server.reached("g")
    server.add_event(session.id, "message", {"message": "half ", "chunks": ["half "]}, trace="t9")
    server.add_event(session.id, "status", {"status": "cancelled", "data": {}}, trace="t9")
    with session.iter_events(timeout=5, kinds="message", sources="ai_agent") as reader:
        event = next(reader)
    assert (event.message, event.is_partial) == ("half ", True)


def test_two_default_readers_in_one_thread_give_each_event_once(server: FakeServer, session: Session) -> None:
    """The events behind a streamed message are held by the reader that met it; another one may be given them first."""
    server.agent("a").streams("one two three", every=0.1)
    session.post("hi")
    outer, inner = [], []
    for event in session.iter_events(timeout=1):
        outer.append(event.offset)
        if event.message == "one two three":
            inner = offsets(session.iter_events(timeout=1))
    assert sorted(outer + inner) == [e.offset for e in session.history()]
    assert offsets(session.iter_events(timeout=0)) == []


@pytest.mark.slow
def test_a_partial_reader_left_behind_repeats_nothing(server: FakeServer, session: Session) -> None:
    server.agent("a").streams(["a ", "b ", "c"], every=0.3)
    session.post("hi")
    partial = session.iter_events(timeout=2, partial=True)
    found = next(e for e in partial if e.is_partial)
    rest = offsets(session.iter_events(timeout=2))
    assert rest[0] == found.offset
    assert offsets(partial) == []


@reuses_offsets
@pytest.mark.parametrize("keep", [0, 6])
def test_what_a_wipe_left_and_what_others_wrote_after_it_is_given(
    server: FakeServer, session: Session, keep: int
) -> None:
    server.agent("a").ignores()
    server.fill(session.id, 10)
    wait_until(lambda: session.health.next_offset == 10)
    unread = session.iter_events(timeout=1)
    read = session.iter_events(since="latest", timeout=1)
    server.wipe(session.id, keep)
    server.add_event(session.id)
    server.add_event(session.id)
    session.post("hello")
    assert offsets(unread) == list(range(keep + 3))
    assert offsets(read) == list(range(keep, keep + 3))


def test_latest_is_what_the_server_has_now(server: FakeServer) -> None:
    """Not what the poller knows: it may have been parked, or be late."""
    with Client(server.base_url, poll_wait=1, idle_timeout=0.1) as client:
        server.agent("a")
        session = client.create_session("a")
        session.send("hi")
        wait_until(lambda: session.health.state == "parked")
        server.add_event(session.id, "custom", {"old": True})
        with session.iter_events(since="latest", timeout=1, kinds="custom") as reader:
            server.add_event(session.id, "custom", {"new": True})
            assert [e.data for e in reader] == [{"new": True}]


def test_a_trigger_after_parking_is_not_an_old_turn(server: FakeServer) -> None:
    with Client(server.base_url, poll_wait=1, idle_timeout=0.1) as client:
        server.agent("a").replies("old").replies("older").replies("spoken now")
        session = client.create_session("a")
        session.send("one")
        wait_until(lambda: session.health.state == "parked")
        server.say(session.id, "by somebody else")
        server.wait_idle()
        assert session.trigger().text == "spoken now"


def test_a_stream_that_is_dead_does_not_stop_short_loops(
    server: FakeServer, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server was stopped in the middle of it, and nothing says that its turn is over."""
    monkeypatch.setattr("parlant_sync._api.streaming.STALE", 1.0)
    server.agent("a").streams("one two three four", every=0.3).waits("never", at="chunk")
    session.post("q")
    wait_until(lambda: any(e.is_partial for e in session.history()))
    server.restart(keep=True)
    server.human(session.id, "I am human")
    found: list[int] = []
    wait_until(lambda: found.extend(offsets(session.iter_events(timeout=0))) or len(found) == len(session.history()))
    assert found == [e.offset for e in session.history()]


def test_a_dead_stream_is_told_by_the_clock_of_the_server(server: FakeServer, session: Session) -> None:
    """For readers that never wait, each in a process of its own."""
    server.add_event(session.id, "message", {"message": "half", "chunks": ["half"]})
    server.add_event(session.id, "custom", {"young": True})
    assert offsets(session.iter_events(since=0, timeout=0)) == []

    def age(response: Any) -> None:
        events = json.loads(response.body)
        events[0]["creation_utc"] = "2020-01-01T00:00:00+00:00"
        response.body = json.dumps(events).encode()

    server.alter_next(lambda r: r.query.get("wait_for_data") == "0", age)
    assert offsets(session.iter_events(since=0, timeout=0)) == [0, 1]


def test_a_list_that_failed_is_asked_again(server: FakeServer, session: Session) -> None:
    server.fill(session.id, 3)
    wait_until(lambda: session.health.next_offset == 3)
    reader = session.iter_events(timeout=0)
    server.fail_next(lambda r: r.method == "GET" and r.query.get("wait_for_data") == "0", 503, times=3)
    with pytest.raises(ServerError):
        next(reader)
    assert offsets(reader) == [0, 1, 2]


def test_what_the_server_has_now_is_asked_as_history_asks(server: FakeServer) -> None:
    """With the same attempts, within the same time."""
    lists = lambda r: r.method == "GET" and r.query.get("wait_for_data") == "0"  # noqa: E731
    with Client(server.base_url, request_timeout=0.6) as client:
        session = client.create_session("a")
        took = []
        hold = server.hold_next(lists, times=None)
        for call in (session.history, lambda: list(session.iter_events(timeout=0))):
            server.forget_requests()
            started = time.monotonic()
            with pytest.raises(TransportError, match="no answer in time"):
                call()
            took.append((time.monotonic() - started, len([r for r in server.requests if lists(r)])))
        hold.release()
        server.clear_faults()
        assert took[0][1] == took[1][1]
        assert took[1][0] < 3 * took[0][0]


class _Keeping(HTTPAdapter):
    """A cache that ignores no-store: it answers each address with the first answer it has seen there."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[str, requests.Response] = {}

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        kept = self._kept.get(str(request.url))
        if request.method != "GET" or kept is None:
            response = super().send(request, *args, **kwargs)
            response.content  # noqa: B018 - read here, so that it can be given again
            if request.method == "GET":
                self._kept[str(request.url)] = response
            kept = response
        return copy.copy(kept)


def test_no_cache_hides_events_from_a_reader(server: FakeServer) -> None:
    """An old list would do worse than come late: what it lacks, the mailbox does not bring."""

    def caching() -> requests.Session:
        session = requests.Session()
        session.mount("http://", _Keeping())
        return session

    with Client(server.base_url, session_factory=caching) as client:
        session = client.create_session("a")
        for count in 0, 1, 2:
            assert len(list(session.iter_events(since="beginning", timeout=0))) == count
            server.add_event(session.id, "custom", {})


def test_no_cache_cuts_a_streamed_message_off(server: FakeServer) -> None:
    def caching() -> requests.Session:
        session = requests.Session()
        session.mount("http://", _Keeping())
        return session

    server.agent("a").streams("one two three four", every=0.3)
    with Client(server.base_url, session_factory=caching) as client, client.create_session("a").stream("x") as turn:
        assert "".join(turn.text) == "one two three four"


def test_another_event_is_never_taken_for_a_streamed_message(server: FakeServer, session: Session) -> None:
    """A connection that is one answer behind gives what another request asked for."""
    server.add_event(session.id, "message", {"message": "other"})
    (other,) = session.history()
    server.agent("a").streams("one two three")
    server.alter_next(
        lambda request: "/events/" in request.path, lambda _: Response(200, json.dumps(other.raw).encode())
    )
    assert session.send("x").text == "one two three"


def test_growth_is_seen_though_other_events_keep_coming(server: FakeServer, session: Session) -> None:
    server.agent("a").streams("one two three four five six", every=0.3)
    over = threading.Event()

    def busy() -> None:
        while not over.wait(0.05):
            server.add_event(session.id, "custom", {})

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        with session.stream("q") as turn:
            assert len(list(turn.text)) >= 4
        session.post("again")
        texts = []
        for event in session.iter_events(timeout=5, partial=True, kinds="message", sources="ai_agent"):
            texts.append(event.message)
            if len(texts) > 4 and not event.is_partial:
                break
        assert len(texts) >= 5
    finally:
        over.set()
        thread.join()


def test_a_hanging_request_does_not_outlast_the_loop(server: FakeServer) -> None:
    with Client(server.base_url, request_timeout=20) as client:
        server.agent("a").streams(["word "] * 1000, every=0.1)
        session = client.create_session("a")
        hold = server.hold_next("GET /sessions/*/events/*", times=None)
        session.post("q")
        started = time.monotonic()
        list(session.iter_events(timeout=1))
        assert time.monotonic() - started < 10
        before = hold.count
        reading = in_background(list, session.iter_events(timeout=30))
        hold.wait(count=before + 1)
        with within(5):
            session.close()
            reading.result(10)
        hold.release()


def test_a_session_closed_during_a_list_ends_the_loop(server: FakeServer, session: Session) -> None:
    reader = session.iter_events(timeout=0)
    hold = server.hold_next(lambda r: r.method == "GET" and r.query.get("wait_for_data") == "0")
    reading = in_background(list, reader)
    hold.wait()
    session.close()
    assert reading.result(5) == []
    hold.release()


def test_a_reader_closed_from_another_thread_gives_what_had_arrived(server: FakeServer, session: Session) -> None:
    reader = session.iter_events()
    server.fill(session.id, 5)
    wait_until(lambda: session.health.backlog == 5)
    reader.close()
    server.fill(session.id, 1)
    wait_until(lambda: session.health.next_offset == 6)
    assert offsets(reader) == [0, 1, 2, 3, 4]
    assert session.cursor == 5
    assert offsets(session.iter_events(timeout=0)) == [5]


def test_a_reader_closed_while_the_server_is_down(server: FakeServer, session: Session) -> None:
    server.fill(session.id, 3)
    wait_until(lambda: session.health.next_offset == 3)
    reader = session.iter_events(since="beginning")
    server.stop()
    reading = in_background(list, reader)
    wait_until(lambda: session.health.consecutive_failures > 0)
    reader.close()
    reading.result(5)


@reuses_offsets
def test_refused_while_it_learns_of_a_new_numbering(server: FakeServer, session: Session) -> None:
    server.agent("a").ignores()
    server.fill(session.id, 10)
    wait_until(lambda: session.health.next_offset == 10)
    assert len(list(session.iter_events(timeout=1))) == 10
    reader = session.iter_events(timeout=0)
    server.wipe(session.id)
    session.post("hello")
    server.fail_next(lambda r: r.method == "GET" and r.query.get("wait_for_data") == "0", 503, times=None)
    with pytest.raises(ServerError):
        next(reader)
    server.clear_faults()
    assert offsets(reader) == [0]
    assert offsets(session.iter_events(timeout=0)) == []


@pytest.mark.slow
def test_a_streamed_message_behind_another_is_given_whole_as_well(server: FakeServer, session: Session) -> None:
    """It has waited, taken half, for the end of the first."""

    def stored(text: str, *, whole: bool) -> dict[str, Any]:
        return {"message": text, "chunks": [text, None] if whole else [text]}

    ended = threading.Event()

    def grow(response: Any) -> Any:
        if not ended.is_set():
            return Response(503)  # the looks at the end of the first
        events = json.loads(response.body)
        for event in events if isinstance(events, list) else [events]:
            if event["kind"] == "message":
                event["data"] = stored(event["data"]["message"] + " done", whole=True)
        response.body = json.dumps(events).encode()
        return None

    server.alter_next("GET /sessions/*/events/*", grow, times=None)
    server.add_event(session.id, "message", stored("first", whole=False), trace="T")
    got: list[tuple[int, str | None, bool]] = []
    reading = in_background(
        lambda: got.extend((e.offset, e.message, e.is_partial) for e in session.iter_events(timeout=4))
    )
    wait_until(lambda: session._opened.hub.position.growing is not None)
    server.add_event(session.id, "status", {"status": "ready", "data": {}}, trace="T")
    server.add_event(session.id, "message", stored("second", whole=False), trace="T")
    wait_until(lambda: session.health.next_offset == 3)
    ended.set()
    reading.result(30)
    assert got == [(0, "first done", False), (1, None, False), (2, "second done", False)]


def test_closed_after_an_overflow_it_gives_what_had_arrived(server: FakeServer) -> None:
    with Client(server.base_url, backlog_limit=10) as client:
        server.agent("a").ignores()
        session = client.create_session("a")
        reader = session.iter_events()
        for count in range(1, 5):
            server.fill(session.id, 8)
            wait_until(lambda count=count: session.health.next_offset == 8 * count)  # type: ignore[misc]
        reader.close()
        assert offsets(reader) == list(range(32))


@reuses_offsets
def test_two_default_readers_over_a_numbering_that_went_back_give_each_event_once(
    server: FakeServer, session: Session
) -> None:
    """What the first has given of the new numbering, the second is told when it learns of that."""
    server.agent("a").ignores()
    server.fill(session.id, 3)
    wait_until(lambda: session.health.next_offset == 3)
    assert offsets(session.iter_events(timeout=0)) == [0, 1, 2]
    late = session.iter_events(timeout=0)
    server.wipe(session.id)
    server.add_event(session.id)
    session.post("hello")
    assert next(session.iter_events(timeout=0)).offset == 0
    assert offsets(late) == [1]
