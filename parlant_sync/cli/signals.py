"""Ctrl-C and SIGTERM: an exception in the main thread, and an end within a second whatever the main thread is doing."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

# Cleaning up has so long; then the process ends all the same (name resolution, for one, cannot be interrupted).
GRACE = 0.8


class Terminated(BaseException):
    """A signal asks the process to end. ``exit_code`` is what a shell expects then."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.exit_code = 128 + signum
        self.name = signal.Signals(signum).name


class Signals:
    """While entered, signals end the command in an orderly way; the old handlers come back afterwards.

    ``tolerant``: Ctrl-C only raises KeyboardInterrupt, which the command deals with and goes on.
    A signal that the caller ignores (``nohup``, a shell's background jobs) stays ignored.
    """

    def __init__(self) -> None:
        self.tolerant = False
        self._ending = False
        self._old: dict[int, Any] = {}
        self._old_wakeup = -1
        self._pipe: tuple[int, int] | None = None
        self._over = threading.Event()
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> Signals:
        if threading.current_thread() is not threading.main_thread():
            return self  # Python handles signals in the main thread alone
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            signum = getattr(signal, name, None)
            if signum is not None and signal.getsignal(signum) is not signal.SIG_IGN:
                self._old[signum] = signal.signal(signum, self._handle)
        if hasattr(os, "set_blocking") and os.name == "posix":
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            self._old_wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            # Daemon: it must not keep a process alive that ends in another way.
            self._watcher = threading.Thread(target=self._watch, name="parlant-sync-signals", daemon=True)
            self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._pipe is not None and self._watcher is not None:
            signal.set_wakeup_fd(self._old_wakeup)
            os.close(self._pipe[1])
            self._watcher.join()
            os.close(self._pipe[0])
        for signum, handler in self._old.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, _: FrameType | None) -> None:
        if self._ending and self._watcher is not None:
            return  # one is enough: a second exception would fall into the tidying up, which ends in time as it is
        self._ending = signum != signal.SIGINT or not self.tolerant
        if signum == signal.SIGINT:
            raise KeyboardInterrupt
        raise Terminated(signum)

    def _watch(self) -> None:
        """The wake-up descriptor is written by C code: even while the main thread sits in a call that never returns."""
        assert self._pipe is not None
        while data := os.read(self._pipe[0], 1):
            signum = data[0]
            if signum not in self._old or (signum == signal.SIGINT and self.tolerant):
                continue
            if not self._over.wait(GRACE):
                os._exit(128 + signum)
