"""The one atexit hook and the one fork hook of the process, over weak references to its clients."""

from __future__ import annotations

import atexit
import logging
import os
import weakref
from typing import Protocol

logger = logging.getLogger(__name__)

# What the joins at exit may take in all: daemon threads that are late are simply frozen by the interpreter.
EXIT_GRACE = 0.5


class Hooked(Protocol):
    """What a client offers to the hooks."""

    @property
    def base_url(self) -> str: ...

    def _end_at_exit(self, timeout: float) -> None: ...

    def _drop_inherited(self) -> None: ...


# By whom the hooks were set. No lock: setdefault() is atomic, also for a signal handler and for a forked child.
_armed: dict[str, object] = {}
# By id: a WeakSet would hash, and its iteration guards would not survive a fork in the middle of one.
_clients: dict[int, weakref.ref[Hooked]] = {}


def watch(client: Hooked) -> None:
    """Close ``client`` at exit, and renew it in forked children, for as long as it is referred to."""
    key = id(client)

    def gone(ref: weakref.ref[Hooked]) -> None:
        if _clients.get(key) is ref:
            _clients.pop(key, None)

    _clients[key] = weakref.ref(client, gone)
    if _armed.setdefault("by", gone) is gone:
        atexit.register(_at_exit)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_after_fork)


def _living() -> list[Hooked]:
    return [client for ref in list(_clients.values()) if (client := ref()) is not None]


def _at_exit() -> None:
    clients = _living()
    for client in clients:
        # Wakes its pollers; nothing is printed or raised, because no caller is left.
        try:
            client._end_at_exit(EXIT_GRACE / len(clients))
        except Exception:
            continue


def _after_fork() -> None:
    for client in _living():
        try:
            client._drop_inherited()
        except Exception:
            # The others must still be renewed.
            logger.exception("the client of %s cannot be used in this forked process; make a new one", client.base_url)
