"""Notices that whoever read our stdout has gone, also while there is nothing to write."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def when_stdout_closes(call: Callable[[], None]) -> Iterator[None]:
    """Calls ``call`` in another thread when the pipe's other end is closed. Nothing where stdout is no pipe."""
    try:
        descriptor = sys.stdout.fileno()
        poll = select.poll()
    except (AttributeError, OSError, ValueError):
        yield  # Windows, or a stdout that is none
        return
    reading, writing = os.pipe()
    poll.register(descriptor, 0)  # errors and hang-ups are always reported
    poll.register(reading, select.POLLIN)

    def watch() -> None:
        found = dict(poll.poll())
        if reading not in found and found.get(descriptor, 0) & (select.POLLERR | select.POLLHUP):
            call()

    # Daemon: leaving wakes it by the pipe; a process that dies in another way need not wait for it.
    watcher = threading.Thread(target=watch, name="parlant-sync-hangup", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        os.close(writing)
        watcher.join()
        os.close(reading)
