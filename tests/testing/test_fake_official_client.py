"""The official client holds a conversation with the stand-in: that keeps it honest about shapes."""

from __future__ import annotations

import pytest
from support.raw_api import VERSIONS, Api

official = pytest.importorskip("parlant.client", reason="parlant-client, the official client, is not installed here")


@pytest.fixture
def talk(serve):
    """A server and an official client of it; its connections are closed after the test."""
    made = []

    def make(version: str) -> tuple[Api, object]:
        api = serve(version)
        client = official.ParlantClient(base_url=api.server.base_url, timeout=10)
        made.append(client)
        return api, client

    yield make
    for client in made:
        client._client_wrapper.httpx_client.httpx_client.close()


def test_a_conversation(talk):
    api, client = talk("3.3")
    api.server.agent("support", description="helps").replies("Hello", then="How can I help?").with_preamble()
    assert [a.name for a in client.agents.list()] == ["Support"]
    assert client.agents.retrieve("support").description == "helps"
    session = client.sessions.create(agent_id="support", title="t", metadata={"a": 1})
    event = client.sessions.create_event(session.id, kind="message", source="customer", message="hi")
    assert (event.offset, event.source, event.data["message"]) == (0, "customer", "hi")
    seen, offset = [], 0
    while not seen or (seen[-1].data.get("data") or {}).get("stage") != "completed":
        for found in client.sessions.list_events(session.id, min_offset=offset, wait_for_data=5):
            seen.append(found)
            offset = found.offset + 1
    texts = [e.data["message"] for e in seen if e.kind == "message"]
    assert texts == ["hi", "Hmm...", "Hello", "How can I help?"]
    assert client.sessions.read_event(session.id, seen[-1].id).id == seen[-1].id


def test_sessions(talk):
    api, client = talk("3.3")
    api.server.agent("support")
    ids = [client.sessions.create(agent_id="support").id for _ in range(3)]
    assert [s.id for s in client.sessions.list()] == ids
    page = client.sessions.list(limit=2)
    assert ([s.id for s in page.items], page.has_more, page.total_count) == (ids[:2], True, 3)
    changed = client.sessions.update(ids[0], title="new", mode="manual")
    assert (changed.title, changed.mode) == ("new", "manual")
    client.sessions.delete(ids[0])
    with pytest.raises(official.NotFoundError):
        client.sessions.retrieve(ids[0])


def test_an_idle_poll(talk):
    api, client = talk("3.3")
    api.server.agent("support")
    session = client.sessions.create(agent_id="support")
    with pytest.raises(official.GatewayTimeoutError) as caught:
        client.sessions.list_events(session.id, wait_for_data=1)
    assert caught.value.status_code == 504


@pytest.mark.parametrize("version", [v for v in VERSIONS if v != "3.0"])  # 3.0's events lack what this client wants
def test_events_of_other_versions(talk, version):
    api, client = talk(version)
    api.server.agent("support").with_tool("shop:stock")
    session = api.session()
    api.turn(session, "hi")
    api.server.human(session, "Dana here.")
    kinds = [e.kind for e in client.sessions.list_events(session, wait_for_data=0)]
    assert "tool" in kinds
    assert kinds[-1] == "message"
