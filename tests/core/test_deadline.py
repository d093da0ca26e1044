from __future__ import annotations

import math
import queue
import socket
import threading

import pytest
from support.raw_api import in_background
from support.waiting import Clock, must_end

from parlant_sync._deadline import SOCKET_MAX, Deadline, get_in_time, seconds
from parlant_sync.errors import ConfigurationError


def test_runs_out_on_its_clock(clock: Clock) -> None:
    deadline = Deadline(5, clock=clock)
    assert deadline.remaining() == 5
    clock.now += 3
    assert deadline.bound(10) == 2
    assert deadline.bound(1) == 1
    assert not deadline.expired()
    clock.now += 3
    assert deadline.remaining() == 0
    assert deadline.expired()


def test_between(clock: Clock) -> None:
    deadline = Deadline(5, clock=clock)
    assert deadline.between(0.5, 30) == 5
    assert deadline.between(0.5, 3) == 3
    clock.now += 7
    assert deadline.between(0.5, 30) == 0.5
    assert Deadline(None).between(0.5, 30) == 30


def test_none_never_ends() -> None:
    deadline = Deadline(None)
    assert deadline.remaining() == math.inf
    assert deadline.bound(None) is None
    assert deadline.bound(7) == 7
    assert not deadline.expired()


def test_a_huge_timeout_is_still_one_that_waits_take() -> None:
    limit = Deadline(1e300).bound(None)
    assert limit is not None
    assert limit <= threading.TIMEOUT_MAX


@pytest.mark.parametrize("timeout", [1e10, 1e300])
def test_what_sockets_take_is_less(timeout: float) -> None:
    with socket.socket() as sock:
        with pytest.raises(OverflowError):
            sock.settimeout(timeout)
        sock.settimeout(Deadline(timeout).for_socket())
        assert sock.gettimeout() == SOCKET_MAX
    assert Deadline(5, clock=Clock()).for_socket() == 5
    assert Deadline(None).for_socket() is None


@pytest.mark.parametrize("value", [-1, 10**400, float("nan"), "5", True, None])
def test_no_duration(value: object) -> None:
    with pytest.raises(ConfigurationError, match="wait"):
        seconds("wait", value)


def test_durations() -> None:
    assert seconds("wait", 3) == 3.0
    assert seconds("wait", None, none_is_ok=True) == math.inf


@pytest.mark.parametrize("timeout", [0.0, 1e-9, 1e-6, 1e-5, 1e-4])
def test_a_short_wait_at_a_queue_ends(timeout: float) -> None:
    """CPython's own ``get`` hangs after a few hundred of these."""

    def wait() -> None:
        for _ in range(3000):
            with pytest.raises(queue.Empty):
                get_in_time(queue.SimpleQueue(), timeout)

    must_end(wait, timeout=20)


def test_what_is_in_a_queue_is_given() -> None:
    items: queue.SimpleQueue[int] = queue.SimpleQueue()
    items.put(1)
    items.put(2)
    assert (get_in_time(items, 0), get_in_time(items, None)) == (1, 2)
    waiting = in_background(get_in_time, items, 5)
    items.put(3)
    assert waiting.result() == 3
