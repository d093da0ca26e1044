"""half_open.py MOMENT: a poll whose peer vanishes without a word in the middle of a turn. Run in a network of its own.

The server is at the other end of a cable, in a second network, with two addresses. The poll and the post go to the
first one, which is then taken away: no packet of these connections is answered any more, not even with a reset. New
connections go to the second address. MOMENT: "asked" (the peer may have got nothing of the poll), or "acknowledged".
Prints after how many seconds the reply came.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from typing import Any

from parlant_sync import Client
from parlant_sync.testing import FakeServer

FIRST, SECOND = "10.77.0.2", "10.77.0.3"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def serve() -> None:
    """The other network: obeys one word per line."""
    print("here", flush=True)
    sys.stdin.readline()  # the cable is in
    ip("addr", "add", f"{FIRST}/24", "dev", "far")
    ip("addr", "add", f"{SECOND}/24", "dev", "far")
    ip("link", "set", "far", "up")
    ip("link", "set", "lo", "up")
    bind = socket.socket.bind

    class Everywhere(socket.socket):
        """The stand-in listens on 127.0.0.1 alone."""

        def bind(self, address: Any) -> None:
            bind(self, ("", address[1]))

    socket.socket = Everywhere  # type: ignore[misc]
    with FakeServer() as server:
        server.agent("quick").replies("still here").after(3.0)
        print(server.base_url.rpartition(":")[2], flush=True)
        sys.stdin.readline()
        ip("addr", "del", f"{FIRST}/24", "dev", "far")
        ip("addr", "replace", f"{SECOND}/24", "dev", "far")  # it went with the first
        print("gone", flush=True)
        sys.stdin.read()


def wait_for_acknowledgement(port: str) -> None:
    """Until nothing that was sent to the server is on its way any more."""
    while True:
        table = subprocess.run(["ss", "-Hnt", "dport", f"= :{port}"], check=True, capture_output=True, text=True).stdout
        if table and all(line.split()[2] == "0" for line in table.splitlines()):
            return


def main() -> None:
    ip("link", "set", "lo", "up")
    other = subprocess.Popen(
        ["unshare", "-n", sys.executable, __file__, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdin is not None
    assert other.stdout is not None

    def tell(word: str) -> str:
        assert other.stdin is not None
        assert other.stdout is not None
        print(word, file=other.stdin, flush=True)
        return other.stdout.readline().strip()

    other.stdout.readline()
    ip("link", "add", "near", "type", "veth", "peer", "name", "far")
    ip("link", "set", "far", "netns", str(other.pid))
    ip("addr", "add", "10.77.0.1/24", "dev", "near")
    ip("link", "set", "near", "up")
    port = tell("the cable is in")
    address, resolve = [FIRST], socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        return resolve(address[0] if host == "server.test" else host, *args, **kwargs)

    socket.getaddrinfo = getaddrinfo
    with Client(f"http://server.test:{port}") as client:
        session = client.create_session("quick")
        reader = session.iter_events(timeout=10)
        with session.stream("are you there?", timeout=120) as turn:
            next(reader)  # the poll works, and the turn has begun
            if sys.argv[1] == "acknowledged":
                wait_for_acknowledgement(port)
            tell("go")
            address[0] = SECOND
            started = time.monotonic()
            assert turn.reply().text == "still here"
            print(f"{time.monotonic() - started:.1f}", flush=True)
    other.communicate()


if sys.argv[1] == "serve":
    serve()
else:
    main()
