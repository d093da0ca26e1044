"""What every test is held to: it leaves no thread of ours, no socket, no dead thread and no open resource behind.

A thread that died by an exception and a resource that was not closed are warnings, and warnings are errors (setup.cfg).
The watchdog that dumps all stacks is pytest-timeout's.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.shared_servers import SharedServer, SharedServers
from support.waiting import wait_until

# Started in the background of a shell, all of this would ignore Ctrl-C, the programs that tests interrupt as well.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long what a test has just let go of may take to end: a thread on its way out, a connection being closed.
_GRACE = 3.0
_FDS = "/proc/self/fd"


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Autouse, so it is set up first and checks last, when the test's own fixtures are gone."""
    threads, sockets = _threads(), _sockets()
    yield
    gc.collect()  # a ResourceWarning belongs to the test that caused it

    def left() -> list[str]:
        gc.collect()
        return sorted(thread.name for thread in _threads() - threads) + sorted(_sockets() - sockets)

    wait_until(lambda: not left(), lambda: f"left behind: {left()}", _GRACE)


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("parlant-")}


def _sockets() -> set[str]:
    """The open sockets of this process, as the kernel numbers them; empty where it has no such list."""
    found = set()
    for number in os.listdir(_FDS) if os.path.isdir(_FDS) else ():
        try:
            target = os.readlink(f"{_FDS}/{number}")
        except OSError:
            continue  # the descriptor of the list itself
        if target.startswith("socket:"):
            found.add(target)
    return found


_SHARED = pytest.StashKey[SharedServers]()


@pytest.fixture(scope="session")
def shared_servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SharedServers:
    folder = tmp_path_factory.getbasetemp()
    made = SharedServers(folder.parent if hasattr(request.config, "workerinput") else folder)
    request.config.stash[_SHARED] = made
    return made


@pytest.fixture
def demo(shared_servers: SharedServers) -> SharedServer:
    """A real Parlant server with the agents research, welfare, quick, streamer, hesitant and others for tests."""
    return shared_servers.get()


@pytest.fixture
def production(shared_servers: SharedServers) -> SharedServer:
    """A real Parlant server with the production policy: it refuses much, and counts by the minute."""
    return shared_servers.get("production")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Not when the fixture ends: a server is used longer than this process has tests, and no test has the time."""
    if _SHARED in session.config.stash:
        session.config.stash[_SHARED].close()


# Folders whose tests start processes, or drive whole conversations: not of the unit part.
_NOT_UNIT = {"batch", "cli", "contract", "docs", "faults", "process", "scripts", "secrets"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _NOT_UNIT & set(item.path.relative_to(Path(__file__).parent).parts[:-1]):
            item.add_marker("slow")


# Files whose tests share what takes long to make: these stay together in one worker.
_TOGETHER = {"test_packaging.py", "test_docs_site.py", "test_guards.py", "test_contract_restart.py"}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``-n``: each test goes to the worker that is free. By files, all would wait for the longest in the end."""
    from xdist.scheduler import LoadScopeScheduling

    class EachTest(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path, _, _ = nodeid.partition("::")
            return path if path.rpartition("/")[2] in _TOGETHER else nodeid

    return EachTest(config, log) if config.getoption("dist") == "load" else None


def pytest_collection_finish() -> None:
    """What is imported by now is never garbage; without it, collecting after each test takes a tenth of the time."""
    gc.collect()
    gc.freeze()
