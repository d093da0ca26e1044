"""Forks once for each lock of ours, while another thread holds it. Prints what went wrong, and how many it tried.

The locks are found by walking what is reachable from the client: a lock that is added later is tried, too.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import types
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

import parlant_sync
from parlant_sync import Client, ForkedProcessError, SessionClosed

LOCKS = (type(threading.Lock()), type(threading.RLock()))
# Whose inside is ours to walk: this library, and the parts of others that its objects own.
OWN = ("parlant_sync", "urllib3", "requests", "queue", "threading", "collections", "weakref", "socket", "ssl", "_queue")
SKIPPED = (types.ModuleType, types.FunctionType, types.BuiltinFunctionType, type, types.FrameType, threading.Thread)


def locks_of(*roots: tuple[str, Any]) -> dict[str, Any]:
    found: dict[int, tuple[str, Any]] = {}
    seen: set[int] = set()
    todo = deque(roots)
    while todo:
        path, thing = todo.popleft()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, LOCKS):
            found[id(thing)] = (path, thing)
            continue
        if isinstance(thing, (str, bytes, int, float, type(None))):
            continue
        if isinstance(thing, dict):
            todo.extend((f"{path}[{key!r:.30}]", value) for key, value in list(thing.items()))
        elif isinstance(thing, (list, tuple, set, frozenset, deque)):
            todo.extend((f"{path}[{number}]", value) for number, value in enumerate(list(thing)))
        elif not isinstance(thing, SKIPPED) and type(thing).__module__.split(".")[0] in OWN:
            names = [*getattr(thing, "__dict__", {})]
            for kind in type(thing).__mro__:
                slots = kind.__dict__.get("__slots__", ())
                names.extend([slots] if isinstance(slots, str) else slots)
            for name in names:
                todo.append((f"{path}.{name}", getattr(thing, name, None)))
    return dict(found.values())


def modules() -> list[tuple[str, Any]]:
    return [
        (f"{name}.{key}", value)
        for name, module in list(sys.modules.items())
        if name.split(".")[0] == "parlant_sync"
        for key, value in vars(module).items()
        if isinstance(value, (*LOCKS, dict, list)) and not key.startswith("__")
    ]


def refused(call: Callable[[], object]) -> None:
    said = ""
    try:
        call()
    except ForkedProcessError as error:
        said = str(error)
    assert "client.session" in said, f"what was inherited worked: {said!r}"


def child(client: Client, session: Any, turn: Any, reader: Any, agent: str) -> None:
    signal.alarm(5)  # SIGALRM ends a child that hangs
    refused(lambda: session.send("from the child"))
    refused(lambda: session.health)
    refused(turn.reply)
    refused(lambda: next(reader))
    turn.close()
    reader.close()
    session.close()
    repr(session), repr(client), client.sessions
    assert not client.sessions, "the child inherited sessions"
    with client.create_session(agent) as own:
        assert own.send("hello").text == "echo: hello"
    again = client.session(session.id)
    assert again is not session
    assert again.send("in the child", timeout=4).text == "echo: in the child"
    gc.collect()
    client.close()


def fork(name: str, *inherited: Any) -> str | None:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            child(*inherited)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return None if status == 0 else f"{name}: the child ended with {status:#x} ({'hung' if status == 14 else 'failed'})"


def suppressed(call: Callable[[], object]) -> None:
    with contextlib.suppress(SessionClosed):
        call()


def main() -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of any fork of a process with threads
    url, agent = sys.argv[1:]
    client = Client(url, close_timeout=2)
    session = client.create_session(agent)
    reader = session.iter_events(timeout=5)
    session.send("before")
    count = 0
    with session.stream("a turn") as turn:
        locks = locks_of(("client", client), ("session", session), ("reader", reader), ("turn", turn), *modules())
        turn.reply()
    # One that a thread is driving at the fork.
    mute = client.create_session("mute")
    driven = mute.stream("nobody answers", timeout=None)
    driver = threading.Thread(target=lambda: suppressed(driven.reply))
    driver.start()
    for name, lock in sorted(locks.items()):
        held, release = threading.Event(), threading.Event()

        def hold(lock: Any = lock, held: threading.Event = held, release: threading.Event = release) -> None:
            with lock:
                held.set()
                release.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        if not held.wait(2):  # a reader's own "I am inside": held by whoever is in it
            print(f"never free: {name}")
        trouble = fork(name, client, session, driven, reader, agent)
        release.set()
        thread.join()
        count += 1
        if trouble:
            print(trouble)
        answer = session.send(f"parent {count}", timeout=10).text
        if answer != f"echo: parent {count}":
            print(f"{name}: the parent got {answer!r}")
    held_by_server = session.history()
    got = []
    for event in reader:
        got.append(event.offset)
        if len(got) == len(held_by_server):
            break
    if got != [event.offset for event in held_by_server]:
        print(f"the parent's reader lost something: {got}")
    client.close()
    driver.join()
    print(f"READY {count} {parlant_sync.__name__}", *sorted(locks), sep="\n")


main()
