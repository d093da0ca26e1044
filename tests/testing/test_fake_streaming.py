"""Messages that are written piece by piece, in place."""

from __future__ import annotations

import pytest
from support.raw_api import Api, brief, in_background


def begin(api: Api, text: object = "a b c", **options: object) -> tuple[str, dict]:
    """A streamed message of which the first piece is out; the others wait at the gate `g`."""
    api.server.agent("support").streams(text, **options).waits("g", at="chunk")
    session = api.begin("g", "go")
    return session, api.events(session)[-1]


def chunks(event: dict) -> list:
    return event["data"]["chunks"]


def test_it_grows_in_place(api):
    session, event = begin(api)
    assert (event["data"]["message"], chunks(event)) == ("a ", ["a "])
    api.server.release("g", 1)
    api.server.reached("g")
    grown = api.events(session)[-1]
    assert (grown["id"], grown["offset"], chunks(grown)) == (event["id"], event["offset"], ["a ", "b "])
    assert grown["data"]["message"] == "a b "
    api.finish("g")
    events = api.events(session, event["offset"])
    assert (events[0]["data"]["message"], chunks(events[0])) == ("a b c", ["a ", "b ", "c", None])
    assert [brief(e) for e in events[1:]] == ["ready", "ready(completed)"]


def test_the_poll_past_its_offset_never_sees_the_rest(api):
    session, event = begin(api)
    poll = in_background(api.list, session, event["offset"] + 1, 30)
    api.server.wait_polls(1)
    api.server.release("g")
    seen = [brief(e) for e in poll.result().json()]
    assert seen
    assert set(seen) <= {"ready", "ready(completed)"}
    api.server.wait_idle()


def test_wait_for_completion(api):
    session, event = begin(api)
    path = f"/sessions/{session}/events/{event['id']}"
    reading = in_background(api.call, "GET", path, params={"wait_for_completion": "true"})
    short = api.call("GET", path, params={"wait_for_completion": "true", "wait_for_data": 1})
    assert chunks(short.json()) == ["a "]  # not whole within a second: as it is
    assert chunks(api.call("GET", path).json()) == ["a "]
    assert reading.running
    api.server.release("g")
    assert chunks(reading.result().json())[-1] is None
    api.server.wait_idle()


def test_interrupted_it_never_gets_its_null(api):
    session, event = begin(api)
    api.server.agent("support").forget()
    api.send(session, "stop that")
    api.server.wait_idle()
    events = api.events(session, event["offset"])
    assert chunks(events[0]) == ["a "]
    assert [brief(e) for e in events[1:4]] == ["customer:stop that", "cancelled", "ready(completed)"]


def test_a_stream_that_breaks_ends_with_an_error(api):
    session, event = begin(api, "a b c d", breaks_after=2)
    api.finish("g")
    events = api.events(session, event["offset"])
    assert chunks(events[0]) == ["a ", "b ", None]
    assert [brief(e) for e in events[1:]] == ["ready(completed)", "error"]


def test_a_stream_that_breaks_before_its_first_piece(api):
    api.server.agent("support").streams("a b", breaks_after=0)
    events = api.turn(api.session(), "go")
    assert [brief(e) for e in events][-3:] == ["typing", "ready(completed)", "error"]


def test_pieces_of_ones_own_and_time_between(api):
    api.server.agent("support").streams(["Hel", "lo ", "\n", ""], every=0.01)
    event = next(e for e in api.turn(api.session(), "go") if "chunks" in e["data"])
    assert (event["data"]["message"], chunks(event)) == ("Hello \n", ["Hel", "lo ", "\n", "", None])


def test_words(api):
    api.server.agent("support").streams("  two  words\n")
    event = next(e for e in api.turn(api.session(), "go") if "chunks" in e["data"])
    assert chunks(event) == ["  ", "two  ", "words\n", None]


@pytest.mark.parametrize("version", ["3.0", "3.1"])
def test_older_servers_cannot(serve, version):
    api = serve(version)
    api.server.agent("support").streams("a b c").streams("a b c", breaks_after=1)
    session = api.session()
    assert [brief(e) for e in api.turn(session, "go")][1:] == ["acknowledged", "typing", "a b c", "ready", "ready"]
    assert [brief(e) for e in api.turn(session, "go")][1:] == ["acknowledged", "typing", "ready", "error"]
