"""Sessions, agents, and everything around: answers compared with those of real servers of each version."""

from __future__ import annotations

import pytest
from support.raw_api import VERSIONS, Api

SOURCES = ("customer", "customer_ui", "human_agent", "human_agent_on_behalf_of_ai_agent", "ai_agent", "system")
STRING = "Input should be a valid string"
INT = "Input should be a valid integer, unable to parse string as an integer"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_has_the_fields_of_its_version(serve, version):
    api = serve(version)
    session = api.session(title="t", metadata={"a": 1}, labels=["x", "x"])
    shown = api.call("GET", f"/sessions/{session}").json()
    assert shown.pop("creation_utc").endswith("Z")
    expected = {"id": session, "agent_id": "support", "customer_id": "guest", "title": "t", "mode": "auto"}
    expected["consumption_offsets"] = {"client": 0}
    if version != "3.0":
        expected["metadata"] = {"a": 1}
    if version in ("3.2", "3.3"):
        expected["labels"] = ["x"]
    assert shown == expected
    assert api.server.sessions == {session: {**expected, "creation_utc": api.server.sessions[session]["creation_utc"]}}


def test_patch_changes_what_it_names(api):
    session = api.session(title="old", metadata={"a": 1, "b": 2}, labels=["x", "y"])
    changes = {
        "title": "new",
        "mode": "manual",
        "metadata": {"set": {"c": 3}, "unset": ["a"]},
        "labels": {"upsert": ["z"], "remove": ["x"]},
        "consumption_offsets": {"client": 7},
        "customer_id": "c1",
    }
    shown = api.call("PATCH", f"/sessions/{session}", json=changes).json()
    assert shown["title"] == "new"
    assert shown["mode"] == "manual"
    assert shown["metadata"] == {"b": 2, "c": 3}
    assert shown["labels"] == ["y", "z"]
    assert shown["consumption_offsets"] == {"client": 7}
    assert shown["customer_id"] == "c1"
    assert api.call("PATCH", f"/sessions/{session}", json={}).json() == shown


def test_3_0_takes_metadata_and_leaves_it(serve):
    api = serve("3.0")
    session = api.session()
    shown = api.call("PATCH", f"/sessions/{session}", json={"metadata": {"set": {"a": 1}}, "title": "t"}).json()
    assert shown["title"] == "t"
    assert "metadata" not in shown


def test_sessions_are_listed_by_page(api):
    ids = [api.session(labels=["even"] if n % 2 == 0 else []) for n in range(5)]
    whole = api.call("GET", "/sessions").json()
    assert [s["id"] for s in whole] == ids
    seen, cursor, pages = [], None, 0
    while True:
        page = api.call("GET", "/sessions", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        assert set(page) == {"items", "total_count", "has_more", "next_cursor"}
        seen += [s["id"] for s in page["items"]]
        pages += 1
        cursor = page["next_cursor"]
        assert bool(cursor) == page["has_more"]
        if not cursor:
            break
    assert (seen, pages) == (ids, 3)
    assert len(api.call("GET", "/sessions", params={"limit": 2, "cursor": "rubbish"}).json()["items"]) == 2
    assert [s["id"] for s in api.call("GET", "/sessions", params={"labels": "even"}).json()] == ids[::2]


def test_a_cursor_outlives_its_session(api):
    ids = [api.session() for _ in range(4)]
    cursor = api.call("GET", "/sessions", params={"limit": 2}).json()["next_cursor"]
    api.call("DELETE", f"/sessions/{ids[1]}")
    rest = api.call("GET", "/sessions", params={"limit": 2, "cursor": cursor}).json()["items"]
    assert [s["id"] for s in rest] == ids[2:]


def test_3_0_has_no_pages(serve):
    api = serve("3.0")
    ids = [api.session() for _ in range(3)]
    assert [s["id"] for s in api.call("GET", "/sessions", params={"limit": 2}).json()] == ids


def test_sessions_are_listed_by_agent_and_customer(api):
    one, two = api.session("one"), api.session("two", customer_id="c1")
    assert [s["id"] for s in api.call("GET", "/sessions?agent_id=two").json()] == [two]
    assert [s["id"] for s in api.call("GET", "/sessions?customer_id=guest").json()] == [one]


def test_a_deleted_session_is_not_found(api):
    session = api.session()
    answer = api.call("DELETE", f"/sessions/{session}")
    assert (answer.status_code, answer.content) == (204, b"")
    for method in ("GET", "DELETE"):
        answer = api.call(method, f"/sessions/{session}")
        assert answer.status_code == 404
        assert answer.json() == {"detail": f"Session not found (id='{session}')"}
    assert api.list(session, wait=5).status_code == 404
    assert api.post(session, kind="message", source="customer", message="x").status_code == 404


def test_agents(api):
    api.server.agent("support", description="helps")
    api.server.agent("after-sales")
    support = {
        "id": "support",
        "name": "Support",
        "description": "helps",
        "max_engine_iterations": 3,
        "composition_mode": "canned_fluid",
        "message_output_mode": "block",
        "tags": [],
    }
    listed = api.call("GET", "/agents").json()
    assert listed[0] == support
    assert listed[1]["name"] == "After Sales"
    assert api.call("GET", "/agents/support").json() == support
    answer = api.call("GET", "/agents/nobody")
    assert (answer.status_code, answer.json()) == (404, {"detail": "Item 'nobody' not found"})
    assert api.call("POST", "/sessions", json={"agent_id": "nobody"}).status_code == 404


def test_a_customer_has_a_name(api):
    api.server.customer("c1", "Ada")
    session = api.session(customer_id="c1")
    assert api.send(session, "hi")["data"]["participant"] == {"id": "c1", "display_name": "Ada"}


@pytest.mark.parametrize(
    ("version", "number"), [("3.0", "0.1.0"), ("3.1", "3.1.2"), ("3.2", "3.2.2"), ("3.3", "3.3.2")]
)
def test_version_and_health(serve, version, number):
    api = serve(version)
    assert api.call("GET", "/openapi.json").json()["info"]["version"] == number
    health = api.call("GET", "/healthz")
    if version == "3.0":
        assert health.status_code == 404
    elif version == "3.3":
        assert health.json()["status"] == "healthy"
        assert "event_loop" in health.json()["checks"]
    else:
        assert health.json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("GET", "/nothing", 404, "Not Found"),
        ("GET", "/sessions/a%2Fb", 404, "Not Found"),
        ("GET", "/sessions/%3F%0A", 404, "Session not found (id='?\n')"),
        ("PUT", "/sessions", 405, "Method Not Allowed"),
    ],
)
def test_paths_that_are_not(api, method, path, status, detail):
    answer = api.call(method, path)
    assert (answer.status_code, answer.json()["detail"]) == (status, detail)


def test_405_names_a_method_and_head_has_no_body(api):
    answer = api.call("HEAD", "/agents")
    assert (answer.status_code, answer.headers["allow"], answer.content) == (405, "GET", b"")


def problem(kind: str, loc: list[object], message: str) -> dict[str, object]:
    return {"type": kind, "loc": loc, "msg": message}


OBJECT = "Input should be a valid dictionary or object to extract fields from"
LONG = "String should have at most 200 characters"
ONE_OF = f"Input should be {', '.join(map(repr, SOURCES[:-1]))} or 'system'"
BOOL = "Input should be a valid boolean, unable to interpret input"
EVENTS = "/sessions/x/events"


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/sessions", {}, problem("missing", ["body", "agent_id"], "Field required")),
        ("/sessions", ["x"], problem("model_attributes_type", ["body"], OBJECT)),
        ("/sessions", {"agent_id": "a", "title": 5}, problem("string_type", ["body", "title"], STRING)),
        ("/sessions", {"agent_id": "a", "title": "x" * 201}, problem("string_too_long", ["body", "title"], LONG)),
        ("/sessions?limit=x", None, problem("int_parsing", ["query", "limit"], INT)),
        (f"{EVENTS}?source=zz", None, problem("enum", ["query", "source"], ONE_OF)),
        (f"{EVENTS}?wait_for_data=1.5", None, problem("int_parsing", ["query", "wait_for_data"], INT)),
        (f"{EVENTS}?wait_for_data=", None, problem("int_parsing", ["query", "wait_for_data"], INT)),
        (f"{EVENTS}?min_offset=x", None, problem("int_parsing", ["query", "min_offset"], INT)),
        (
            f"{EVENTS}/y?wait_for_completion=maybe",
            None,
            problem("bool_parsing", ["query", "wait_for_completion"], BOOL),
        ),
    ],
)
def test_requests_that_are_wrong(api: Api, path, body, expected):
    answer = api.call("GET" if body is None else "POST", path, json=body)
    assert (answer.status_code, answer.json()) == (422, {"detail": [expected]})


def test_bodies_that_are_no_json(api):
    answer = api.call("POST", "/sessions")
    assert answer.json()["detail"] == [problem("missing", ["body"], "Field required")]
    answer = api.call("POST", "/sessions", data="{bad", headers={"content-type": "application/json"})
    expected = problem("json_invalid", ["body", 1], "JSON decode error")
    assert (answer.status_code, answer.json()["detail"]) == (422, [expected])
    api.server.agent("support")
    answer = api.call("POST", "/sessions", data='{"agent_id": "support"}')  # no content type: newer FastAPI wants it
    assert answer.json()["detail"][0]["type"] == "model_attributes_type"
