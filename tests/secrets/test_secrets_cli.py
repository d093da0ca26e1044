"""The command line: no secret in its output, no control character of a server's in the terminal, JSON always valid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.cli_runs import Cli, Run
from support.secret_canaries import TOKEN, echoes, found_in
from support.shared_servers import SharedServer

from parlant_sync.testing import FakeServer

# What a terminal would obey: escape sequences, C1 controls, carriage returns, bells, bidi overrides and isolates.
HOSTILE = (
    "\x1b]0;owned\x07 \x1b[2J \x1b[31mred\x1b[0m \x9b31m \rhidden \b\b \x00 \x7f "
    "\u202egnp.exe\u202c \u2066isolated\u2069 \u200f\u061c \u2028 \u2029 \ufeff"
)
SHOWN_RAW = list("\x1b\x07\x9b\r\b\x00\x7f\u202e\u202c\u2066\u2069\u200f\u061c\u2028\u2029")


@pytest.fixture
def cli(server: FakeServer, tmp_path: Path) -> Cli:
    return Cli(server.base_url, tmp_path)


def said(done: Run) -> str:
    return done.out + done.err


COMMANDS: dict[str, list[str]] = {
    "send": ["send", "--agent-id", "quick", "hello"],
    "agents": ["agents"],
    "sessions list": ["sessions", "list"],
    "sessions show": ["sessions", "show", "some-session"],
    "doctor": ["doctor"],
    "tail": ["tail", "--session-id", "some-session", "--timeout", "0"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("verbose", [(), ("-vv",)], ids=["plain", "vv"])
@pytest.mark.parametrize("output", ["text", "json"])
def test_no_token_in_any_output(
    command: str, verbose: tuple[str, ...], output: str, server: FakeServer, cli: Cli
) -> None:
    body = echoes({"Authorization": f"Bearer {TOKEN}"})["as a production server"]
    server.fail_next("/", 403, body, times=None)
    done = cli.run("-o", output, *verbose, *COMMANDS[command], env={"PARLANT_TOKEN": TOKEN})
    assert done.code != 0 or command == "doctor"  # which tells what a production server refuses
    assert not found_in(said(done)), said(done)
    if not verbose:
        assert "Traceback" not in said(done)


@pytest.mark.real
def test_no_token_before_a_real_production_server(production: SharedServer, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN + "\n")
    token_file.chmod(0o600)
    for arguments in (["agents"], ["sessions", "list"], ["doctor"], ["send", "--agent-id", "nobody", "x"]):
        done = Cli(production.base_url, tmp_path).run("--token-file", str(token_file), "-vv", *arguments)
        assert not found_in(said(done)), said(done)


def test_hostile_text_is_made_visible(server: FakeServer, cli: Cli) -> None:
    server.agent("quick").forget().replies(HOSTILE)
    done = cli.run("send", "--agent-id", "quick", "hello")
    assert done.code == 0, said(done)
    shown = done.out
    assert "owned" in shown
    assert "gnp.exe" in shown
    for character in SHOWN_RAW:
        assert character not in shown, f"{character!r} reached the terminal: {shown!r}"


def test_hostile_text_in_an_error_is_made_visible(server: FakeServer, cli: Cli) -> None:
    server.fail_next("/", 400, json.dumps({"detail": HOSTILE}), times=None)
    done = cli.run("send", "--agent-id", "quick", "hello")
    assert done.code == 6
    for character in SHOWN_RAW:
        assert character not in said(done), repr(character)


@pytest.mark.parametrize("text", [HOSTILE, "\ud800 lone", '"quotes" \\ and \n lines', "</script>", "𝕏" * 1000, "NaN"])
def test_json_output_is_valid_for_any_content(text: str, server: FakeServer, cli: Cli) -> None:
    if "\ud800" in text:  # no server can send that as UTF-8; escaped it can
        server.agent("quick").forget().replies("SURROGATE")

        def escape(response: Any) -> None:
            response.body = response.body.replace(b"SURROGATE", b"\\ud800 lone")

        server.alter_next("GET /events", escape, times=None)
    else:
        server.agent("quick").forget().replies(text)
    done = cli.run("-o", "json", "send", "--agent-id", "quick", "hello")
    assert done.code == 0, said(done)
    lines = done.out.splitlines()
    assert len(lines) == 1
    answer = json.loads(lines[0])
    assert answer["text"] == text
    for character in SHOWN_RAW:  # a terminal sees it as well
        assert character not in lines[0]


def test_the_other_commands_show_hostile_names_visibly(server: FakeServer, cli: Cli) -> None:
    server.agent("hostile", name=f"Agent {HOSTILE}").replies(HOSTILE).with_preamble(HOSTILE)
    session_id = server.create_session("hostile", title=HOSTILE)
    server.add_event(session_id, "message", {"message": HOSTILE, "participant": {"display_name": HOSTILE}})
    server.add_event(session_id, "custom", {"x": HOSTILE})
    for arguments in (
        ["send", "--agent-id", "hostile", "--stream", "--show-preamble", "x"],
        ["agents"],
        ["sessions", "list"],
        ["sessions", "show", session_id],
        ["doctor"],
        ["tail", "--session-id", session_id, "--since", "beginning", "--timeout", "0"],
    ):
        done = cli.run(*arguments)
        assert done.code == 0, said(done)
        assert arguments == ["doctor"] or "gnp.exe" in said(done), said(done)
        for character in SHOWN_RAW:
            assert character not in said(done), (arguments, character, said(done))
