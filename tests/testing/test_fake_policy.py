"""The token, and the production policy: what is refused, how often what is allowed may be done, and what is told."""

from __future__ import annotations

import pytest

from parlant_sync.testing import FakeServer

SECRET = {"Authorization": "Bearer s3cret", "X-Api-Key": "k3y"}


@pytest.fixture
def production(serve):
    api = serve(policy="production")
    api.server.agent("support", description="what customers need not know")
    api.http.headers.update(SECRET)
    return api


def test_a_token(serve):
    api = serve(token="right")
    answer = api.call("GET", "/agents")
    assert (answer.status_code, answer.json()) == (401, {"detail": "Unauthorized"})
    assert answer.headers["www-authenticate"] == "Bearer"
    assert api.call("GET", "/agents", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert api.call("GET", "/agents", headers={"Authorization": "Bearer right"}).status_code == 200
    assert api.call("GET", "/healthz").status_code == 200
    api.server.token = "new"
    assert api.server.token == "new"
    assert api.call("GET", "/agents", headers={"Authorization": "Bearer right"}).status_code == 401
    api.server.token = None
    assert api.call("GET", "/agents").status_code == 200


def message(source: str, **more: object) -> dict[str, object]:
    return {"kind": "message", "source": source, "message": "x", **more}


EVENTS = "/sessions/{}/events"
DANA = {"participant": {"display_name": "Dana"}}
FOR_THE_AGENT = "human_agent_on_behalf_of_ai_agent"


@pytest.mark.parametrize(
    ("method", "path", "body", "operation"),
    [
        ("GET", "/agents", None, "list_agents"),
        ("GET", "/sessions", None, "list_sessions"),
        ("POST", "/sessions", {"agent_id": "support", "customer_id": "c1"}, "create_customer_session"),
        ("PATCH", "/sessions/{}", {"title": "x"}, "update_session"),
        ("DELETE", "/sessions/{}", None, "delete_session"),
        ("GET", "/sessions/{}/events/x", None, "read_event"),
        ("PATCH", "/sessions/{}/events/x", {}, "update_event"),
        ("DELETE", "/sessions/{}/events?min_offset=0", None, "delete_events"),
        ("POST", EVENTS, {"kind": "custom", "source": "customer_ui", "data": 1}, "create_custom_event"),
        ("POST", EVENTS, {"kind": "status", "source": "customer_ui", "status": "typing"}, "create_status_event"),
        ("POST", EVENTS, {"kind": "message", "source": "ai_agent"}, "create_agent_event"),
        ("POST", EVENTS, message("human_agent", **DANA), "create_human_agent_event"),
        ("POST", EVENTS, message(FOR_THE_AGENT), "create_human_agent_on_behalf_of_ai_agent_event"),
        ("POST", EVENTS, message("customer", **DANA), "override_customer_participant"),
    ],
)
def test_all_else_is_refused_and_repeats_all_headers(production, method, path, body, operation):
    session = production.server.create_session("support")
    answer = production.call(method, path.format(session), **({} if body is None else {"json": body}))
    assert answer.status_code == 403
    detail = answer.json()["detail"]
    assert detail.startswith(f"Authorization failed: OPERATION={operation}, HEADERS=Headers({{'host': ")
    assert "'authorization': 'Bearer s3cret'" in detail
    assert "'x-api-key': 'k3y'" in detail


def test_what_is_wrong_is_said_before_what_is_refused(production):
    answer = production.call("POST", "/sessions/x/events", json={"kind": "zz"})
    assert [p["type"] for p in answer.json()["detail"]] == ["enum", "missing"]


def test_the_api_documentation_breaks(production):
    answer = production.call("GET", "/openapi.json")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert production.call("GET", "/healthz").status_code == 200


@pytest.mark.parametrize(("what", "limit"), [("session", 10), ("message", 30), ("list", 240), ("read", 30)])
def test_limits(production, what, limit):
    production.server.agent("support").ignores()
    session = production.server.create_session("support")
    message = {"kind": "message", "source": "customer", "message": "x"}
    calls = {
        "session": lambda **o: production.call("POST", "/sessions", json={"agent_id": "support"}, **o),
        "message": lambda **o: production.call("POST", f"/sessions/{session}/events", json=message, **o),
        "list": lambda **o: production.call("GET", f"/sessions/{session}/events?wait_for_data=0", **o),
        "read": lambda **o: production.call("GET", f"/sessions/{session}", **o),
    }
    assert {calls[what]().status_code for _ in range(limit)} <= {200, 201}
    answer = calls[what]()
    assert answer.status_code == 429
    assert "retry-after" not in answer.headers
    assert answer.json()["detail"].startswith("Rate limit exceeded: OPERATION=")
    assert "Bearer s3cret" in answer.json()["detail"]
    # Others are not touched by it, nor is another address.
    assert calls["read" if what != "read" else "list"]().status_code == 200
    assert calls[what](headers={"X-Forwarded-For": "10.0.0.9, 10.0.0.1"}).status_code in (200, 201)


def test_a_minute_later(serve):
    api = serve(limits={"list_agents": 2}, limit_window=60)
    now = 100.0
    api.server.set_clock(lambda: now)
    assert [api.call("GET", "/agents").status_code for _ in range(3)] == [200, 200, 429]
    now += 59.9
    assert api.call("GET", "/agents").status_code == 429
    now += 0.2
    assert [api.call("GET", "/agents").status_code for _ in range(3)] == [200, 200, 429]


def test_unknown_versions_policies_and_traces_are_refused():
    with pytest.raises(ValueError, match="production"):
        FakeServer(policy="strict")
    with pytest.raises(ValueError, match=r"3\.0, 3\.1, 3\.2, 3\.3"):
        FakeServer("2.1")
    with pytest.raises(ValueError, match="shared"):
        FakeServer(traces="none")
