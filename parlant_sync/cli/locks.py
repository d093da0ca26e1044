"""One run at a time: ``flock`` on a file beside the state. It ends with its process, however that ends."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from parlant_sync.cli.failures import LOCKED, UNEXPECTED, CommandError
from parlant_sync.cli.waiting import waiting_for


class Lock:
    """Held while entered. Raises CommandError (exit code 8) where another process holds it for ``wait`` seconds."""

    def __init__(self, path: Path, what: str, wait: float | None = 0.0) -> None:
        self._path = path
        self._what = what
        self._wait = wait
        self._descriptor = -1

    def __enter__(self) -> Lock:
        self._descriptor = self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The file stays: another run may be waiting on it, and a new one of that name would be a second lock.
        os.close(self._descriptor)

    def _take(self) -> int:
        fcntl = _fcntl()
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        return self._queue_for(descriptor)

    def _queue_for(self, descriptor: int) -> int:
        """``flock`` knows no timeout, so that a thread waits in it; out of time, it gives back what it gets."""
        fcntl = _fcntl()
        answer: list[int] = []
        mutex = threading.Lock()  # guards: the descriptor is either handed over or closed
        done = threading.Event()

        def wait() -> None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError:
                os.close(descriptor)
                return
            with mutex:
                if done.is_set():
                    os.close(descriptor)
                else:
                    answer.append(descriptor)
                    done.set()

        if self._wait == 0:
            os.close(descriptor)
        else:
            # Daemon: nothing can call it back from there.
            threading.Thread(target=wait, name="parlant-sync-lock", daemon=True).start()
            with waiting_for("another run to end"):
                done.wait(self._wait)
            with mutex:
                done.set()
                if answer:
                    return answer[0]
        raise CommandError(
            LOCKED,
            f"another run is using {self._what} (lock {self._path}); let it end, or wait with --wait-lock SECONDS",
        )


def _fcntl() -> Any:
    try:
        import fcntl
    except ImportError:
        raise CommandError(
            UNEXPECTED,
            "this system has no flock(), which keeps two runs apart; leave out --conversation and --cursor-file",
        ) from None
    return fcntl
