"""``parlant-sync sessions``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.cli_runs import Cli
from support.shared_servers import SharedServer

from parlant_sync.testing import FakeServer


@pytest.mark.real
def test_create_show_list_delete(real: Cli, demo: SharedServer) -> None:
    agent = demo.agents["hesitant"]
    made = real.run("sessions", "create", "-o", "json", "--agent-id", agent, "--title", "A title").json
    session = made["session_id"]
    assert (made["agent_id"], made["title"], made["mode"]) == (agent, "A title", "auto")
    assert real.run("send", "--session-id", session, "a question").code == 0
    shown = real.run("sessions", "show", session)
    for text in (
        f"session   {session}",
        "title     A title",
        "\ncustomer  20",
        "    a question",
        "(preamble)",
        "    echo: a quest",
    ):
        assert text in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    listed = real.run("sessions", "list", "--agent-id", agent)
    assert any(line.startswith(session) and line.endswith("A title") for line in listed.out.splitlines())
    rows = real.run("sessions", "list", "-o", "json", "--limit", "1").json_lines
    assert [set(row) >= {"session_id", "agent_id", "customer_id", "title", "created"} for row in rows] == [True]
    done = real.run("sessions", "delete", session)
    assert (done.code, done.out, done.err) == (0, "", "")
    real.run("sessions", "show", session).failed(6, session)


@pytest.mark.real
def test_options_anywhere_around_a_group(real: Cli, new_session: Callable[..., str]) -> None:
    session = new_session()
    for arguments in (
        ("-o", "json", "sessions", "show", session),
        ("sessions", "-o", "json", "show", session),
        ("sessions", "show", "-o", "json", "--session-id", session),
    ):
        assert real.run(*arguments).json["session_id"] == session
    two = [new_session(), session]
    assert [row["deleted"] for row in real.run("sessions", "delete", "-o", "json", *two).json_lines] == [True, True]


@pytest.mark.real
def test_one_that_is_not_there_keeps_no_other_from_being_deleted(real: Cli, new_session: Callable[..., str]) -> None:
    first, last = new_session(), new_session()
    real.run("sessions", "delete", first, "none-1", "none-2", last).failed(6, "'none-1', 'none-2'", "sessions list")
    for session in (first, last):
        real.run("sessions", "show", session).failed(6, session)


def test_ids_given_in_both_ways(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    one, two, three = (parlant_server.create_session("support") for _ in range(3))
    fake.run("sessions", "show", one, "--session-id", two).failed(2, "one of them")
    # What the environment says is shown, and never deleted.
    assert fake.run("sessions", "delete", one, env={"PARLANT_SESSION_ID": two}).code == 0
    fake.run("sessions", "delete", env={"PARLANT_SESSION_ID": two}).failed(2, "say which session")
    assert fake.run("sessions", "show", "-o", "json", env={"PARLANT_SESSION_ID": two}).json["session_id"] == two
    assert fake.run("sessions", "delete", two, "--session-id", three).code == 0
    assert fake.run("sessions", "list").out == ""
