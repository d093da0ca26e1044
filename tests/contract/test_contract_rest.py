"""The server, its agents and its sessions: the calls that are one request each, or a few."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import requests
from support.contract_http import Traffic

from parlant_sync import (
    Client,
    ConfigurationError,
    InvalidRequestError,
    NotFoundError,
    SessionClosed,
    TransportError,
    UnsupportedByServer,
)


def test_server_info(server: Any, client: Client) -> None:
    info = client.server_info()
    assert 0 < info.latency < 10
    if server.kind == "fake":
        assert info.healthy
    if server.version == (3, 0):
        assert info.version is None  # it says 0.1.0, whatever it is
    else:
        assert info.version is not None
        assert info.version.startswith(".".join(map(str, server.version)))


def test_agents(server: Any, client: Client) -> None:
    found = {agent.id: agent for agent in client.agents()}
    assert set(server.agents.values()) <= set(found)
    for agent_id in server.agents.values():
        agent = client.agent(agent_id)
        assert agent == found[agent_id]
        assert agent.name
    with pytest.raises(NotFoundError) as caught:
        client.agent("nobody")
    assert caught.value.status == 404
    assert caught.value.path.endswith("/agents/nobody")


def test_a_session_as_it_was_created(server: Any, client: Client) -> None:
    session = client.create_session(server.agents["quick"], title="A title: ü 日本")
    assert session.agent_id == server.agents["quick"]
    assert session.customer_id
    assert session.title == "A title: ü 日本"
    assert session.mode == "auto"
    assert session.created is not None
    assert abs(datetime.now(timezone.utc) - session.created) < timedelta(minutes=5)
    assert (session.cursor, session.closed, session.agent_status) == (0, False, None)
    assert client.sessions[session.id] is session


def test_metadata_and_labels_of_a_session(server: Any, client: Client) -> None:
    server.needs("keeps_metadata", "keeps no metadata of sessions (3.1 and newer do)")
    session = client.create_session(server.agents["quick"], metadata={"a": 1, "b": {"c": [2]}})
    assert session.metadata == {"a": 1, "b": {"c": [2]}}
    session.update(metadata={"a": 3, "b": None, "d": "new"})
    assert session.metadata == {"a": 3, "d": "new"}
    assert session.refresh().metadata == {"a": 3, "d": "new"}
    server.needs("keeps_labels", "has no labels (3.2 and newer have)")
    labelled = client.create_session(server.agents["quick"], labels=["vip", "beta"])
    assert sorted(labelled.labels) == ["beta", "vip"]
    labelled.update(labels=["vip", "gamma"])
    assert sorted(labelled.refresh().labels) == ["gamma", "vip"]


def test_what_json_makes_of_values_is_no_loss(server: Any, client: Client) -> None:
    server.needs("keeps_metadata", "keeps no metadata of sessions (3.1 and newer do)")
    session = client.create_session(server.agents["quick"])
    session.update(metadata={"pair": ("a", "b")})
    assert session.metadata == {"pair": ["a", "b"]}


def test_labels_are_replaced_whoever_has_set_them(
    server: Any, client: Client, make_client: Callable[..., Client]
) -> None:
    server.needs("keeps_labels", "has no labels (3.2 and newer have)")
    session = client.create_session(server.agents["quick"], labels=["a"])
    make_client(server).session(session.id).update(labels=["a", "somebody else's"])
    session.update(labels=["c"])
    assert session.labels == ("c",)
    assert session.refresh().labels == ("c",)


def test_what_a_version_does_not_keep_is_said(server: Any, client: Client) -> None:
    session = client.create_session(server.agents["quick"])
    if not server.keeps_metadata:
        with pytest.raises(UnsupportedByServer, match=r"metadata.*3\.1"):
            session.update(metadata={"a": 1})
    if not server.keeps_labels:
        with pytest.raises(UnsupportedByServer, match=r"labels.*3\.2"):
            session.update(labels=["vip"])
    if server.keeps_labels:
        pytest.skip("this version keeps all of it")


def test_update_and_refresh(server: Any, client: Client, make_client: Callable[..., Client]) -> None:
    session = client.create_session(server.agents["quick"], title="before")
    elsewhere = make_client(server).session(session.id)
    elsewhere.update(title="after")
    assert session.title == "before"
    assert session.refresh() is session
    assert session.title == "after"
    session.update(mode="manual")
    assert session.mode == "manual"
    assert session.title == "after"
    assert elsewhere.refresh().mode == "manual"
    with pytest.raises(ConfigurationError, match="mode cannot be 'nonsense'"):
        session.update(mode="nonsense")


def test_list_sessions(server: Any, client: Client) -> None:
    mine = [client.create_session(server.agents["hesitant"], title=f"mine {n}") for n in range(3)]
    others = client.create_session(server.agents["quick"])
    found = {info.id: info for info in client.list_sessions(agent_id=server.agents["hesitant"])}
    assert {session.id for session in mine} <= set(found)
    assert others.id not in found
    assert found[mine[1].id].title == "mine 1"
    assert others.id in {info.id for info in client.list_sessions()}
    by_customer = {info.id for info in client.list_sessions(customer_id=others.customer_id)}
    assert others.id in by_customer
    assert list(client.list_sessions(customer_id="nobody-of-that-name")) == []


def test_a_list_that_is_read_on_after_the_client_was_closed(server: Any, make_client: Callable[..., Client]) -> None:
    client = make_client(server)
    client.create_session(server.agents["quick"])
    listing = client.list_sessions()
    client.close()
    with pytest.raises(SessionClosed):
        list(listing)


def test_list_sessions_by_label(server: Any, client: Client) -> None:
    server.needs("keeps_labels", "has no labels (3.2 and newer have)")
    label = uuid.uuid4().hex
    wanted = client.create_session(server.agents["quick"], labels=[label, "both"])
    client.create_session(server.agents["quick"], labels=["both"])
    assert [info.id for info in client.list_sessions(labels=[label])] == [wanted.id]
    assert [info.id for info in client.list_sessions(labels=[label, "both"])] == [wanted.id]


def test_a_long_list_of_sessions_comes_in_pages(server: Any, make_client: Callable[..., Client]) -> None:
    """More than a page of one customer's: two requests where the server pages, and every session is there once."""
    traffic = Traffic()
    client = make_client(server, session_factory=traffic)
    customer = uuid.uuid4().hex
    with client:
        customer = server.make_customer(customer)
        body = {"agent_id": server.agents["quick"], "customer_id": customer}
        made = [server.request("POST", "/sessions", json=body).json()["id"] for _ in range(102)]
        listed = [info.id for info in client.list_sessions(customer_id=customer)]
        assert len(listed) == 102
        assert set(listed) == set(made)
        assert traffic.count("GET", "/sessions") == (2 if server.version >= (3, 1) else 1)


def test_history(server: Any, client: Client) -> None:
    session = client.create_session(server.agents["hesitant"])
    assert session.history() == []
    reply = session.send("hello")
    whole = session.history()
    assert whole[0] == reply.request
    assert tuple(whole[1:]) == reply.events
    assert session.history(3) == whole[3:]
    assert session.history(len(whole)) == []
    assert session.history(kinds="message") == [event for event in whole if event.kind == "message"]
    assert session.history(kinds=["status"], sources=["customer"]) == []
    assert session.history(sources="customer") == whole[:1]


def test_events_of_ones_own(server: Any, client: Client) -> None:
    session = client.create_session(server.agents["quick"])
    data = {"page": "prices", "deep": [1, None, {"ü": "日本"}]}
    custom = session.post_event("custom", data, metadata={"from": "test"})
    assert (custom.kind, custom.source, custom.data) == ("custom", "customer_ui", data)
    if server.keeps_metadata:
        assert custom.metadata == {"from": "test"}
    status = session.post_event("status", "typing")
    assert (status.kind, status.status) == ("status", "typing")
    detailed = session.post_event("status", {"status": "processing", "data": {"stage": "reading"}})
    assert (detailed.status, detailed.stage) == ("processing", "reading")
    assert session.history() == [custom, status, detailed]
    assert list(session.iter_events(timeout=0)) == [custom, status, detailed]
    # A status of the customer's side is not the agent's.
    assert session.agent_status is None
    with pytest.raises(InvalidRequestError):
        session.post_event("custom", {})  # servers want some data
    server.needs("takes_custom_events", "fails in each turn after one")
    assert session.send("hello").text == "echo: hello"


def test_what_does_not_exist(server: Any, client: Client) -> None:
    for ask in (
        lambda: client.session("nobody"),
        lambda: client.session("nobody", since="beginning"),
        lambda: client.delete_session("nobody"),
        lambda: client.create_session("nobody"),
    ):
        with pytest.raises(NotFoundError):
            ask()
    assert dict(client.sessions) == {}


def test_a_long_message(server: Any, client: Client) -> None:
    session = client.create_session(server.agents["quick"])
    long = "ü 日本 \U0001f600 " * 2000
    assert session.send(long + "end").text == f"echo: {long}end"


MISSING = ("missing", "Field required")
NO_STRING = ("string_type", "Input should be a valid string")
NO_FIELDS = ("model_attributes_type", "Input should be a valid dictionary or object to extract fields from")
NO_RATIONALE = ("enum", "Input should be 'unspecified', 'buy_time' or 'follow_up'")


@pytest.mark.parametrize(
    ("fields", "problems"),
    [
        ({"guidelines": [{"action": "x", "rationale": "r"}]}, [(("guidelines", 0, "rationale"), *NO_RATIONALE)]),
        ({"guidelines": [{"action": "x", "rationale": None}]}, [(("guidelines", 0, "rationale"), *NO_RATIONALE)]),
        (
            {"guidelines": [{"action": "x"}, {"foo": 1}, {"action": 5}, "x"]},
            [
                (("guidelines", 1, "action"), *MISSING),
                (("guidelines", 2, "action"), *NO_STRING),
                (("guidelines", 3), *NO_FIELDS),
            ],
        ),
        ({"guidelines": {"action": "x"}}, [(("guidelines",), "list_type", "Input should be a valid list")]),
        ({"participant": {"id": 5, "display_name": "x"}}, [(("participant", "id", "str"), *NO_STRING)] * 2),
        ({"participant": {"id": "a"}}, [(("participant", "display_name"), *MISSING)]),
        ({"participant": {"display_name": 5}}, [(("participant", "display_name"), *NO_STRING)]),
        ({"participant": []}, [(("participant",), *NO_FIELDS)]),
        (
            {"participant": {}, "guidelines": [{}]},
            [(("guidelines", 0, "action"), *MISSING), (("participant", "display_name"), *MISSING)],
        ),
    ],
)
def test_what_is_refused_for_its_form(server: Any, client: Client, fields: Any, problems: Any) -> None:
    session = client.create_session(server.agents["quick"])
    name = "rules" if server.compass else "guidelines"  # ignored by the other name
    fields = {name if field == "guidelines" else field: value for field, value in fields.items()}
    body = {"kind": "message", "source": "customer", "message": "hi", **fields}
    with pytest.raises(requests.HTTPError) as caught:
        server.request("POST", f"/sessions/{session.id}/events", json=body)
    assert caught.value.response.status_code == 422
    told = caught.value.response.json()["detail"]
    places = [tuple("guidelines" if part == name else part for part in each["loc"][1:]) for each in told]
    found = [(place, each["type"], each["msg"]) for place, each in zip(places, told, strict=True)]
    assert sorted(found, key=str) == sorted(problems, key=str)
    assert session.history() == []


def test_nobody_there(server: Any, make_client: Callable[..., Client]) -> None:
    client = make_client(server)
    nobody = Client("http://127.0.0.1:9", connect_timeout=2)
    with nobody, pytest.raises(TransportError):
        nobody.server_info()
    assert client.server_info()
