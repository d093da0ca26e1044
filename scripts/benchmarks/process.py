"""What a process can say of itself: memory, CPU, wake-ups. For workers; zeros where the system does not tell."""

from __future__ import annotations

import gc
import os
import time

_TASKS = "/proc/self/task"


def rss(*, collect: bool = False) -> int:
    """Resident memory in KiB; ``collect``: without what only waits for the garbage collector."""
    if collect:
        gc.collect()
    try:
        with open("/proc/self/statm", encoding="ascii") as line:
            return int(line.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    except OSError:
        return 0


def cpu() -> float:
    """Seconds of CPU of all threads so far."""
    return time.process_time()


def wake_ups() -> int:
    """How often all threads but the calling one have gone to sleep, and so been woken."""
    if not os.path.isdir(_TASKS):
        return 0
    own = str(os.getpid())
    total = 0
    for task in os.listdir(_TASKS):
        if task == own:
            continue
        try:
            with open(f"{_TASKS}/{task}/status", encoding="ascii") as lines:
                total += next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
        except OSError:
            pass  # it has ended
    return total
