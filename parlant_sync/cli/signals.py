"""Ctrl-C and SIGTERM: an exception in the main thread, and an end within a second even inside a call into C."""

from __future__ import annotations

import math
import os
import select
import signal
import threading
import time
from types import FrameType
from typing import Any

# Cleaning up may take this long, in seconds; then the process ends anyway (name resolution cannot be interrupted).
GRACE = 0.8


class Terminated(BaseException):
    """A signal asks the process to end. ``exit_code`` is what a shell expects then."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.exit_code = 128 + signum
        self.name = signal.Signals(signum).name


class Signals:
    """While entered, signals end the command in an orderly way. Leaving restores the old handlers.

    ``tolerant``: Ctrl-C only raises KeyboardInterrupt, and the command continues after handling it.
    A signal that the caller ignores (``nohup``, a shell's background jobs) stays ignored.

    Python's handler of a signal that comes just before the main thread blocks runs when that call returns: at a prompt,
    with the next key. So a thread of ours sends a signal again that was not handled soon.
    """

    def __init__(self) -> None:
        self.tolerant = False
        self._ending = False
        self._handled = 0  # runs of our handler: written by the main thread alone, read by the watcher
        self._old: dict[int, Any] = {}
        self._old_wakeup = -1
        self._pipe: tuple[int, int] | None = None
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
        if self._pipe is not None and self._watcher is not None:
            signal.set_wakeup_fd(self._old_wakeup)
            os.close(self._pipe[1])
            self._watcher.join()
            os.close(self._pipe[0])
        for signum, handler in self._old.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, _: FrameType | None) -> None:
        self._handled += 1
        if self._ending and self._watcher is not None:
            return  # one is enough: a second exception would interrupt the cleanup, which has a time limit anyway
        self._ending = signum != signal.SIGINT or not self.tolerant
        if signum == signal.SIGINT:
            raise KeyboardInterrupt
        raise Terminated(signum)

    def _watch(self) -> None:
        """The wake-up descriptor is written by C code: even while the main thread sits in a call that never returns."""
        assert self._pipe is not None
        main = threading.main_thread().ident
        assert main is not None
        end, code = math.inf, 0
        unhandled = Unhandled()
        while True:
            if self._readable(min(unhandled.check, end) - time.monotonic()):
                data = os.read(self._pipe[0], 64)
                if not data:
                    return
                for signum in filter(self._old.__contains__, data):
                    new = unhandled.came(signum, self._handled, time.monotonic())
                    if new and end == math.inf and not (signum == signal.SIGINT and self.tolerant):
                        end, code = time.monotonic() + GRACE, 128 + signum
            now = time.monotonic()
            if now >= end:
                os._exit(code)
            if now < unhandled.check:
                continue
            handled = self._handled
            if self._readable(0):
                continue  # to be counted first: it may be among the handled ones
            if not unhandled.settled(handled) and handled == self._handled:
                signal.pthread_kill(main, unhandled.again(now))

    def _readable(self, seconds: float) -> bool:
        assert self._pipe is not None
        poll = select.poll()  # select() fails on descriptors from 1024 on
        poll.register(self._pipe[0], select.POLLIN)
        return bool(poll.poll(None if seconds == math.inf else max(seconds, 0) * 1000))


# -- Which signals came just before the main thread blocked, and are still to be handled.

# A signal is sent again so many seconds after it came, and after twice the time again.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5


class Unhandled:
    """For one thread. Times are seconds of a monotonic clock; ``handled``, how often handlers have run by now.

    Python runs one handler for all signals of a number that have come since the last time, so those that came and the
    runs of handlers do not add up.
    """

    def __init__(self) -> None:
        self.check = math.inf  # when to look next whether they were handled
        self._came: list[int] = []  # since all were handled the last time
        self._before = 0  # the runs of handlers by then,
        self._seen = 0  # and when the last of them was seen to come
        self._ours: list[int] = []  # sent again, and not yet seen to come
        self._pause = _FIRST_PAUSE

    def came(self, signum: int, handled: int, now: float) -> bool:
        """Record a signal. Return False if it is one that we sent again."""
        if signum in self._ours:
            self._ours.remove(signum)
            return False
        self._came.append(signum)
        self._seen = handled
        self._pause = _FIRST_PAUSE
        self.check = now + self._pause
        return True

    def settled(self, handled: int) -> bool:
        """Whether all were handled: each by its own run of the handler, or all by one run after the last of them."""
        if handled <= self._seen and handled - self._before < len(self._came):
            return False
        self._came, self._ours, self._before, self.check = [], [], handled, math.inf
        return True

    def again(self, now: float) -> int:
        """The one to be sent again now."""
        self._ours.append(self._came[-1])
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self.check = now + self._pause
        return self._came[-1]
