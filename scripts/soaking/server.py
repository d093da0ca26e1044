"""The server of a soak, in a process of its own, so that its memory is not taken for the client's.

Run as a program it is that process: it prints its address, obeys ``restart`` on stdin, and ends with its stdin.
"""

from __future__ import annotations

import subprocess
import sys

from parlant_sync.demo.launcher import DemoServer
from parlant_sync.testing import FakeServer


class StandIn:
    """The stand-in, in a subprocess."""

    all_every = 15.0  # seconds between faults of everything at once

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.base_url = self._process.stdout.readline().strip()
        self.acts = {"the server restarted": (1, self._restart)}  # no kill: its sessions are in memory

    def _restart(self) -> None:
        """It stops, and comes back at the same port with its sessions; turns that ran are gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("restart\n")
        self._process.stdin.flush()
        self._process.stdout.readline()

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


class Real(DemoServer):
    """The real server, which keeps its sessions in files, so that a restart loses only turns."""

    all_every = 40.0  # a start takes it some seconds

    def __init__(self) -> None:
        super().__init__(test_agents=True, store="local")
        self.acts = {
            "the server restarted": (1, self.restart),
            "the server killed (SIGKILL) and started": (2, self._crash),
        }

    def _crash(self) -> None:
        self.kill()
        self.start()


def main() -> None:
    with FakeServer(record=100) as server:
        server.agent("quick").echoes()
        server.agent("streamer").replies(lambda message: f"streamed echo of: {message}")
        print(server.base_url, flush=True)
        for line in sys.stdin:
            if line.strip() == "restart":
                server.restart(keep=True)
                print("restarted", flush=True)


if __name__ == "__main__":
    main()
