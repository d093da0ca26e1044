"""What commands and options do: post, reply, trigger, keys, profiles, durations, conversations, transcripts, lists."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from support.cli_runs import Cli, posts

from parlant_sync.cli.options import seconds
from parlant_sync.testing import FakeServer

# -- post, reply, trigger, keys


def test_post_now_and_collect_the_reply_later(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    for _ in range(2):  # a second run posts nothing
        posted = fake.run("post", "--conversation", "c", "--key", "monday", "hello")
        assert posted.code == 0
    assert "nothing was posted" in posted.err
    session = posted.out.strip()
    assert fake.run("reply", "--conversation", "c", "--key", "monday").out == "echo: hello\n"
    assert fake.run("reply", "--session-id", session).out == "echo: hello\n"
    assert posts(parlant_server) == 1
    fake.run("reply", "--conversation", "c", "--key", "none").failed(6, "'none'", "sessions show")
    fake.run("post", "--key", "k", "x").failed(2, "--session-id or --conversation")
    fake.run("reply").failed(2, "say which session")
    said = " ".join(fake.run("reply", "--help").out.split())
    assert ("start it" in said, "--wait-lock" in said) == (False, False)  # it starts nothing, and needs no lock


def test_send_with_a_key_posts_once(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    send = ("send", "--conversation", "c", "--key", "k", "hello")
    assert [fake.run(*send).out, fake.run(*send, "--stream").out, fake.run(*send).out] == ["echo: hello\n"] * 3
    assert posts(parlant_server) == 1
    fake.run("send", "--key", "k", "x").failed(2, "--session-id or --conversation")


def test_a_colleague_speaks(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    session = parlant_server.create_session("support")
    post = ("post", "--session-id", session, "--as", "human", "Hello")
    fake.run(*post).failed(2, "--name")
    assert fake.run(*post, "--name", "Dana").code == 0
    shown = fake.run("sessions", "show", session).out
    assert "Dana (human)" in shown
    assert "    Hello" in shown


def test_metadata_and_labels(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    given = ("--metadata", "ticket=7", "--metadata", '{"by": "cron"}', "--metadata", "text=a=b")
    sent = fake.run("send", "-o", "json", "--label", "nightly", *given, "x").json
    [event, *_] = fake.run(
        "tail", "-o", "json", "--session-id", sent["session_id"], "--kinds", "message", "--timeout", "0"
    ).json_lines
    assert {"ticket": 7, "by": "cron", "text": "a=b"}.items() <= event["metadata"].items()
    assert fake.run("sessions", "show", "-o", "json", sent["session_id"]).json["labels"] == ["nightly"]
    fake.run("send", "--metadata", "x", "y").failed(2, "NAME=VALUE")
    fake.run("send", "--session-id", sent["session_id"], "--label", "l", "x").failed(2, "--label is for a new session")


def test_trigger(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support").replies("All well now?")
    session = parlant_server.create_session("support")
    done = fake.run("trigger", "--session-id", session, "--guideline", "Ask if all is well")
    assert (done.code, done.out) == (0, "All well now?\n")
    parlant_server.agent("support").replies("late").waits("never")
    done = fake.run("trigger", "--session-id", session, "--guideline", "x", "--timeout", "0.5")
    done.failed(4, "no complete answer within 0.5 s", "a longer --timeout, or watch it: parlant-sync tail")
    [since] = re.findall(r"--since (\d+)", done.err)
    parlant_server.release("never")
    watched = fake.run("tail", "--session-id", session, "--since", since, "--timeout", "3", "--text-only")
    assert watched.out == "late\n"


def test_sessions_update(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    session = fake.run("sessions", "create", "--label", "a", "--metadata", "n=1").out.strip()
    changes = ("--title", "New", "--mode", "manual", "--label", "b", "--metadata", "n=null", "--metadata", "m=2")
    assert fake.run("sessions", "update", session, *changes).code == 0
    shown = fake.run("sessions", "show", "-o", "json", session).json
    assert (shown["title"], shown["mode"], shown["labels"], shown["metadata"]) == ("New", "manual", ["b"], {"m": 2})
    fake.run("sessions", "update", session).failed(2, "nothing to change")


# -- send


def test_an_empty_turn_can_be_a_failure(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support").stays_silent()
    session = parlant_server.create_session("support")
    assert fake.run("send", "--session-id", session, "x").code == 0
    assert fake.run("send", "--session-id", session, "--empty-fails", "x").code == 5


def test_stdin_below_the_message_and_a_pipe_that_is_ignored(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    assert fake.run("send", "--stdin", "Sum this up:", input="a report\n").out == "echo: Sum this up:\n\na report\n"
    ignored = fake.shell("echo report | $CLI send x")
    assert (ignored.out, "--stdin adds it" in ignored.err) == ("echo: x\n", True)
    # In a loop, the input is the loop's.
    loop = fake.shell("printf 'a\\nb\\n' > lines; while read line; do $CLI send $line; done < lines")
    assert (loop.out, loop.err) == ("echo: a\necho: b\n", "")
    assert fake.shell("$CLI send x < /dev/null").err == ""


def test_waiting_for_a_server_that_is_down(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    parlant_server.fail_next("GET /agents", 503, times=6)
    assert fake.run("send", "--wait-server", "30s", "x").out == "echo: x\n"
    fake.run("send", "-s", "http://127.0.0.1:1", "--wait-server", "0.1", "--agent-id", "a", "x").failed(3, "refused")


def test_a_failure_is_an_object_too(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support").fails("no model")
    failed = fake.run("send", "-o", "json", "x")
    found = failed.json
    assert (failed.code, found["exit_code"], found["error_type"]) == (5, 5, "AgentError")
    assert found["session_id"]
    assert "reported an error" in found["error"]
    assert fake.run("send", "-o", "json", "--session-id", "none", "x").json["session_id"] == "none"
    assert fake.run("-o", "json", "send", "--bad", "x").json["exit_code"] == 2


def test_names_of_agents_and_suggestions(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support", name="Help Desk")
    assert fake.run("send", "--agent-id", "help desk", "x").out == "echo: x\n"
    fake.run("send", "--agent-id", "suport", "x").failed(6, "did you mean support (Help Desk)?")
    # By name and by id, it is one conversation.
    for agent in ("support", "Help Desk"):
        assert fake.run("send", "--conversation", "c", "--agent-id", agent, "x").code == 0
    assert len(fake.states) == 1
    assert fake.run("tail", "--conversation", "c", "--agent-id", "Help Desk", "--timeout", "0").code == 0
    # What only looks takes names, too: an empty list would be a wrong answer.
    looks: list[tuple[str, ...]] = [("sessions", "list"), ("sessions", "show", "--last"), ("tail", "--all-sessions")]
    for look in looks:
        rest = ("--timeout", "0") if look[0] == "tail" else ()
        assert fake.run(*look, "--agent-id", "help desk", *rest).out != ""
        fake.run(*look, "--agent-id", "suport", *rest).failed(6, "did you mean support (Help Desk)?")
    assert fake.run("doctor", "--agent-id", "Help Desk").code == 0
    assert "agents lists them" in fake.run("doctor", "--agent-id", "nobody at all").out.replace("\n", " ")
    parlant_server.agent("other", name="Help Desk")
    fake.run("send", "--agent-id", "Help Desk", "x").failed(2, "2 agents", "give an id")
    fake.run("sned", "x").failed(2, "did you mean 'send'?")
    fake.run("sessions", "lst").failed(2, "did you mean 'list'?")


def test_a_page_of_a_proxy_replaces_no_conversation(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    ask = ("send", "--conversation", "c", "--renew", "x")
    assert fake.run(*ask).code == 0
    before = fake.states[0].read_text()
    session = json.loads(before)["session_id"]
    for page in (f"<pre>Cannot GET /sessions/{session}</pre>", f"Session not found {session}", ""):
        parlant_server.clear_faults()
        parlant_server.fail_next(f"GET /sessions/{session}", 404, page, times=None)
        assert fake.run(*ask).code in (3, 6)
        assert fake.states[0].read_text() == before


def test_fresh(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    sessions = [
        fake.run("send", "-o", "json", "--conversation", "c", *more, "x").json["session_id"]
        for more in ((), ("--fresh",), ())
    ]
    assert sessions[0] != sessions[1] == sessions[2]
    fake.run("send", "--fresh", "x").failed(2, "--fresh goes with --conversation")


# -- durations, profiles, completion


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("1.5", 1.5), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("250ms", 0.25), ("2d", 172800)],
)
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "m", "5x", "1h 5", "h1", "-5s"])
def test_what_is_not_a_duration(nowhere: Cli, text: str) -> None:
    nowhere.run("send", "--timeout", text, "x").failed(2, "not a duration")


def write_profiles(cli: Cli, text: str) -> None:
    path = cli.home / ".config/parlant-sync/config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


needs_toml = pytest.mark.skipif(sys.version_info < (3, 11), reason="profiles need tomllib")


@needs_toml
def test_a_profile(fake: Cli, parlant_server: FakeServer) -> None:
    """Options override the environment, which overrides the profile."""
    for agent in ("one", "two", "three"):
        parlant_server.agent(agent).replies(agent).replies(agent)
    parlant_server.token = "right"
    server = fake.environment.pop("PARLANT_SERVER")
    (fake.home / ".config/parlant-sync").mkdir(parents=True)
    (fake.home / ".config/parlant-sync/token").write_text("right\n")
    write_profiles(
        fake, f'[profiles.test]\nserver = "{server}"\ntoken_file = "token"\nagent_id = "one"\noutput = "json"\n'
    )
    profile = {"PARLANT_PROFILE": "test"}
    assert fake.run("send", "--profile", "test", "x").json["text"] == "one"
    assert fake.run("--profile", "test", "send", "-o", "text", "x").out == "one\n"
    assert fake.run("send", "x", env={**profile, "PARLANT_AGENT_ID": "two"}).json["text"] == "two"
    env = {**profile, "PARLANT_AGENT_ID": "two", "PARLANT_OUTPUT": "text"}
    assert fake.run("send", "--agent-id", "three", "x", env=env).out == "three\n"
    overridden = fake.run("agents", "--profile", "test", env={"PARLANT_SERVER": "http://127.0.0.1:1"})
    assert overridden.code == 3
    assert "PARLANT_SERVER overrides the profile 'test'" in overridden.err
    # Its token goes to its server only.
    with FakeServer() as other:
        fake.run("agents", "--profile", "test", "-s", other.base_url)
        assert other.requests
        assert not any("authorization" in {name.lower() for name in each.headers} for each in other.requests)


@needs_toml
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[profiles.tset]", "did you mean 'tset'?"),
        ("[profiles.test]\nserver =", "not valid TOML"),
        ('[profiles.test]\ntoken = "secret"', "token_file"),
        ('[profiles.test]\nsever = "x"', "did you mean server?"),
        ("[profiles.test]\nserver = true", "must be a text"),
        ("profiles = 3", "must be tables"),
    ],
)
def test_2_a_profile_that_cannot_be(nowhere: Cli, text: str, words: str) -> None:
    write_profiles(nowhere, text)
    nowhere.run("agents", "--profile", "test").failed(2, words)


@needs_toml
def test_completion_of_values(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    assert fake.run("send", "--conversation", "nightly", "x").code == 0
    write_profiles(fake, "[profiles.staging]\n")

    def offered(*words: str) -> list[str]:
        line = " ".join(("parlant-sync", *words))
        env = {"_PARLANT_SYNC_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
        return [row.partition(",")[2] for row in fake.run(env=env).out.splitlines()]

    assert offered("send", "--agent-id", "su") == ["support"]
    assert offered("send", "--conversation", "n") == ["nightly"]
    assert offered("tail", "--kinds", "status,mes") == ["status,message"]
    assert offered("--profile", "st") == ["staging"]
    assert offered("sessions", "sh") == ["show"]
    assert offered("conversations", "show", "n") == offered("conversations", "forget", "n") == ["nightly"]
    [session] = parlant_server.sessions
    for words in (("show",), ("update",), ("delete",), ("delete", "other")):
        assert offered("sessions", *words, session[:4]) == [session]
    assert offered("batch", "rep") == ["report", "rep"], "or a file of such a name"
    assert offered("send", "-s", "http://127.0.0.1:1", "--agent-id", "s") in ([], [""])


# -- conversations, transcripts, lists


def test_conversations(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    for name in ("weekly", "nightly"):
        assert fake.run("send", "--conversation", name, f"hello {name}").code == 0
    assert [line.split()[:2] for line in fake.run("conversations", "list").out.splitlines()] == [
        ["nightly", "support"],
        ["weekly", "support"],
    ]
    assert "hello weekly" in fake.run("conversations", "show", "weekly").out
    fake.run("conversations", "forget", "wekly").failed(2, "did you mean 'weekly'?")
    assert "still on the server" in fake.run("conversations", "forget", "weekly").err
    assert [each["name"] for each in fake.run("conversations", "list", "-o", "json").json_lines] == ["nightly"]


def test_a_transcript_in_four_forms(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support").replies("<b>bold</b> & more")
    session = fake.run("send", "-o", "json", "--title", "A <title>", "hello").json["session_id"]
    show = ("sessions", "show", session)
    year = str(datetime.now().year)
    text = fake.run(*show).out
    assert "customer  " + year in text
    assert "    <b>bold</b> & more" in text
    page = fake.run(*show, "-o", "html").out
    assert "<title>A &lt;title&gt;</title>" in page
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; more" in page
    assert "<b>" not in page
    markdown = fake.run(*show, "-o", "markdown").out
    assert markdown.startswith("# A <title>\n")
    assert f"**customer** {year}" in markdown
    assert len(fake.run(*show, "-o", "json").json["events"]) > 3
    found = fake.run("sessions", "show", "--last", "--search", "BOLD").out
    assert ("bold" in found, "hello" in found) == (True, False)
    fake.run("send", "-o", "html", "x").failed(2, "no output 'html'")


def test_the_list_of_sessions(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("a")
    parlant_server.agent("한국어-상담원")
    ids = [
        parlant_server.create_session(("a", "한국어-상담원")[number % 2], title=f"t{number}") for number in range(60)
    ]
    listed = fake.run("sessions", "list")
    lines = listed.out.splitlines()
    assert (len(lines), "10 more" in listed.err) == (50, True)
    assert [next(id for id in ids if id in line) for line in lines] == ids[:-51:-1]
    columns = {len(line[: line.rindex(" t")].encode("euc-kr")) for line in lines}  # Korean characters take two columns
    assert len(columns) == 1
    assert len(fake.run("sessions", "list", "--limit", "0").out.splitlines()) == 60
    assert len(fake.run("sessions", "list", "-o", "json").json_lines) == 60
    assert len(fake.run("sessions", "list", "--search", "T59").out.splitlines()) == 1
    one_agent = fake.run("sessions", "list", "--limit", "0", env={"PARLANT_AGENT_ID": "a"})
    assert len(one_agent.out.splitlines()) == 30
    assert "only sessions of agent 'a', which the environment or the profile names" in one_agent.err
    assert "only sessions" not in fake.run("sessions", "list", "--agent-id", "a").err


# -- chat, guests


def test_words_with_a_slash_in_chat(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    with fake.terminal("chat") as terminal:
        terminal.expect("> ")
        for typed, answer in (
            ("/help\n", "/save"),
            ("/nonsense\n", "no command /nonsense"),
            ("hello\n", "echo: hello"),
            ("/save talk.md\n", "saved"),
            ("//slash\n", "echo: /slash"),
        ):
            terminal.type(typed)
            terminal.expect(answer)
            terminal.expect("> ")
        terminal.type("/exit\n")
        assert terminal.end() == 0
    saved = (fake.home / "talk.md").read_text()
    assert "**customer**" in saved
    assert "echo: hello" in saved
    # In a pipe, every line is a message.
    assert "echo: /help" in fake.run("chat", input="/help\n").out


def test_python_without_profiles_says_so() -> None:
    code = "import sys; sys.modules['tomllib'] = None; from parlant_sync.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "agents", "--profile", "x"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "Python 3.11" in done.stderr) == (2, True)


def test_a_guest_keeps_the_token(tmp_path: Path) -> None:
    """A 4.0 server in production gives it to anonymous clients; only with it is the session theirs."""
    with FakeServer("4.0", policy="production") as server:
        server.agent("support")
        cli = Cli(server.base_url, tmp_path)
        ask = ("send", "--agent-id", "support", "--conversation", "c")
        assert [cli.run(*ask, text).out for text in ("one", "two")] == ["echo: one\n", "echo: two\n"]
        said = cli.run("tail", "--conversation", "c", "--timeout", "0", "--text-only").out
        assert said == "one\necho: one\ntwo\necho: two\n"
        [state] = cli.states
        assert json.loads(state.read_text())["guest_token"]
        assert stat.S_IMODE(state.stat().st_mode) == 0o600
        listed = cli.run("conversations", "list", "-o", "json")
        assert json.loads(state.read_text())["guest_token"] not in listed.out
