"""Ends in one of the ways a program ends, with readers blocked and nothing closed. argv: URL, session id, way."""

from __future__ import annotations

import sys
import threading

from parlant_sync import Client

url, session_id, way = sys.argv[1:]
client = Client(url)
sessions = [client.session(session_id), *(client.create_session("quick") for _ in range(4))]
sessions[0].iter_events().close()  # polls from here on


def read(started: threading.Event) -> None:
    reader = sessions[0].iter_events(since="latest")
    started.set()
    for _ in reader:
        pass


def start(*, daemon: bool = True) -> threading.Thread:
    started = threading.Event()
    thread = threading.Thread(target=read, args=(started,), daemon=daemon)
    thread.start()
    started.wait()
    return thread


def send() -> None:
    try:
        sessions[1].send("[held]", timeout=60)
    except Exception:
        pass


print("READY", flush=True)
sys.stdin.readline()  # until the test has seen all polls wait at the server
if way == "unclosed":
    pass
elif way == "closed":
    client.close()
elif way == "daemon readers":
    for _ in range(3):
        start()
elif way == "readers and close":
    threads = [start(daemon=False) for _ in range(3)]
    client.close()
    for thread in threads:
        thread.join()
elif way == "daemon sends":
    threading.Thread(target=send, daemon=True).start()
elif way == "an exception":
    start()
    raise LookupError("on purpose")
elif way == "sys.exit":
    start()
    sys.exit(3)
elif way == "a reader that was left":
    reader = sessions[0].iter_events(since="latest", timeout=0.05)
    next(reader, None)
elif way == "a global in a cycle":
    loop: list[object] = [client, sessions]
    loop.append(loop)
    del client, sessions
elif way == "exception in a with":
    with client, sessions[0]:
        start()
        raise LookupError("on purpose")
elif way == "an open turn":
    turn = sessions[1].stream("[held]")
elif way == "a thread that makes clients":
    # Daemon, and still at it when the interpreter ends.
    def make() -> None:
        try:
            while True:
                Client(url).create_session("quick")
        except BaseException:
            pass

    threading.Thread(target=make, daemon=True).start()
elif way == "a server that does not answer":
    threading.Thread(target=lambda: client.agent("quick"), daemon=True).start()
else:
    raise SystemExit(f"unknown way {way!r}")
