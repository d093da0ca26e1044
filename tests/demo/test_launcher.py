"""The launcher: what it starts, how it ends, and what it says when it cannot."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support.shared_servers import need_a_server
from support.waiting import wait_until

from parlant_sync import Client, NotFoundError
from parlant_sync.demo import launcher
from parlant_sync.demo.launcher import DemoServer, DemoServerError

posix = pytest.mark.skipif(os.name != "posix", reason="scripts stand in for interpreters")


@pytest.fixture(autouse=True)
def own_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Temporary homes go where a test can see whether they are gone."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


def interpreter(tmp_path: Path, script: str) -> str:
    """An "interpreter" that is a shell script."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# -- what goes wrong -------------------------------------------------------------------------


@posix
def test_without_parlant_it_says_in_one_line_what_to_install(tmp_path: Path, own_temporary_files: Path) -> None:
    bare = interpreter(tmp_path, f'exec "{sys.executable}" -S "$@"')  # no site-packages
    with pytest.raises(DemoServerError) as caught:
        DemoServer(python=bare).start()
    assert str(caught.value) == f'parlant is not installed in {bare}: pip install "parlant-sync[demo]"'
    assert not list(own_temporary_files.iterdir())


def test_an_interpreter_that_is_not_there(own_temporary_files: Path) -> None:
    with pytest.raises(DemoServerError, match=r"^cannot run .*nowhere: "):
        DemoServer(python="/nowhere").start()
    assert not list(own_temporary_files.iterdir())


def test_a_port_that_is_taken(own_temporary_files: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DemoServerError, match=rf"exit code 1; .*\ncannot listen on 127\.0\.0\.1:{port}: "):
            DemoServer(port=port).start()
    assert not list(own_temporary_files.iterdir())


@posix
def test_the_end_of_the_log_tells_why_it_ended(tmp_path: Path) -> None:
    failing = interpreter(tmp_path, "seq 100 >&2; echo '\033[31mred\033[0m words' >&2; exit 7")
    with pytest.raises(DemoServerError) as caught:
        DemoServer(python=failing).start()
    first, *log = str(caught.value).splitlines()
    assert first == "the demo server ended with exit code 7; the end of its log:"
    assert log == [*map(str, range(82, 101)), "red words"]


@posix
def test_a_server_that_is_not_ready_in_time_is_killed(tmp_path: Path, own_temporary_files: Path) -> None:
    hanging = interpreter(tmp_path, "exec sleep 600")
    server = DemoServer(python=hanging, startup_timeout=0.2)
    with pytest.raises(DemoServerError, match=r"was not ready after 0\.2 s"):
        server.start()
    assert server.pid is None
    assert not list(own_temporary_files.iterdir())


def test_before_the_start_there_is_nothing_to_tell() -> None:
    server = DemoServer()
    for name in ("base_url", "port", "version", "agents", "streaming", "home"):
        with pytest.raises(DemoServerError, match="has not been started"):
            getattr(server, name)
    assert not server.running
    assert server.log == ""
    server.stop()
    server.kill()


def test_it_imports_nothing_but_the_standard_library() -> None:
    code = f"import sys, runpy; runpy.run_path({launcher.__file__!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-I", "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded - {"__main__"} <= sys.stdlib_module_names | {"__mp_main__"}


# -- a real server ---------------------------------------------------------------------------


@pytest.mark.real
def test_in_memory_it_forgets_and_leaves_nothing_behind(own_temporary_files: Path) -> None:
    with DemoServer(python=need_a_server()) as server:
        home, port = server.home, server.port
        assert home.parent == own_temporary_files
        assert server.base_url == f"http://127.0.0.1:{port}"
        assert set(server.agents) == {"research", "welfare"}
        with pytest.raises(DemoServerError, match="running already"):
            server.start()
        with Client(server.base_url) as client:
            session = client.create_session(server.agents["research"])
            server.restart()
            assert (server.home, server.port) == (home, port)
            with pytest.raises(NotFoundError, match="Session not found"):  # in memory only
                client.history(session.id)
        pid = server.pid
    assert not server.running
    assert server.pid is None
    assert not list(own_temporary_files.iterdir())
    assert not listens(port)
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)  # neither alive nor a zombie
    assert "Parlant" not in server.log  # quiet, and still there to be read
    server.stop()


@pytest.mark.real
def test_killed_and_restarted_with_a_local_store_it_goes_on(tmp_path: Path) -> None:
    home = tmp_path / "new" / "home"
    local = DemoServer(python=need_a_server(), store="local", home=home, test_agents=True)
    with local as server, Client(server.base_url) as client:
        told = dict(server.agents)
        assert {"research", "welfare", "quick", "streamer", "hesitant", "rest-natural-block"} <= set(told)
        minor = tuple(int(number) for number in server.version.split(".")[:2])
        assert server.streaming == (minor >= (3, 2))
        if minor >= (3, 1):
            assert all(name == agent for name, agent in told.items() if not name.startswith("rest-"))
        assert {agent.id for agent in client.agents()} == set(told.values())
        session = client.create_session(told["quick"])
        session.send("one")
        url = server.base_url
        # In the middle of a turn: the files must be whole all the same.
        session.post("[gate=never] two")
        server.kill()
        assert not server.running
        server.restart()
        assert (server.base_url, server.agents) == (url, told)
        said = [event.message for event in session.history(kinds="message")]
        assert said == ["one", "echo: one", "[gate=never] two"]
        assert session.send("three").text == "echo: three"
        server.restart()
        assert session.send("four").text == "echo: four"
        offsets = [event.offset for event in session.history()]
        assert offsets == list(range(len(offsets)))
    assert (home / "sessions.json").exists()  # a home of one's own stays


@pytest.mark.real
@posix
def test_it_ends_with_whoever_started_it(own_temporary_files: Path) -> None:
    code = (
        "import sys; from parlant_sync.demo.launcher import DemoServer\n"
        "server = DemoServer(python=sys.argv[1]).start()\n"
        "print(server.port, flush=True); sys.stdin.read()"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code, need_a_server()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(own_temporary_files)},
    )
    with starter:
        assert starter.stdout is not None
        port = int(starter.stdout.readline())
        assert listens(port)
        assert list(own_temporary_files.iterdir())
        starter.kill()
    wait_until(lambda: not listens(port) and not list(own_temporary_files.iterdir()))
