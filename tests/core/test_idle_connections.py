"""What stands for urllib3's queue of idle connections."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest

from parlant_sync._http.connection import Idle


def test_the_last_that_came_is_the_first_to_go() -> None:
    idle = Idle(2)
    with pytest.raises(queue.Empty):
        idle.get(block=False)
    idle.put("a", block=False)
    idle.put("b", block=False)
    assert idle.qsize() == 2
    with pytest.raises(queue.Full):
        idle.put("c", block=False)
    assert [idle.get(block=False), idle.get(block=False), idle.qsize()] == ["b", "a", 0]


def test_it_never_waits() -> None:
    with pytest.raises(queue.Empty):
        Idle(1).get(block=True, timeout=60)


def test_many_threads_lose_nothing() -> None:
    idle: Any = Idle(64)
    for number in range(32):
        idle.put(number)

    def churn() -> None:
        for _ in range(2000):
            idle.put(idle.get())

    threads = [threading.Thread(target=churn) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(idle.get() for _ in range(32)) == list(range(32))
