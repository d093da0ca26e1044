"""``parlant-sync send`` and ``agents`` on the real server."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.cli_runs import Cli
from support.shared_servers import SharedServer

pytestmark = pytest.mark.real


def test_the_answer_and_nothing_else(real: Cli, demo: SharedServer) -> None:
    done = real.run("send", "--agent-id", demo.agents["quick"], "hello there")
    assert (done.code, done.out, done.err) == (0, "echo: hello there\n", "")


def test_options_before_the_command_and_from_the_environment(real: Cli, demo: SharedServer) -> None:
    before = real.run("-s", real.server, "-o", "json", "send", "--agent-id", demo.agents["quick"], "a")
    after = real.run("send", "-s", real.server, "-o", "json", "--agent-id", demo.agents["quick"], "b")
    env = {"PARLANT_OUTPUT": "json", "PARLANT_AGENT_ID": demo.agents["quick"], "PARLANT_TITLE": "from the environment"}
    environment = real.run("send", "c", env=env)
    assert [run.json["text"] for run in (before, after, environment)] == ["echo: a", "echo: b", "echo: c"]
    shown = real.run("-o", "json", "sessions", "show", environment.json["session_id"])
    assert shown.json["title"] == "from the environment"
    # The nearer one counts.
    assert real.run("-s", "http://127.0.0.1:1", "agents", "-s", real.server).code == 0


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_the_message_from_stdin(real: Cli, demo: SharedServer, arguments: tuple[str, ...]) -> None:
    done = real.run("send", "--agent-id", demo.agents["quick"], *arguments, input="two\nlines, 日本\n")
    assert (done.code, done.out) == (0, "echo: two\nlines, 日本\n")


def test_json_has_what_api_md_says(real: Cli, demo: SharedServer) -> None:
    done = real.run("send", "-o", "json", "--agent-id", demo.agents["hesitant"], "[parts=2] hm")
    reply = done.json
    assert list(reply) == [
        *("session_id", "outcome", "text", "messages", "preambles", "tool_calls"),
        *("trace_id", "next_offset", "duration"),
        *("matched_guidelines", "matched_journeys", "matched_journey_states", "flagged", "moderation_tags"),
    ]
    assert (reply["outcome"], reply["messages"]) == ("answered", ["echo: hm", "second part"])
    assert reply["text"] == "echo: hm\n\nsecond part"
    assert reply["preambles"] == ["Let me see."]
    assert reply["duration"] > 0
    rest = real.run("tail", "--session-id", reply["session_id"], "--since", str(reply["next_offset"]), "--timeout", "0")
    assert (rest.code, rest.out) == (0, "")


def test_streaming_comes_in_pieces(real: Cli, demo: SharedServer) -> None:
    if not demo.streaming:
        pytest.skip("this server does not stream")
    words = "one two three four five six"
    gate = f"[gatemid=cli-{real.home.name}]"
    with real.start("send", "--stream", "--agent-id", demo.agents["streamer"], f"{gate} {words}") as running:
        assert running.process.stdout is not None
        first = running.process.stdout.read(8).decode()
        demo.release(f"cli-{real.home.name}")  # had it come whole, it would not have come at all before this
        done = running.end()
    assert (done.code, first + done.out) == (0, f"streamed echo of: {words}\n")


def test_preambles_on_demand(real: Cli, demo: SharedServer) -> None:
    quiet = real.run("send", "--agent-id", demo.agents["hesitant"], "hm")
    shown = real.run("send", "--show-preamble", "--agent-id", demo.agents["hesitant"], "hm")
    streamed = real.run("send", "--show-preamble", "--stream", "--agent-id", demo.agents["hesitant"], "hm")
    assert (quiet.out, quiet.err) == ("echo: hm\n", "")
    assert (shown.out, shown.err) == (streamed.out, streamed.err) == ("echo: hm\n", "Let me see.\n")


def test_an_empty_turn_is_a_success_with_a_note(real: Cli, demo: SharedServer) -> None:
    done = real.run("send", "--agent-id", demo.agents["quick"], "[silent] hm")
    assert (done.code, done.out) == (0, "")
    assert "without a message" in done.err
    assert real.run("send", "-o", "json", "--agent-id", demo.agents["quick"], "[silent] hm").json["outcome"] == "empty"


def test_agents(real: Cli, demo: SharedServer) -> None:
    done = real.run("agents")
    assert done.code == 0
    assert "Research Papers" in done.out
    rows = real.run("agents", "-o", "json").json_lines
    assert {row["id"] for row in rows} >= set(demo.agents.values())  # other tests make some
    assert all(set(row) == {"id", "name", "description"} for row in rows)


def test_the_agents_are_listed_where_one_must_be_chosen(real: Cli, demo: SharedServer) -> None:
    real.run("send", "hello").failed(
        2, "--agent-id", *list(demo.agents.values())[:5], "..." if len(demo.agents) > 8 else ""
    )


def test_a_title_and_a_customer(real: Cli, demo: SharedServer, new_session: Callable[..., str]) -> None:
    done = real.run("send", "-o", "json", "--agent-id", demo.agents["quick"], "--title", "Ticket 12", "hi")
    assert real.run("sessions", "show", "-o", "json", done.json["session_id"]).json["title"] == "Ticket 12"
    real.run("send", "--session-id", new_session(), "--title", "x", "hi").failed(2, "--title")


def test_a_customer_that_is_not_there(real: Cli, demo: SharedServer) -> None:
    """The server makes the session all the same, and it never answers (WIRE.md)."""
    quick = demo.agents["quick"]
    done = real.run("send", "--agent-id", quick, "--customer-id", "nobody", "--timeout", "2", "x")
    done.failed(4, "is customer 'nobody' known to the server?")
