"""``send()``, ``stream()`` and their kin: what a turn gives its caller."""

from __future__ import annotations

import gc
import itertools
import json
import pickle
import sys
import time
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
    NotFoundError,
    ServerError,
    Session,
    SessionClosed,
    TurnTimeout,
    as_sse,
)
from parlant_sync._turns import starter, tracker
from parlant_sync._turns.driver import TurnDriver
from parlant_sync.testing import FakeServer, Response


def interrupt() -> None:
    raise KeyboardInterrupt


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


def test_a_second_send_waits_its_turn_within_its_own_time(
    server: FakeServer, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not replace a turn that a thread waits in, however long that takes."""
    monkeypatch.setattr(starter, "UNATTENDED", 0.1)
    server.agent("a").replies("first").waits("g")
    server.agent("a").replies("second")
    first = in_background(session.send, "one")
    server.reached("g")
    with pytest.raises(TurnTimeout, match="nothing was posted") as caught:
        session.send("two", timeout=0.5)
    assert caught.value.event is None
    second = in_background(session.send, "three")
    posted = session.post("meanwhile")  # neither waits nor queues
    assert posted.message == "meanwhile"
    server.release("g")
    assert {first.result(10).outcome, second.result(10).outcome} == {"answered"}
    customers = [e.message for e in session.history(sources="customer")]
    assert "two" not in customers


def test_an_abandoned_turn_frees_the_queue(server: FakeServer, session: Session) -> None:
    server.agent("a").ignores()
    server.agent("a").replies("fine")
    turn = session.stream("collected")
    del turn
    gc.collect()
    assert session.send("q", timeout=5).text == "fine"
    with session.stream("left") as turn:
        pass
    assert session.send("q", timeout=5).text == "fine"
    with pytest.raises(SessionClosed, match="reply_to"):
        session.stream("x").__class__.reply(turn)
    kept = session.stream("out of time", timeout=0.2)
    assert session.send("q", timeout=5).text == "fine"
    kept.close()


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


def test_an_interrupted_send_frees_the_queue(
    server: FakeServer, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if its frames are held by the exception, as in a notebook."""
    monkeypatch.setattr(starter, "UNATTENDED", 60.0)
    server.agent("a").ignores()
    server.agent("a").replies("fine")
    step = TurnDriver._step
    monkeypatch.setattr(TurnDriver, "_step", lambda *_: interrupt())
    with pytest.raises(KeyboardInterrupt) as held:
        session.send("q")
    monkeypatch.setattr(TurnDriver, "_step", step)
    assert session.send("again", timeout=5).text == "fine"
    assert held.traceback


@pytest.mark.slow
def test_a_trigger_whose_post_fails_is_judged_by_its_events(server: FakeServer, session: Session) -> None:
    server.agent("a").replies("Proactive.")
    server.fail_next("POST /events", 500, b"Internal Server Error", stored=True)
    assert session.trigger().text == "Proactive."
    hold = server.hold_next("POST /events")
    with within(10):
        assert session.trigger().text == "Proactive."
    hold.release()


def test_reply_to_a_message_of_another_session(server: FakeServer, client: Client, session: Session) -> None:
    """The same offset is another message there, or none at all."""
    other = client.create_session("a")
    session.send("here")
    for _ in range(2):
        theirs = other.post("there")
        server.wait_idle()
        with pytest.raises(ConfigurationError, match="does not hold"):
            session.reply_to(theirs, timeout=20)
        assert other.reply_to(theirs).text == "echo: there"


def test_reply_to_goes_on_where_the_message_cannot_be_looked_for(server: FakeServer, session: Session) -> None:
    posted = session.post("q")
    server.wait_idle()
    server.fail_next("GET /sessions/*/events/*", 503, times=5)
    assert session.reply_to(posted).text == "echo: q"


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


@pytest.mark.parametrize("first", ["driven", "kept"])
@pytest.mark.parametrize("ended", ["deleted", "closed"])
def test_all_who_queue_are_told_of_the_end(
    server: FakeServer, session: Session, ended: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, also those who queue behind a turn that nobody drives."""
    monkeypatch.setattr(starter, "UNATTENDED", 60.0)
    server.agent("a").replies("x").waits("g")
    kept = session.stream("kept") if first == "kept" else None
    sending = [in_background(session.send, f"m{n}", timeout=None) for n in range(4)]
    server.reached("g")
    if ended == "closed":
        session.close()
    else:
        server.delete_session(session.id)
    for sent in sending:
        with pytest.raises(SessionClosed if ended == "closed" else NotFoundError):
            sent.result(10)
    del kept


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


# -- the turn queue follows the server


def test_an_unread_turn_frees_the_queue_when_it_is_over(server: FakeServer, session: Session) -> None:
    unread = session.stream("one")
    half_read = iter(session.stream("two"))
    next(half_read)
    with within(1.0):
        assert session.send("three", timeout=10).text == "echo: three"
    assert unread.reply().text == "echo: one"
    assert [e.message for e in half_read if e.message] == ["echo: two"]


def test_an_unread_turn_that_runs_is_waited_for(server: FakeServer, session: Session) -> None:
    server.agent("a").replies("first").after(0.5)
    server.agent("a").replies("second")
    unread = session.stream("one")
    assert session.send("two", timeout=10).text == "second"
    assert unread.reply().text == "first"


def test_an_unread_turn_of_a_hook_frees_the_queue_after_its_quiet_period(
    server: FakeServer, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "HOOK_QUIET", 0.3)
    server.agent("a").hook_answers("hi")
    server.agent("a").replies("second")
    unread = session.stream("one")
    started = time.monotonic()
    assert session.send("two", timeout=10).text == "second"
    assert 0.2 < time.monotonic() - started < 1.5
    assert unread.reply().text == "hi"


def test_a_turn_that_no_thread_waits_in_is_replaced(
    server: FakeServer, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A visitor left in the middle of his turn, and now sends again. Both get the reply that answers both."""
    monkeypatch.setattr(starter, "UNATTENDED", 0.3)
    server.agent("a").replies("first").waits("g")
    server.agent("a").replies("to both")
    left = session.stream("one")
    server.reached("g")
    with within(2.0):
        assert session.send("two", timeout=10).text == "to both"
    assert left.reply().text == "to both"


def test_interrupting_does_not_wait_and_both_get_the_reply_to_both(server: FakeServer, session: Session) -> None:
    server.agent("a").replies("first").waits("g")
    server.agent("a").replies("to both")
    first = in_background(session.send, "one", timeout=20)
    server.reached("g")
    second = in_background(session.send, "two", timeout=20, interrupt=True)
    assert [second.result(10).text, first.result(10).text] == ["to both", "to both"]
    assert session.send("next", timeout=5).outcome == "answered"


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


# -- turns that no call requested


def test_the_next_turn_is_a_colleagues_message(server: FakeServer, client: Client, session: Session) -> None:
    server.set_mode(session.id, "manual")
    server.human(session.id, "Dana here.")
    assert (session.next_turn(timeout=10).outcome, session.next_turn.__name__) == ("human", "next_turn")
    session.post("mine", source="human_agent", participant={"display_name": "Me"})
    with pytest.raises(TurnTimeout):
        session.next_turn(timeout=0.2)


def test_a_triggered_turn_is_not_the_next_turn(server: FakeServer, session: Session) -> None:
    for guidelines in (None, "speak"):
        assert session.trigger(guidelines, timeout=10).outcome == "answered"
    with pytest.raises(TurnTimeout):
        session.next_turn(timeout=0.2)


def test_a_failed_turn_is_the_next_turn_once(server: FakeServer, session: Session) -> None:
    server.agent("a").fails("boom")
    server.agent("a").replies("fine")
    for text in ("one", "two"):
        server.say(session.id, text)
        server.wait_idle()
    with pytest.raises(AgentError, match="boom"):
        session.next_turn(timeout=10)
    assert session.next_turn(timeout=10).text == "fine"


def test_the_next_turn_that_was_not_over_in_time_is_given_whole_later(server: FakeServer, session: Session) -> None:
    server.agent("a").replies("first", then="second").waits("g", at="then")
    server.say(session.id, "theirs")
    server.reached("g")
    with pytest.raises(TurnTimeout, match="still working"):
        session.next_turn(timeout=0.3)
    server.release("g")
    assert session.next_turn(timeout=10).text == "first\n\nsecond"
