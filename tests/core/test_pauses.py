"""The pauses of a poller: when it waits, and what cuts that short."""

from __future__ import annotations

import threading

import pytest

from parlant_sync._api.retry import Bell, Nap
from parlant_sync._polling.pauses import Pauses


class Brake:
    """A pace that has to be waited for; ``seen`` is what the pauses said meanwhile."""

    def __init__(self, pauses: Pauses, may_go: bool) -> None:
        self._pauses, self._may_go = pauses, may_go
        self.seen: list[bool] = []

    def go(self) -> bool:
        return False

    def wait(self, bell: Bell) -> bool:
        self.seen.append(self._pauses.waiting)
        return self._may_go


class Free(Brake):
    def go(self) -> bool:
        return True


def test_waiting_while_it_backs_off_and_not_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses, seen = Pauses(), list[bool]()
    wait = Nap.wait

    def watched(self: Nap, timeout: float | None = None) -> bool:
        seen.append(pauses.waiting)
        return wait(self, 0.0)

    monkeypatch.setattr(Nap, "wait", watched)
    assert not pauses.waiting
    pauses.back_off(60.0, Bell())
    assert (seen, pauses.waiting) == ([True], False)


@pytest.mark.parametrize("may_go", [True, False])
def test_waiting_for_its_turn_after_a_429(may_go: bool) -> None:
    pauses = Pauses()
    brake = Brake(pauses, may_go)
    assert pauses.take_turn(brake, Bell()) is may_go  # type: ignore[arg-type]
    assert (brake.seen, pauses.waiting) == ([True], False)


def test_a_free_way_is_no_pause() -> None:
    pauses = Pauses()
    free = Free(pauses, may_go=False)
    assert pauses.take_turn(free, Bell())  # type: ignore[arg-type]
    assert free.seen == []


@pytest.mark.parametrize("how", ["cut", "bell"])
def test_a_back_off_is_cut_short(how: str) -> None:
    pauses, bell = Pauses(), Bell()
    pauses.cut()  # nothing waits: nothing happens
    thread = threading.Thread(target=pauses.back_off, args=(60.0, bell))
    thread.start()
    while not pauses.waiting:
        threading.Event().wait(0.001)
    pauses.cut() if how == "cut" else bell.ring()
    thread.join(5)
    assert not thread.is_alive()
    assert not pauses.waiting


def test_a_cut_of_an_earlier_pause_does_not_end_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses, waited = Pauses(), list[bool]()
    wait = Nap.wait

    def cut_too_often(self: Nap, timeout: float | None = None) -> bool:
        waited.append(self._queue.empty())
        pauses.cut()
        pauses.cut()
        return wait(self, 0.0)

    monkeypatch.setattr(Nap, "wait", cut_too_often)
    pauses.back_off(60.0, Bell())
    pauses.back_off(60.0, Bell())
    assert waited == [True, True]
