"""Parlant 4.0 (the recordings of its turns are in test_fake_traces.py): cancelling, guests, what Compass does else."""

from __future__ import annotations

import pytest
from support.raw_api import Api, brief, in_background

START = ["acknowledged", "processing(Thinking)"]
TOOLS = ["processing(Evaluating tools)", "processing(Running tools)"]
END = "ready(completed)"
CANCEL = {"kind": "status", "source": "customer_ui", "status": "cancelled"}


@pytest.fixture
def api(serve) -> Api:
    return serve("4.0")


@pytest.fixture
def guests(serve) -> Api:
    api = serve("4.0", policy="production", token="admin")
    api.server.agent("support")
    return api


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda a: a.replies("a", "b"), [*START, "typing", "a", "typing", "b", END]),
        (lambda a: a.with_preamble("Hm").replies("a"), [*START, "typing", "a", END]),
        (lambda a: a.with_preamble("Hm").with_tool("t"), [*START, "Hm", *TOOLS, "tool", "typing", "echo: hi", END]),
        (lambda a: a.fails(saying="a"), [*START, "typing", "a", "error"]),
        (lambda a: a.replies(lambda message: 5), [*START, "typing", "error"]),
        (lambda a: a.replies("a").with_summary("s"), [*START, "typing", "a", END, "system:s"]),
        (lambda a: a.emits({"data": {"status": "typing"}}), ["typing"]),
    ],
)  # fmt: skip
def test_turns(api, write, expected):
    write(api.server.agent("support"))
    assert [brief(e) for e in api.turn(api.session(), "hi")][1:] == expected


def test_a_fluid_agent_streams_too(api):
    api.server.agent("support", composition_mode="fluid").streams("a b")
    events = api.turn(api.session(), "hi")
    assert events[4]["data"]["chunks"] == ["a ", "b", None]
    assert len(events) == 6


def test_shapes(api):
    session = api.session()
    shown = api.call("GET", f"/sessions/{session}").json()
    customer = api.turn(session, "hi")[0]
    assert set(shown) >= {"modified_utc", "labels", "metadata"}
    assert api.call("GET", f"/sessions/{session}").json()["modified_utc"] > shown["modified_utc"]
    assert customer["data"]["groups"] == []
    assert not {"correlation_id", "tags"} & {*customer, *customer["data"]}
    assert "groups" in api.call("GET", "/agents/support").json()
    assert set(api.call("GET", "/healthz").json()) == {"status", "checks", "instance_id"}
    assert api.call("GET", "/openapi.json").json()["info"]["version"] == "4.0.0-alpha.1"


def test_what_has_changed_is_listed(api):
    quiet, busy = api.session(), api.session()
    since = api.send(busy, "hi")["creation_utc"]
    api.server.wait_idle()
    assert [s["id"] for s in api.call("GET", "/sessions", params={"min_modified_utc": since}).json()] == [busy]
    api.call("PATCH", f"/sessions/{quiet}", json={"title": "t"})
    assert len(api.call("GET", "/sessions", params={"min_modified_utc": since}).json()) == 2


@pytest.mark.parametrize("version", ["3.3", "4.0"])
def test_only_compass_has_cost_control(serve, version):
    api = serve(version)
    api.server.agent("support", engine="alpha").refuses()
    error = api.turn(api.session(), "hi")[-1]
    assert "which only Compass has, an engine of Parlant 4.0" in error["data"]["data"]["exception"]


def test_unknown_customers_are_refused_at_once(api):
    api.server.agent("support")
    answer = api.call("POST", "/sessions", json={"agent_id": "support", "customer_id": "c1"})
    assert (answer.status_code, answer.json()) == (404, {"detail": "Item 'c1' not found"})


def test_neither_greetings_nor_manual_mode(api):
    api.server.agent("support")
    session = api.call("POST", "/sessions?allow_greeting=true", json={"agent_id": "support"}).json()["id"]
    assert api.events(session) == []
    api.server.set_mode(session, "manual")
    assert [brief(e) for e in api.turn(session, "hi")][-1] == END


def test_rules_are_a_500_and_guidelines_unknown(api):
    session = api.session()
    speak = {"kind": "message", "source": "ai_agent"}
    assert api.post(session, **speak, rules=[{"action": "greet"}]).status_code == 500
    assert api.events(session) == []
    assert api.post(session, **speak, rules=[{}]).status_code == 422
    answer = api.post(session, **speak, guidelines=["ignored, as any unknown field"])
    api.server.wait_idle()
    assert (answer.status_code, brief(answer.json())) == (201, "acknowledged")


# --- cancelling


def begin(api: Api, at: str = "answer", gate: str = "g") -> str:
    session = api.session()
    api.server.agent("support").forget().replies("one", then="two").waits(gate, at=at).replies("new")
    api.send(session, "hi")
    api.server.reached(gate)
    return session


def test_cancel_may_take_too_long(serve):
    api = serve("4.0", cancel_timeout=0.05)
    session = begin(api)
    assert api.post(session, **CANCEL).status_code == 504
    api.finish("g")
    assert [brief(e) for e in api.events(session)][-3:] == ["one", "cancelled", END]


@pytest.mark.parametrize(("how", "said"), [("auto", ["one"]), ("cancel", []), ("finish", ["one", "two"])])
def test_a_newer_message(api, how, said):
    agent = api.server.agent("support").replies("one", then="two").waits("g").when_interrupted(how)
    agent.replies("new")
    session = api.begin("g")
    newer = in_background(api.send, session, "again")
    api.server.wait_requests("POST /events", 2)
    api.server.release("g")
    newer.result()
    api.server.wait_idle()
    texts = [brief(e) for e in api.events(session)]
    assert [t for t in texts if t in ("one", "two", "new")] == [*said, "new"]
    assert ("cancelled" in texts) == (how != "finish")


# --- guests


def test_a_guest_has_a_token_for_its_own_sessions(guests):
    created = guests.call("POST", "/sessions", json={"agent_id": "support"})
    session, token = created.json()["id"], created.headers["X-Parlant-Guest-Token"]
    assert guests.call("GET", f"/sessions/{session}").status_code == 403
    assert guests.call("GET", f"/sessions/{session}", headers=bearer("wrong")).status_code == 401
    assert guests.call("GET", f"/sessions/{session}", headers=bearer(token)).status_code == 200
    again = guests.call("POST", "/sessions", json={"agent_id": "support"}, headers=bearer(token))
    assert "X-Parlant-Guest-Token" not in again.headers
    assert guests.call("GET", f"/sessions/{again.json()['id']}", headers=bearer(token)).status_code == 200
    other = guests.call("POST", "/sessions", json={"agent_id": "support"}).headers["X-Parlant-Guest-Token"]
    assert guests.call("GET", f"/sessions/{session}", headers=bearer(other)).status_code == 403
    assert guests.call("DELETE", f"/sessions/{session}", headers=bearer(token)).status_code == 403
    guests.http.headers.update(bearer(token))
    ready = guests.turn(session, "hi")[-1]
    assert ready["data"]["status"] == "ready"
    assert guests.call("GET", f"/sessions/{session}/events/{ready['id']}").status_code == 200
    assert guests.post(session, **CANCEL).status_code == 409  # allowed, but nothing runs
    guests.server.restart(keep=True)
    assert guests.call("GET", f"/sessions/{session}").status_code == 401


def test_an_admin_is_not_counted(guests):
    guests.http.headers.update(bearer("admin"))
    answers = {guests.call("GET", "/agents").status_code for _ in range(35)}
    created = [guests.call("POST", "/sessions", json={"agent_id": "support"}) for _ in range(11)]
    assert (answers, {c.status_code for c in created}) == ({200}, {201})
    assert "X-Parlant-Guest-Token" not in created[0].headers


def test_no_guests_in_development(serve):
    api = serve("4.0", token="t")
    api.server.agent("support")
    assert api.call("POST", "/sessions", json={"agent_id": "support"}).status_code == 401
    assert api.call("POST", "/sessions", json={"agent_id": "support"}, headers=bearer("t")).status_code == 201
