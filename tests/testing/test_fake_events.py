"""A session's events: the long poll, offsets, what can be posted, read, changed and deleted."""

from __future__ import annotations

import time

import pytest
from support.raw_api import VERSIONS, brief, in_background

MAIN = "<main>"


# --- the long poll


def test_a_poll_gets_the_event_at_once(api):
    session = api.session()
    api.server.set_mode(session, "manual")
    poll = in_background(api.list, session, 0, 30)
    api.server.wait_polls(1, session)
    began = time.monotonic()
    event = api.send(session, "hi")
    answer = poll.result()
    assert time.monotonic() - began < 1
    assert (answer.status_code, answer.json()) == (200, [event])


def test_a_poll_gives_up_with_a_504(api):
    session = api.session()
    began = time.monotonic()
    answer = api.list(session, 0, 1)
    assert (answer.status_code, answer.json()) == (504, {"detail": "Request timed out"})
    assert answer.headers["content-type"] == "application/json"
    assert 0.9 < time.monotonic() - began < 2


@pytest.mark.parametrize("wait", [0, -1, "+0", "0.0"])
def test_no_wait_answers_at_once(api, wait):
    answer = api.list(api.session(), 0, wait)
    assert (answer.status_code, answer.json()) == (200, [])


def test_a_poll_that_says_no_wait_waits_for_60_seconds(api):
    session = api.session()
    poll = in_background(api.call, "GET", f"/sessions/{session}/events")
    api.server.wait_polls(1)
    (request,) = [r for r in api.server.requests if r.path.endswith("/events")]
    assert request.waits
    assert request.status is None
    api.server.delete_session(session)
    assert poll.result().status_code == 404


def test_a_poll_of_what_is_there_does_not_wait(api):
    session = api.session()
    api.server.fill(session, 3)
    assert [e["offset"] for e in api.list(session, 1, 30).json()] == [1, 2]
    assert [e["offset"] for e in api.list(session, -5, 30).json()] == [0, 1, 2]


def test_a_session_deleted_under_a_poll(api):
    session = api.session()
    poll = in_background(api.list, session, 0, 30)
    api.server.wait_polls(1)
    began = time.monotonic()
    assert api.call("DELETE", f"/sessions/{session}").status_code == 204
    answer = poll.result()
    assert time.monotonic() - began < 1
    assert (answer.status_code, answer.json()) == (404, {"detail": f"Session not found (id='{session}')"})


def test_looking_only_now_and_then(serve):
    api = serve(look_every=0.25)
    session = api.session()
    api.server.set_mode(session, "manual")
    poll = in_background(api.list, session, 0, 30)
    api.server.wait_polls(1)
    api.send(session, "hi")
    assert len(poll.result().json()) == 1


def test_filters(api):
    session = api.session()
    events = api.turn(session, "hi")
    trace = events[1]["trace_id"]
    assert {e["kind"] for e in api.list(session, kinds="message").json()} == {"message"}
    assert {e["kind"] for e in api.list(session, kinds="message,status").json()} == {"message", "status"}
    assert [e["source"] for e in api.list(session, source="customer").json()] == ["customer"]
    assert {e["trace_id"] for e in api.list(session, trace_id=trace).json()} == {trace}
    assert len(api.list(session, correlation_id=trace).json()) == len(events)  # ignored, from 3.1 on
    assert api.list(session, source="nobody").status_code == 422
    answer = api.list(session, kinds="rubbish")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert answer.headers["content-type"].startswith("text/plain")


# --- offsets


@pytest.mark.parametrize("version", VERSIONS)
def test_offsets_are_dense_and_deleted_ones_are_used_again_up_to_3_2(serve, version):
    api = serve(version)
    session = api.session()
    api.server.set_mode(session, "manual")
    assert [api.send(session, str(n))["offset"] for n in range(4)] == [0, 1, 2, 3]
    assert api.call("DELETE", f"/sessions/{session}/events?min_offset=0").status_code == 204
    assert api.events(session) == []
    assert api.send(session, "again")["offset"] == (4 if version == "3.3" else 0)


@pytest.mark.parametrize("version", VERSIONS)
def test_deleting_a_turn_answers_500_up_to_3_2_and_deletes_all_the_same(serve, version):
    api = serve(version)
    session = api.session()
    api.turn(session, "hi")
    answer = api.call("DELETE", f"/sessions/{session}/events?min_offset=0")
    assert answer.status_code == (500 if version in ("3.1", "3.2") else 204)
    assert api.events(session) == []
    assert api.send(session, "again")["offset"] == (0 if version != "3.3" else 7)
    api.server.wait_idle()


def test_only_from_the_first_event_of_a_trace_on(api):
    session = api.session()
    api.turn(session, "hi")
    answer = api.call("DELETE", f"/sessions/{session}/events?min_offset=3")
    assert answer.status_code == 422
    assert "unless they are the first event of their trace ID" in answer.json()["detail"]
    assert api.call("DELETE", f"/sessions/{session}/events?min_offset=1").status_code == 204
    assert [brief(e) for e in api.events(session)] == ["customer:hi"]
    assert api.call("DELETE", f"/sessions/{session}/events?min_offset=50").status_code == 204
    assert api.call("DELETE", f"/sessions/{session}/events").status_code == 422


def test_gaps(api):
    session = api.session()
    api.server.fill(session, 6)
    api.server.drop_events(session, [1, 2, 5])
    assert [e["offset"] for e in api.events(session)] == [0, 3, 4]
    assert api.server.add_event(session, data={"n": "new"}) == 6
    assert api.server.add_event(session, offset=9) == 9
    assert api.server.add_event(session) == 10
    assert [e["offset"] for e in api.events(session, 4)] == [4, 6, 9, 10]
    api.server.wipe(session, 5)
    assert [e["offset"] for e in api.events(session)] == [0, 3, 4]


# --- posting


@pytest.mark.parametrize("version", VERSIONS)
def test_a_message_has_the_fields_of_its_version(serve, version):
    api = serve(version)
    session = api.session()
    event = api.send(session, "hi", metadata={"key": "k"})
    api.server.wait_idle()
    assert api.events(session)[0] == event
    expected = {"id", "source", "kind", "offset", "creation_utc", "correlation_id", "data", "deleted"}
    if version == "3.0":
        assert set(event) == expected
        assert event["correlation_id"].startswith("R")
    else:
        assert set(event) == {*expected, "trace_id", "metadata"}
        assert event["trace_id"] == event["correlation_id"] == MAIN
        assert event["metadata"] == {"key": "k"}
    guest = {"id": "guest", "display_name": "Guest"}
    assert event["data"] == {"message": "hi", "participant": guest, "flagged": False, "tags": []}
    assert event["deleted"] is False


def test_somebody_else_may_be_the_participant(api):
    event = api.send(api.session(), "hi", participant={"id": "u1", "display_name": "Ursula"})
    assert event["data"]["participant"] == {"id": "u1", "display_name": "Ursula"}
    api.server.wait_idle()


def test_custom_and_status_events_start_no_turn(api):
    session = api.session()
    custom = api.post(session, kind="custom", source="customer_ui", data={"a": 1}, metadata={"m": 1}).json()
    assert (custom["kind"], custom["data"], custom["metadata"], custom["trace_id"]) == (
        "custom",
        {"a": 1},
        {"m": 1},
        MAIN,
    )
    status = api.post(session, kind="status", source="system", status="typing", data={"q": 1}).json()
    assert status["data"] == {"status": "typing", "data": {"q": 1}}
    assert status["source"] == "system"
    api.server.wait_idle()
    assert len(api.events(session)) == 2


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"kind": "message", "source": "customer", "message": ""}, "Missing 'message' field for event"),
        ({"kind": "message", "source": "customer"}, "Missing 'message' field for event"),
        ({"kind": "message", "source": "system", "message": "x"}, 'Only "customer", "human_agent"'),
        ({"kind": "message", "source": "customer_ui", "message": "x"}, 'Only "customer", "human_agent"'),
        ({"kind": "message", "source": "ai_agent", "message": "x"}, "If you add an agent message"),
        ({"kind": "message", "source": "human_agent", "message": "x"}, "Missing 'participant' with 'display_name'"),
        ({"kind": "tool", "source": "customer", "data": {}}, "Only message, custom and status events"),
        ({"kind": "custom", "source": "customer_ui"}, "Missing 'data' field for custom event"),
        ({"kind": "status", "source": "customer_ui"}, 'Missing "status" field'),
        ({"kind": "status", "source": "customer_ui", "status": "typing", "data": [1]}, 'Status event "data" must be'),
    ],
)
def test_events_that_are_wrong(api, fields, detail):
    session = api.session()
    answer = api.post(session, **fields)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(detail)
    assert api.events(session) == []


EVENTS = "POST /sessions/{}/events"


@pytest.mark.parametrize(
    ("path", "body", "kind", "where"),
    [
        (EVENTS, {"kind": "zz", "source": "customer"}, "enum", "kind"),
        (EVENTS, {"kind": None, "source": "customer"}, "enum", "kind"),
        (EVENTS, {"kind": "message"}, "missing", "source"),
        (EVENTS, {"kind": "status", "source": "system", "status": "bad"}, "enum", "status"),
        (EVENTS, {"kind": "message", "source": "customer", "message": 5}, "string_type", "message"),
        (
            EVENTS,
            {"kind": "message", "source": "human_agent", "message": "x", "participant": {}},
            "missing",
            "participant.display_name",
        ),
        ("PATCH /sessions/{}", {"metadata": [1]}, "dict_type", "metadata"),
        ("POST /sessions", {"agent_id": "support", "labels": "x"}, "set_type", "labels"),
        ("POST /sessions", {"agent_id": None}, "string_type", "agent_id"),
    ],
)
def test_fields_that_are_wrong(api, path, body, kind, where):
    method, path = path.format(api.session()).split()
    answer = api.call(method, path, json=body)
    assert answer.status_code == 422
    assert (answer.json()["detail"][0]["type"], answer.json()["detail"][0]["loc"]) == (
        kind,
        ["body", *where.split(".")],
    )


def test_blank_and_big_messages_are_taken(api):
    session = api.session()
    api.server.set_mode(session, "manual")
    assert api.send(session, "   ")["data"]["message"] == "   "
    assert len(api.send(session, "x" * 200_000)["data"]["message"]) == 200_000


def test_a_lone_surrogate_spoils_a_session_for_ever(api):
    session = api.session(customer_id="nobody")
    body = b'{"kind": "message", "source": "customer", "message": "\\ud800"}'
    headers = {"content-type": "application/json"}
    answer = api.call("POST", f"/sessions/{session}/events", data=body, headers=headers)
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert api.list(session).status_code == 500
    api.send(session, "fine")
    assert [e["offset"] for e in api.events(session, 1)] == [1]


def test_a_surrogate_put_there_by_a_test_is_shown(api):
    session = api.session()
    api.server.add_event(session, data={"text": "\ud800"})
    assert api.events(session)[0]["data"] == {"text": "\ud800"}


# --- single events


def test_read_and_change_an_event(api):
    session = api.session()
    event = api.send(session, "hi", metadata={"a": 1, "b": 2})
    path = f"/sessions/{session}/events/{event['id']}"
    assert api.call("GET", path).json() == event
    assert api.call("GET", path + "?wait_for_completion=true").json() == event  # not streamed: nothing to wait for
    changed = api.call("PATCH", path, json={"metadata": {"set": {"c": 3}, "unset": ["a"]}}).json()
    assert changed["metadata"] == {"b": 2, "c": 3}
    api.server.wait_idle()
    assert api.events(session)[0] == changed
    answer = api.call("GET", f"/sessions/{session}/events/nothing")
    assert (answer.status_code, answer.json()) == (404, {"detail": "Event not found (id='nothing')"})
    assert api.call("GET", path.replace(session, "nowhere")).status_code == 404


@pytest.mark.parametrize(("version", "status"), [("3.0", 404), ("3.1", 405), ("3.2", 200), ("3.3", 200)])
def test_single_events_can_be_read_from_3_2_on(serve, version, status):
    api = serve(version)
    session = api.session()
    event = api.send(session, "hi")
    assert api.call("GET", f"/sessions/{session}/events/{event['id']}").status_code == status
    api.server.wait_idle()


# --- manual mode and humans


def test_in_manual_mode_only_humans_speak(api):
    session = api.session()
    api.call("PATCH", f"/sessions/{session}", json={"mode": "manual"})
    api.send(session, "anyone there?")
    api.server.human(session, "Dana here.")
    api.server.human(session, "How can I help?", name="Lou")
    api.server.human(session, "In its name.", on_behalf=True)
    answer = api.post(
        session, kind="message", source="human_agent", message="Posted.", participant={"display_name": "Kim"}
    )
    assert answer.status_code == 201
    answer = api.post(session, kind="message", source="human_agent_on_behalf_of_ai_agent", message="Also.")
    assert answer.status_code == 201
    api.server.wait_idle()
    shown = [(e["source"], e["data"]["participant"]["display_name"], e["data"]["message"]) for e in api.events(session)]
    assert shown == [
        ("customer", "Guest", "anyone there?"),
        ("human_agent", "Dana", "Dana here."),
        ("human_agent", "Lou", "How can I help?"),
        ("human_agent_on_behalf_of_ai_agent", "Support", "In its name."),
        ("human_agent", "Kim", "Posted."),
        ("human_agent_on_behalf_of_ai_agent", "Support", "Also."),
    ]
    api.server.set_mode(session, "auto")
    assert brief(api.turn(session, "and now?")[-1]) == "ready(completed)"


def test_an_unknown_customer_gets_no_answer(api):
    session = api.session(customer_id="nobody")
    assert [brief(e) for e in api.turn(session, "hi")] == ["customer:hi"]


# --- bodies


def test_a_body_nested_too_deep_or_not_utf_8(api):
    session = api.session()
    headers = {"content-type": "application/json"}
    for body in (b'{"kind": ' + b"[" * 100_000, b'{"kind": "\xff"}'):
        answer = api.call("POST", f"/sessions/{session}/events", data=body, headers=headers)
        assert answer.status_code in (400, 422)
