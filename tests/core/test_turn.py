"""``send()``, ``stream()`` and their kin: what a turn gives its caller."""

from __future__ import annotations

import gc
import itertools
import json
import pickle
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from support.raw_api import in_background
from support.waiting import wait_until, within

import parlant_sync
from parlant_sync import (
    AgentError,
    Client,
    ConcurrencyError,
    ConfigurationError,
    ServerError,
    Session,
    SessionClosed,
    TurnTimeout,
    as_sse,
)
from parlant_sync.testing import FakeServer, Response


def test_what_a_reply_holds(server: FakeServer, session: Session) -> None:
    agent = server.agent("a").replies("One.", then="Two.").with_preamble("Hmm...").with_tool("t", {"x": 1}, "done")
    agent.with_matches(guidelines=["g"], journeys=["j"], journey_states=["s1", "s2"])
    reply = session.send("q", metadata={"mine": 1})
    assert reply.text == str(reply) == "One.\n\nTwo."
    assert reply.outcome == "answered"
    assert [p.message for p in reply.preambles] == ["Hmm..."]
    assert [m.message for m in reply.messages] == ["One.", "Two."]
    assert [call["tool_id"] for call in reply.tool_calls] == ["t"]
    assert (reply.matched_guidelines, reply.matched_journeys) == (("g",), ("j",))
    assert reply.matched_journey_states == ("s1", "s2")
    assert reply.request is not None
    assert (reply.request.message, reply.request.metadata["mine"]) == ("q", 1)
    assert {e.trace_id for e in reply.events} == {reply.trace_id}
    assert reply.duration > 0
    assert pickle.loads(pickle.dumps(reply)) == reply


def test_text_events_and_reply_of_a_turn_agree(server: FakeServer, session: Session) -> None:
    server.agent("a").replies("One.", then="Two.").with_preamble()
    with session.stream("q") as turn:
        pieces = list(turn.text)
        assert "".join(pieces) == turn.reply().text == "One.\n\nTwo."
        assert list(turn.text) == pieces  # begun again, it begins at the first piece
        events = list(turn)
        assert [e.offset for e in events] == sorted(e.offset for e in events)
        assert events == list(turn.reply().events)
        assert turn.trace_id == turn.reply().trace_id
        assert turn.request == turn.reply().request


def test_send_has_the_last_word_of_a_stream(server: FakeServer, session: Session) -> None:
    server.agent("a").streams(["a ", "b ", "c"], every=0.05).with_preamble()
    assert session.send("q").text == "a b c"
    reads = [r for r in server.requests if r.method == "GET" and "/events/" in r.path]
    assert len(reads) == 1  # at its end, and not while it grew


def test_an_engine_error_has_what_was_said(server: FakeServer, session: Session) -> None:
    server.agent("a").fails("RuntimeError: boom", saying="so far")
    server.agent("a").replies("clean")
    with pytest.raises(AgentError, match=rf"{session.id} on .*reported an error: .*boom") as caught:
        session.send("q")
    error = caught.value
    assert (error.partial.text, error.summary) == ("so far", "RuntimeError: RuntimeError: boom")
    assert len(error.detail) > len(error.summary)
    assert session.send("q").text == "clean"


def test_an_odd_answer_to_a_list_does_not_end_a_turn(server: FakeServer, session: Session) -> None:
    """It began behind, for its message was found by looking."""
    server.cut_next("POST /events", stored=True)
    turn = session.stream("q")
    server.fail_next("GET /sessions/*/events", 302, b"", times=2)
    assert turn.reply().text == "echo: q"


def test_a_late_error_is_looked_for(server: FakeServer, session: Session) -> None:
    """The poll shows the end of the turn; its error comes a moment later."""
    server.agent("a").fails("late boom").after(0.3, at="error")
    with pytest.raises(AgentError, match="late boom"):
        session.send("q")


def test_a_good_turn_waits_for_nothing_more(server: FakeServer, session: Session) -> None:
    session.send("warm up")
    with within(2.0):  # five second looks would be 2.5 s
        for n in range(5):
            session.send(f"q{n}")


def test_out_of_time_in_a_stream_has_the_text_so_far(server: FakeServer, session: Session) -> None:
    server.agent("a").streams(["a ", "b ", "c ", "d ", "e "] * 20, every=0.1)
    with pytest.raises(TurnTimeout) as caught:
        session.send("q", timeout=1.0)
    assert len(caught.value.partial.text) > len("a ")


def test_two_threads_cannot_drive_one_turn(server: FakeServer, session: Session) -> None:
    server.agent("a").replies("x").waits("g")
    with session.stream("q") as turn:
        driving = in_background(turn.reply)
        server.reached("g")
        wait_until(turn._claim.taken)
        with pytest.raises(ConcurrencyError):
            turn.reply()
        server.release("g")
        assert driving.result(5).text == "x"
        assert turn.reply().text == "x"


def test_a_turn_keeps_its_session_alive(server: FakeServer) -> None:
    """A web view that has made a client of its own returns a stream and nothing else."""
    server.agent("a").replies("x").waits("g")
    turn = Client(server.base_url).create_session("a").stream("q")
    gc.collect()
    server.release("g")
    assert turn.reply().text == "x"
    del turn
    gc.collect()
    server.wait_no_polls()


@pytest.mark.parametrize("broken", [200, 502], ids=["no event", "a proxy's 502"])
def test_trouble_at_the_last_reading_of_a_stream_passes(server: FakeServer, session: Session, broken: int) -> None:
    server.agent("a").streams(["a ", "b ", "c"], every=0.05)
    server.fail_next("GET /sessions/*/events/*", broken, times=2)
    assert session.send("q").text == "a b c"


def test_trouble_at_the_last_reading_of_a_stream_for_too_long(server: FakeServer, session: Session) -> None:
    server.agent("a").streams(["a ", "b ", "c"], every=0.05)
    server.fail_next("GET /sessions/*/events/*", 502, times=None)
    with pytest.raises(TurnTimeout) as caught:
        session.send("q", timeout=1.5)
    assert caught.value.event is not None
    assert caught.value.__cause__ is not None
    assert isinstance(caught.value.__cause__.__cause__, ServerError)  # behind the original of this copy
    server.clear_faults()
    assert session.reply_to(caught.value.event).text == "a b c"


def test_closed_at_the_last_reading_of_a_stream(server: FakeServer, session: Session) -> None:
    server.agent("a").streams(["a ", "b ", "c"], every=0.05)
    server.fail_next("GET /sessions/*/events/*", 502, times=None)
    sending = in_background(session.send, "q")
    server.wait_requests("GET /sessions/*/events/*", 2)
    session.close()
    with pytest.raises(SessionClosed):
        sending.result(10)


@pytest.mark.slow
def test_an_interrupted_reply_is_the_same_when_asked_again(server: FakeServer, session: Session) -> None:
    """A notebook's stop button, at each function of ours that a turn goes through."""
    server.agent("a").replies("One.", then="Two.").with_preamble("Hmm...").with_tool("t", {"x": 1}, "done")
    package = str(Path(parlant_sync.__file__).parent)
    wrong = []
    for stop_at in itertools.count(1, 3):
        count = 0

        def trace(frame: FrameType, what: str, arg: Any, stop_at: int = stop_at) -> None:
            nonlocal count
            if what == "call" and frame.f_code.co_filename.startswith(package):
                count += 1
                if count == stop_at:
                    raise KeyboardInterrupt

        with session.stream("q", timeout=20) as turn:
            server.wait_idle()
            sys.settrace(trace)
            try:
                turn.reply()
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(None)
            reply = turn.reply()
        if (reply.text, len(reply.preambles), len(reply.tool_calls)) != ("One.\n\nTwo.", 1, 1):
            wrong.append((stop_at, reply.text))
        if count < stop_at:
            break
    assert wrong == []
    assert count > 20


def test_a_list_that_hangs_does_not_outlast_the_turn() -> None:
    with FakeServer("3.2") as server, Client(server.base_url, request_timeout=8) as client:
        server.agent("a")
        session, other = client.create_session("a"), client.create_session("a")
        session.send("1")
        session.send("2")
        server.wipe(session.id)
        hold = server.hold_next(lambda r: r.query.get("wait_for_data") == "0", times=None)
        for call in (lambda: session.send("q", timeout=1), lambda: other.trigger(timeout=1)):
            with within(6):
                with pytest.raises(TurnTimeout):
                    call()
        hold.release()


def test_what_ended_a_stream_is_not_lost_where_the_pollers_were_stopped(server: FakeServer, session: Session) -> None:
    """As at exit, which tells nobody: no poll brings it again. The message cannot be read at first, and then can."""
    server.agent("a").streams(["a ", "b ", "c"], every=0.05)
    refused: list[Response] = []

    def refuse(response: Response) -> Response | None:
        if session._opened.poller.stop_signal.is_set():
            refused.append(response)
        return Response(502) if len(refused) <= 3 else None  # one for each event that may have ended it

    server.alter_next("GET /sessions/*/events/*", refuse, times=None)
    sending = in_background(session.send, "q", timeout=3)
    server.wait_requests("GET /sessions/*/events/*")
    session._opened.poller.stop()
    assert sending.result(10).text == "a b c"
    assert len(refused) == 4


# -- everything in one loop


def test_updates_are_the_whole_turn_in_one_loop(server: FakeServer, session: Session) -> None:
    server.agent("a").replies("One.", then="Two.").with_preamble("Hmm...").with_tool("t", {"x": 1}, "done")
    with session.stream("q") as turn:
        updates = list(turn.updates())
    shown = [(u.kind, u.text) for u in updates if u.kind not in ("status", "tool")]
    assert shown == [("preamble", "Hmm..."), ("text", "One."), ("text", "\n\nTwo."), ("end", "One.\n\nTwo.")]
    assert [u.event.tool_calls[0]["tool_id"] for u in updates if u.kind == "tool" and u.event] == ["t"]
    statuses = [u.text for u in updates if u.kind == "status"]
    assert (statuses[0], statuses[-1]) == ("acknowledged", "ready")
    assert [(u.kind, u.text) for u in turn.updates()] == [(u.kind, u.text) for u in updates]  # again, from the start


def test_updates_of_a_streamed_answer_that_begins_again(server: FakeServer, session: Session) -> None:
    server.agent("a").streams(["half ", "never"], every=0.1).when_interrupted("cancel")
    server.agent("a").replies("to both")
    text = ""
    with session.stream("q") as turn:
        for update in turn.updates():
            if update.kind == "restart":
                text = ""
            elif update.kind == "text":
                if not text:
                    server.say(session.id, "newer")
                text += update.text
    assert (text, update.kind, update.text, turn.restarts) == ("to both", "end", "to both", 1)


def test_a_heartbeat_comes_while_nothing_else_does(server: FakeServer, session: Session) -> None:
    server.agent("a").replies("x").waits("g")
    with session.stream("q") as turn:
        kinds = []
        for update in turn.updates(heartbeat=0.05):
            kinds.append(update.kind)
            if kinds.count("heartbeat") == 3:
                server.release("g")
    assert kinds[-1] == "end"
    assert kinds.count("heartbeat") >= 3
    assert "heartbeat" not in [u.kind for u in turn.updates(heartbeat=0.05)]  # it is over
    for bad in (0, -1, "5"):
        with pytest.raises(ConfigurationError, match="heartbeat"):
            turn.updates(heartbeat=bad)  # type: ignore[arg-type]


def parse_sse(stream: str) -> list[tuple[str, dict[str, Any]]]:
    """As a browser does."""
    found = []
    for block in stream.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


def test_server_sent_events(server: FakeServer, session: Session) -> None:
    server.agent("a").replies("One.\nTwo lines, 한국어", then="Two.").with_preamble("Hmm...").with_tool("t", {}, "done")
    turn = session.stream("q")
    events = parse_sse("".join(as_sse(turn)))
    assert "".join(data["text"] for kind, data in events if kind == "text") == turn.reply().text
    assert {data.pop("trace_id") for _, data in events[:-1]} == {turn.trace_id}
    assert ("preamble", {"text": "Hmm..."}) in events
    assert ("tool", {"text": "t", "tools": ["t"]}) in events
    assert ("status", {"text": "ready", "stage": "completed"}) in events
    kind, end = events[-1]
    assert (kind, end["text"], end["outcome"], end["trace_id"]) == ("end", turn.reply().text, "answered", turn.trace_id)


def test_server_sent_events_of_a_silent_agent_have_heartbeats(server: FakeServer, session: Session) -> None:
    server.agent("a").ignores()
    turn = session.stream("q", timeout=0.5)
    stream = "".join(as_sse(turn, heartbeat=0.1))
    assert ": heartbeat\n\n" in stream
    assert parse_sse(stream) == [("error", {"error": "TurnTimeout", "text": ""})]


def test_a_failed_stream_ends_with_an_error_that_shows_no_internals(
    server: FakeServer, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    server.agent("a").fails("RuntimeError: s3cret in /srv/app.py", saying="so far")
    turn = session.stream("q")
    stream = "".join(as_sse(turn))
    assert parse_sse(stream)[-1] == ("error", {"error": "AgentError", "text": "so far"})
    assert "s3cret" not in stream
    assert server.base_url not in stream
    (record,) = caplog.records  # those who run the page see the reason
    assert (record.levelname, "s3cret" in record.getMessage(), session.id in record.getMessage()) == (
        "WARNING",
        True,
        True,
    )


def test_a_visitor_who_leaves_frees_the_queue(server: FakeServer, session: Session) -> None:
    server.agent("a").replies("x").waits("g")
    server.agent("a").replies("fine")
    stream = as_sse(session.stream("q"))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    with within(1.0):
        assert session.send("again", timeout=10).text == "fine"
