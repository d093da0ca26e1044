"""Ctrl-C and SIGTERM at any moment: the right exit code, no traceback, the old handlers back.

During a turn of ``send``: tests/process/test_process_signals.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.cli_runs import Cli
from support.shared_servers import SharedServer
from support.waiting import wait_until

from parlant_sync.cli import signals
from parlant_sync.testing import FakeServer

SIGNALS = [pytest.param(signal.SIGINT, 130, id="SIGINT"), pytest.param(signal.SIGTERM, 143, id="SIGTERM")]
# Within a second, and what a busy machine takes to notice.
AT_ONCE = 2.0


@pytest.mark.real
@pytest.mark.parametrize(("signum", "code"), SIGNALS)
def test_in_the_middle_of_a_stream(real: Cli, demo: SharedServer, signum: int, code: int) -> None:
    if not demo.streaming:
        pytest.skip("this server does not stream")
    gate = f"[gatemid=sig-{signum}]"
    with real.start("send", "--stream", "--agent-id", demo.agents["streamer"], f"{gate} a b c d e f") as running:
        assert running.process.stdout is not None
        assert running.process.stdout.read(8) == b"streamed"
        done = running.end(signum)
    demo.release(f"sig-{signum}")
    assert done.code == code
    assert "Traceback" not in done.err
    assert done.seconds < AT_ONCE


@pytest.mark.real
@pytest.mark.parametrize(("signum", "code"), SIGNALS)
def test_while_tailing(real: Cli, new_session: Callable[..., str], signum: int, code: int) -> None:
    session = new_session()
    real.run("send", "--session-id", session, "x")
    with real.start("tail", "--session-id", session, "--cursor-file", "c") as running:
        while "completed" not in (line := running.read_line()):
            assert line
        done = running.end(signum)
    assert (done.code, done.out) == (code, "")
    assert done.seconds < AT_ONCE
    assert real.run("tail", "--session-id", session, "--cursor-file", "c", "--timeout", "0").code == 0


@pytest.mark.parametrize(("signum", "code"), SIGNALS)
def test_while_reading_stdin(nowhere: Cli, signum: int, code: int) -> None:
    with nowhere.start("send", "--agent-id", "a", stdin=subprocess.PIPE) as running:
        _wait_until_it_reads(running.process.pid)
        done = running.end(signum)
    assert (done.code, done.out) == (code, "")


def _wait_until_it_reads(pid: int) -> None:
    """Until its main thread sits in a read of descriptor 0, as the kernel tells."""
    for _ in range(10_000_000):
        with open(f"/proc/{pid}/syscall") as file:
            if file.read().split()[:2] == ["0", "0x0"]:
                return
    raise AssertionError("it never read its stdin")


def in_a_futex(pid: int) -> None:
    """Until the main thread waits for the mutex, by the number of the system call it is in (x86-64, ARM)."""
    wait_until(lambda: Path(f"/proc/{pid}/syscall").read_text().split()[:1] in (["202"], ["98"]))


@pytest.mark.parametrize(("signum", "code"), SIGNALS)
def test_a_call_that_nothing_interrupts(signum: int, code: int) -> None:
    """As name resolution: the handler cannot run, and the process ends all the same."""
    program = """
import ctypes
from parlant_sync.cli.signals import Signals
libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(256)
with Signals():
    libc.pthread_mutex_lock(mutex)
    print("READY", flush=True)
    libc.pthread_mutex_lock(mutex)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"READY\n"
        in_a_futex(process.pid)
        process.send_signal(signum)
        assert process.wait(10) == code


@pytest.mark.parametrize("times", [1, 2])
def test_one_that_comes_just_before_a_call_that_waits(times: int) -> None:
    """Python runs its handler after that call, which never ends: here raise() and pause(), without a step between."""
    program = """
import ctypes, operator, sys
from parlant_sync.cli.signals import Signals
libc = ctypes.CDLL(None)
with Signals() as signals:
    signals.tolerant = True
    for _ in range(int(sys.argv[1])):
        try:
            list(map(operator.methodcaller("__call__", 2), [libc["raise"], libc.pause]))
        except KeyboardInterrupt:
            print("interrupted", flush=True)
"""
    command = [sys.executable, "-c", program, str(times)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n" * times, "")


def test_the_old_handlers_come_back() -> None:
    """In a process of its own, since pytest has handlers too."""
    program = """
import signal, threading
from parlant_sync.cli import main
def mine(*_): pass
signal.signal(signal.SIGTERM, mine)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
assert main(["--version"]) == 0
assert main(["send", ""]) == 2
assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
assert signal.set_wakeup_fd(-1) == -1
assert threading.active_count() == 1
done = []
thread = threading.Thread(target=lambda: done.append(main(["--version"])))
thread.start(); thread.join()
assert done == [0]
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[1:]) == (0, []), done.stderr


def test_an_ignored_signal_stays_ignored(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support").waits("gate").replies("done")
    with fake.start("send", "x", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as running:
        parlant_server.reached("gate", timeout=30)
        running.process.send_signal(signal.SIGHUP)
        parlant_server.release("gate")
        assert running.end().code == 0


def test_ctrl_c_while_it_is_loaded(nowhere: Cli) -> None:
    """As the installed program begins; what it imports first tells that it is loading, and waits."""
    (nowhere.home / "requests.py").write_text("import signal\nprint('READY', flush=True)\nsignal.pause()\n")
    program = [sys.executable, "-c", "import sys; from parlant_sync.__main__ import main; sys.exit(main())"]
    paths = os.pathsep.join([str(nowhere.home), str(Path(__file__).parents[2])])
    environment = {**nowhere.environment, "PYTHONPATH": paths}
    pipe = subprocess.PIPE
    with subprocess.Popen(program, env=environment, stdout=pipe, stderr=pipe, bufsize=0) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"READY\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (-signal.SIGINT, b"")  # 130 to a shell


def test_the_end_of_the_program_leaves_nothing_out() -> None:
    """It ends without taking apart what was loaded: after threads, exit hooks, and what is still to be written."""
    program = """
import atexit, sys, threading
from parlant_sync.__main__ import main

class Loaded:
    def __del__(self):
        print("taken apart")

loaded = Loaded()
loaded.itself = loaded
atexit.register(print, "hook")
threading.Thread(target=lambda: (threading.main_thread().join(), print("thread"))).start()
sys.argv = ["parlant-sync", "nothing-like-that"]
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout.split()) == (2, ["thread", "hook"])
    assert "nothing-like-that" in done.stderr


def test_a_second_signal_does_not_fall_into_the_tidying_up() -> None:
    program = """
import signal, sys
from parlant_sync.cli.signals import Signals
signal.signal(signal.SIGINT, signal.SIG_DFL)
with Signals():
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        print("tidy", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "tidy\n", "")


def test_a_signal_as_the_handlers_come_and_go() -> None:
    program = """
import signal, sys
import sys, parlant_sync.cli
app = sys.modules['parlant_sync.cli.main']
class Late(app.Signals):
    def __exit__(self, *how):
        signal.raise_signal(getattr(signal, sys.argv[1]))
app.Signals = Late
sys.exit(app.main(["--version"]))
"""
    for name, code in (("SIGINT", 130), ("SIGTERM", 143)):
        done = subprocess.run([sys.executable, "-c", program, name], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (code, "")


class Watched(signals.Signals):
    """Its watcher, step by step in the thread of the test; each step is what happens while it waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *steps: Callable[[Watched], bool]) -> None:
        super().__init__()
        self.tolerant = True
        self._old = {signal.SIGINT: None}
        self._pipe = os.pipe()
        self.now = 0.0
        self.steps = [*steps, Watched.over]
        self.in_a_look: Callable[[], None] = lambda: None
        self.sent_again: list[int] = []
        monkeypatch.setattr(signals, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(signal, "pthread_kill", lambda thread, signum: self.sent_again.append(signum))

    def _readable(self, seconds: float) -> bool:
        if seconds == 0:
            self.in_a_look()
        return super()._readable(0) or (seconds > 0 and self.steps.pop(0)(self))

    def comes(self, *, seen: bool = True) -> bool:
        """A Ctrl-C; ``seen``: while it still waits."""
        assert self._pipe is not None
        os.write(self._pipe[1], bytes([signal.SIGINT]))
        return seen

    def handler_runs(self) -> None:
        self._handled += 1

    def later(self) -> bool:
        self.now += 1.0
        return False

    def over(self) -> bool:
        assert self._pipe is not None
        os.close(self._pipe[1])
        return True

    def watch(self) -> list[int]:
        self._watch()
        assert self._pipe is not None
        os.close(self._pipe[0])
        return self.sent_again


def test_one_that_nobody_handles_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Watched(monkeypatch, Watched.comes, Watched.later).watch() == [signal.SIGINT]


def test_one_that_came_and_was_handled_as_the_watcher_looked_is_not_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It stands in the pipe, and its run of the handler is counted already."""

    def both_handled(watched: Watched) -> bool:
        watched.handler_runs()
        watched.handler_runs()
        watched.later()
        return watched.comes(seen=False)

    assert Watched(monkeypatch, Watched.comes, both_handled, Watched.later).watch() == []


def test_one_that_is_handled_just_before_it_would_be_sent_again_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, Watched.comes, Watched.later)
    watched.in_a_look = watched.handler_runs
    assert watched.watch() == []
