"""Every exit code but 9 (``batch``) and those of signals, each with one line that says what to do."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from support.cli_runs import Cli, posts
from support.shared_servers import SharedServer

from parlant_sync.testing import FakeServer


@pytest.mark.real
def test_4_timed_out(real: Cli, demo: SharedServer) -> None:
    done = real.run("send", "--agent-id", demo.agents["quick"], "--timeout", "2", "[slow=5] x")
    done.failed(4, "within 2 s", "--timeout", "parlant-sync tail --session-id")


@pytest.mark.real
def test_5_the_agent_reported_an_error(real: Cli, demo: SharedServer) -> None:
    done = real.run("send", "--agent-id", demo.agents["hesitant"], "[fail] x")
    done.failed(5, "the agent reported an error", "log")


@pytest.mark.real
def test_6_refused(real: Cli) -> None:
    real.run("send", "--agent-id", "nobody", "x").failed(6, "'nobody'", "parlant-sync agents")
    real.run("send", "--session-id", "nothing", "x").failed(6, "'nothing'", "sessions list")
    real.run("tail", "--session-id", "nothing").failed(6, "'nothing'")
    real.run("sessions", "show", "nothing").failed(6, "'nothing'")
    real.run("sessions", "delete", "nothing").failed(6, "'nothing'")
    real.run("agents", env={"PARLANT_SERVER": real.server + "/elsewhere"}).failed(6, "404", "address")


def test_6_the_wrong_token(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.token = "right"
    parlant_server.agent("support")
    fake.run("agents").failed(6, "401", "PARLANT_TOKEN")
    fake.run("send", "x", env={"PARLANT_TOKEN": "wrong-one"}).failed(6, "401", "came from PARLANT_TOKEN")
    assert fake.run("send", "x", env={"PARLANT_TOKEN": "right"}).code == 0
    (fake.home / "token").write_text("right\n")
    assert fake.run("send", "x", "--token-file", "token", env={"PARLANT_TOKEN": "wrong-one"}).code == 0


def test_6_not_allowed(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.fail_next("GET /agents", 403, '{"detail": "no: Authorization: Bearer s3cret-token"}', times=None)
    done = fake.run("agents", env={"PARLANT_TOKEN": "s3cret-token"})
    done.failed(6, f"GET {parlant_server.base_url}/agents: 403", "does not allow")
    assert "s3cret" not in done.err
    fake.run("send", "x").failed(2, "does not list its agents", "--agent-id")


@pytest.mark.parametrize("status", [400, 409, 413, 422])
def test_6_refused_for_good(fake: Cli, parlant_server: FakeServer, status: int) -> None:
    parlant_server.agent("support")
    parlant_server.fail_next("POST /events", status, '{"detail": "never\\nthat"}', times=None)
    fake.run("send", "x").failed(6, f"POST {parlant_server.base_url}/sessions/", str(status), "never that")


def test_3_not_reached(nowhere: Cli) -> None:
    nowhere.run("send", "--agent-id", "a", "x").failed(3, "refused", "127.0.0.1:1", "PARLANT_SERVER")
    nowhere.run("agents", "-s", "http://nosuch.invalid").failed(3, "nosuch.invalid")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_3_failing_for_now(fake: Cli, parlant_server: FakeServer, status: int) -> None:
    parlant_server.fail_next("GET /agents", status, '{"detail": "later"}', times=None)
    fake.run("agents").failed(3, f"GET {parlant_server.base_url}/agents: {status} later; ", "again")


@pytest.mark.parametrize("status", [302, 400, 403, 404, 408, 409, 413, 422])
def test_3_a_maintenance_page(fake: Cli, parlant_server: FakeServer, status: int) -> None:
    elsewhere = {"Location": "https://sorry.invalid/"}
    parlant_server.fail_next("GET /agents", status, "<html>We are down</html>", elsewhere, times=None)
    fake.run("agents").failed(3, str(status), "We are down", "a proxy answered, not Parlant", "try again later")
    parlant_server.fail_next("/sessions/x", status, "<html>We are down</html>", elsewhere, times=None)
    fake.run("send", "--session-id", "x", "hi").failed(3, str(status), "We are down", "doctor")


def test_3_another_program_answers(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.fail_next("GET /agents", 200, "<html>Welcome</html>", times=None)
    fake.run("agents").failed(3, "not with what a Parlant server sends")


def test_3_the_login_page_of_a_proxy(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.fail_next("GET /agents", 401, "<html>log in</html>", times=None)
    fake.run("agents").failed(3, "401")


def test_6_redirects(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.fail_next("GET /agents", 308, "", {"Location": "https://elsewhere.invalid/"}, times=None)
    fake.run("agents").failed(6, "308", "final address")


@pytest.mark.parametrize(
    ("command", "stored"),
    [(("send", "--timeout", "2"), True), (("post", "--as", "human", "--name", "Dana"), False)],
    ids=["it was stored", "it was lost"],
)
def test_7_what_it_says_to_run_next_posts_at_most_once(
    fake: Cli, parlant_server: FakeServer, command: tuple[str, ...], stored: bool
) -> None:
    parlant_server.agent("support")
    session = parlant_server.create_session("support")
    parlant_server.cut_next("POST /events", stored=stored)
    if stored:  # and then the server cannot be read
        parlant_server.fail_next(
            lambda request: request.method == "GET" and "/events" in request.path and posts(parlant_server) > 0,
            502,
            times=None,
        )
    done = fake.run(*command, "--session-id", session, "MESSAGE", "-o", "json")
    assert done.code == 7, done
    [again] = re.findall(r"this posts it only if it is not there: (parlant-sync .*?) \(to look", done.err)
    assert done.json["key"] in again
    parlant_server.clear_faults()
    for _ in range(2):
        assert fake.run(*shlex.split(again)[1:]).code == 0
    said = [each["source"] for each in parlant_server.events(session) if each["data"].get("message") == "MESSAGE"]
    assert said == ["human_agent" if "human" in command else "customer"]


@pytest.mark.parametrize(
    ("version", "arguments", "code", "words"),
    [
        ("3.0", ("send", "x", "--session-id", "ID", "--key", "K"), 6, "--key needs Parlant 3.1"),
        ("3.0", ("sessions", "update", "ID", "--metadata", '{"a": 1}'), 6, "--metadata needs Parlant 3.1"),
        ("3.1", ("sessions", "update", "ID", "--label", "vip"), 6, "--label needs Parlant 3.2"),
        ("3.1", ("sessions", "list", "--label", "vip"), 6, "--label needs Parlant 3.2"),
        ("3.3", ("chat", "--session-id", "ID", "--timeout", "0.3"), 4, "a longer --timeout may help"),
        ("4.0", ("send", "x", "--session-id", "ID"), 5, "the budget is used up"),
        ("4.0", ("chat", "--session-id", "ID"), 5, "the budget is used up"),
    ],
)
def test_a_failure_is_in_words_of_the_command(
    tmp_path: Path, version: str, arguments: tuple[str, ...], code: int, words: str
) -> None:
    with FakeServer(version) as server:
        agent = server.agent("support")
        _ = agent.refuses(90) if version == "4.0" else agent.ignores()
        session_id = server.create_session("support")
        shown = [session_id if each == "ID" else each for each in arguments]
        done = Cli(server.base_url, tmp_path).run(*shown, input="hello\n")
    assert (done.code, words in done.err) == (code, True), done
    assert not re.search(r"session\.|error\.|\w=|once=|update\(", done.err)
    assert done.err.count("try again") <= 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("send", "--nonsense"), ("--nonsense", "parlant-sync send --help")),
        (("nonsense",), ("nonsense", "parlant-sync --help")),
        (("send", "--timeout", "-1", "x"), ("--timeout",)),
        (("send", "--timeout", "soon", "x"), ("'soon'",)),
        (("send", "--timeout", "nan", "x"), ("--timeout",)),
        (("-o", "xml", "agents"), ("xml",)),
        (("send", "-s", "ftp://x", "--agent-id", "a", "x"), ("--server", "http://")),
        (("send", "-s", "http://user:pw@x", "--agent-id", "a", "x"), ("--token-file",)),
        (("send", "-s", "localhost:8800", "--agent-id", "a", "x"), ("--server", "http://localhost:8800")),
        (("send", "--agent-id", "", "x"), ("--agent-id",)),
        (("send", "--session-id", "a", "--conversation", "b", "x"), ("one of them",)),
        (("send", "--renew", "x"), ("--conversation",)),
        (("send", "--token-file", "missing", "x"), ("missing", "No such file")),
        (("agents", "--token-file", "/dev/null"), ("empty",)),
        (("tail",), ("--session-id",)),
        (("tail", "--session-id", "x", "--since", "never"), ("'never'", "beginning")),
        (("tail", "--session-id", "x", "--label", "l"), ("--label goes with --all-sessions",)),
        (("tail", "--session-id", "x", "--polls", "2"), ("--polls goes with --all-sessions",)),
        (("tail", "--session-id", "x", "--dead-letter", "f"), ("--dead-letter goes with --exec or --forward-to",)),
        (("tail", "--session-id", "x", "--retries", "2"), ("--retries goes with --exec or --forward-to",)),
        (("tail", "--conversation", "none-such"), ("none-such", "begins one")),
        (("sessions", "show"), ("ID",)),
        (("sessions", "delete"), ("ID",)),
        (("sessions", "list", "--limit", "-1"), ("--limit",)),
        (("demo", "--port", "70000"), ("--port",)),
    ],
)
def test_2_usage(nowhere: Cli, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    done = nowhere.run(*arguments)
    done.failed(2, *words)
    assert "pw" not in done.err


def test_2_a_token_file_of_two_lines(nowhere: Cli) -> None:
    (nowhere.home / "tokens").write_text("one\ntwo\n")
    nowhere.run("agents", "--token-file", "tokens").failed(2, "--token-file tokens", "one word")


def test_2_without_a_command_the_help_is_shown(nowhere: Cli) -> None:
    done = nowhere.run()
    assert (done.code, done.out) == (2, "")
    assert "Commands:" in done.err


def test_7_delivery_uncertain_and_what_to_try_next_at_the_same_server(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    parlant_server.fail_next("POST /events", 502)
    (fake.home / "token").write_text("some-token")
    here = ("-s", parlant_server.base_url, "--token-file", "token")
    done = fake.run("send", *here, "--timeout", "20", "x", env={"PARLANT_SERVER": ""})
    done.failed(7, "may have been delivered", f"parlant-sync {' '.join(here)} sessions show")


def test_6_an_address_without_a_parlant_server(fake: Cli, parlant_server: FakeServer) -> None:
    elsewhere = parlant_server.base_url + "/elsewhere"
    for arguments in (("send", "--agent-id", "support", "x"), ("tail", "--session-id", "some", "--timeout", "0")):
        fake.run(*arguments, "-s", elsewhere).failed(6, "404", "no Parlant server at this address", "doctor")
