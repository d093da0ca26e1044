"""How a turn is followed: quiet periods, second looks, what is said when the time is over."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from support.raw_api import in_background
from support.waiting import wait_until, within

from parlant_sync import AgentUnavailable, Client, Session, TurnTimeout
from parlant_sync._turns import tracker
from parlant_sync.testing import FakeServer, store

LATER = "2099-01-01T00:00:00Z"


@pytest.fixture(params=["3.0", "3.1", "3.2", "3.3"])
def each(request: pytest.FixtureRequest) -> Iterator[tuple[FakeServer, Client]]:
    """A server of each version, and its client."""
    with FakeServer(request.param) as server, Client(server.base_url) as client:
        yield server, client


@pytest.fixture(autouse=True)
def short_quiet_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "EMPTY_QUIET", 0.3)
    monkeypatch.setattr(tracker, "HOOK_QUIET", 0.6)


def status(name: str, **data: object) -> dict[str, object]:
    return {"kind": "status", "data": {"status": name, "data": data}}


def says(text: str) -> dict[str, object]:
    return {"kind": "message", "data": {"message": text}}


@pytest.mark.parametrize("mode", ["fluid", "canned_fluid", "strict", "composited"])
def test_five_turns_in_a_row(each: tuple[FakeServer, Client], mode: str) -> None:
    server, client = each
    server.agent("a", composition_mode=mode).echoes()  # type: ignore[arg-type]
    session = client.create_session("a")
    assert [session.send(f"q{n}", timeout=10).text for n in range(5)] == [f"echo: q{n}" for n in range(5)]
    reads = [r for r in server.requests if r.path == "/agents/a"]
    assert len(reads) == (1 if server.agent("a") and not session._starter.abilities.labels else 0)


def test_an_agent_that_cannot_be_read_costs_a_quiet_period(each: tuple[FakeServer, Client]) -> None:
    server, client = each
    server.agent("a", composition_mode="fluid")
    server.fail_next("GET /agents/*", 403, b'{"detail": "no"}', times=None)
    session = client.create_session("a")
    assert [session.send(f"q{n}", timeout=10).text for n in range(2)] == ["echo: q0", "echo: q1"]


def test_a_hook_that_answers_and_stops_the_engine(each: tuple[FakeServer, Client]) -> None:
    server, client = each
    server.agent("a").hook_answers("Hello from the hook.")
    session = client.create_session("a")
    reply = session.send("q", timeout=20)
    assert (reply.outcome, reply.text, reply.events[-1].message) == ("answered", "Hello from the hook.", reply.text)
    assert reply.duration < 0.5  # to the message, without the quiet period


def test_a_turn_of_a_hook_that_is_read_late_waits_no_more(server: FakeServer, session: Session) -> None:
    server.agent("a").hook_answers("hi")
    turn = session.stream("q")
    server.wait_idle()
    assert next(turn.text) == "hi"
    turn._driver._started -= 10.0  # as if the post was ten seconds ago
    turn._driver._start_over()
    with within(0.5):
        assert turn.reply().text == "hi"


def test_a_quiet_period_is_over_only_if_the_server_says_so(server: FakeServer, session: Session) -> None:
    """The polls see nothing while they fail; the list that is then asked shows that the turn goes on."""
    server.agent("a").replies("answer").with_hook_message("hi").waits("g", at="start")
    turn = session.stream("q", timeout=20)
    replying = in_background(turn.reply)
    server.reached("g")
    wait_until(lambda: session.health.next_offset == 3)  # the hook's message has come
    server.fail_next(lambda request: request.waits, 502, times=None)
    server.cut_connections()
    server.release("g")
    server.wait_requests(lambda request: request.query.get("wait_for_data") == "0")
    server.clear_faults()
    assert replying.result(20).text == "hi\n\nanswer"


def test_later_events_end_a_quiet_period_that_is_past(
    server: FakeServer, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.agent("a").hook_answers("hi")
    posted = session.post("q")
    server.wait_idle()
    monkeypatch.setattr(store, "now", lambda: LATER)
    session.post_event("custom", {"later": True})
    started = time.monotonic()
    reply = session.reply_to(posted)
    assert reply.text == "hi"
    assert reply.duration < 0.2  # by the times of the server, not of this reading
    assert time.monotonic() - started < 0.5


def test_an_empty_turn_before_the_answers_part(each: tuple[FakeServer, Client]) -> None:
    server, client = each
    server.agent("a", composition_mode="fluid", preamble=False).stays_silent()
    session = client.create_session("a")
    with within(2.0):
        assert session.send("q", timeout=20).outcome == "empty"


def test_a_hook_that_stops_the_engine_silently_leaves_only_the_deadline(server: FakeServer, session: Session) -> None:
    server.agent("a").hook_stops()
    with pytest.raises(TurnTimeout, match="was still working"):
        session.send("q", timeout=1.0)


@pytest.mark.parametrize(
    ("emits", "text"),
    [
        ({"status": "ready", "data": {"progress": 50}}, "answer"),
        ({"status": "error", "data": {"message": "down"}}, "answer"),
        ({"message": "found"}, "found\n\nanswer"),
        ({"custom": {"x": 1}}, "answer"),
    ],
    ids=["ready", "error", "message", "custom"],
)
@pytest.mark.parametrize("mode", ["fluid", "canned_fluid"])
def test_what_tools_send(each: tuple[FakeServer, Client], mode: str, emits: dict[str, object], text: str) -> None:
    server, client = each
    agent = server.agent("a", composition_mode=mode).replies("answer")  # type: ignore[arg-type]
    agent.with_tool("t", emits=[emits])
    reply = client.create_session("a").send("q", timeout=10)
    assert (reply.outcome, reply.text) == ("answered", text)


def test_cost_control_says_when_to_try_again(
    server: FakeServer, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "now", lambda: "2026-01-01T00:00:00Z")
    refusal = {"circuit_breaker": "open", "reason": "budget", "retry_after_utc": "2026-01-01T00:01:00Z"}
    server.agent("a").emits(status("acknowledged"), status("ready", stage="completed", cost_control=refusal))
    with pytest.raises(AgentUnavailable, match=r"budget.*try again in 60 s") as caught:
        session.send("q")
    assert (caught.value.retry_after, caught.value.summary, caught.value.partial.text) == (60.0, "budget", "")


def test_a_finished_turn_of_the_past_is_not_looked_at_again(
    server: FakeServer, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty turn may be followed by an error. What came half a second later shows that there is none."""
    server.agent("a").stays_silent()
    posted = session.post("q")
    server.wait_idle()
    monkeypatch.setattr(store, "now", lambda: LATER)
    session.post_event("custom", {"later": True})
    with within(0.4):
        assert session.reply_to(posted).outcome == "empty"


# -- out of time


def test_out_of_time_in_manual_mode(server: FakeServer, session: Session) -> None:
    """Also if the session was handed over after it was last read here."""
    server.set_mode(session.id, "manual")
    with pytest.raises(TurnTimeout, match="the session is in manual mode and no human has answered"):
        session.send("anyone?", timeout=0.3)


def test_out_of_time_with_a_customer(server: FakeServer, session: Session) -> None:
    server.agent("a").ignores()
    with Client(server.base_url) as client:
        named = client.create_session("a", customer_id="42")
        with pytest.raises(TurnTimeout, match="is customer '42' known to the server"):
            named.send("q", timeout=0.3)
    with pytest.raises(TurnTimeout, match=r"\(the agent had not begun\)"):
        session.send("q", timeout=0.3)


def test_out_of_time_while_polls_fail(server: FakeServer, session: Session) -> None:
    server.agent("a").ignores()
    session._opened.poller._backoff = lambda attempt: 0.01
    turn = session.stream("q", timeout=1.0)
    server.fail_next("GET /sessions/*/events", 503, b"busy", times=None)
    server.add_event(session.id)
    with pytest.raises(TurnTimeout, match=r"the session cannot be read: .*503"):
        turn.reply()


# -- 4.0


def test_a_turn_that_was_stopped_from_outside() -> None:
    with FakeServer("4.0", cancel_timeout=0.1) as server, Client(server.base_url) as client:
        server.agent("a").replies("first", then=["second", "third"]).waits("g", at="then")
        session = client.create_session("a")
        with session.stream("q") as turn:
            assert next(turn.text) == "first"
            server.reached("g")
            turn.cancel()
            server.release("g")
            reply = turn.reply()
        assert reply.outcome == "cancelled"
        assert reply.text in ("first", "first\n\nsecond")  # the step that runs is done first
        turn.cancel()  # nothing to stop
        session.cancel()
