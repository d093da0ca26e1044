from __future__ import annotations

import threading

from parlant_sync.deadline import Deadline
from parlant_sync.gate import Gate

SOON = 0.01


def test_one_at_a_time() -> None:
    gate = Gate()
    first = gate.enter(Deadline(1), Deadline(100))
    assert first is not None
    assert gate.enter(Deadline(SOON), Deadline(100)) is None
    first.release()
    second = gate.enter(Deadline(1), Deadline(100))
    assert second is not None
    assert gate.enter(Deadline(SOON), Deadline(100)) is None


def test_released_twice_frees_once() -> None:
    gate = Gate()
    first = gate.enter(Deadline(1), Deadline(100))
    assert first is not None
    first.release()
    first.release()
    assert gate.enter(Deadline(1), Deadline(100)) is not None
    assert gate.enter(Deadline(SOON), Deadline(100)) is None


def test_taken_from_a_turn_that_is_out_of_time() -> None:
    gate = Gate()
    late = gate.enter(Deadline(1), Deadline(0.05))
    assert late is not None
    taken = gate.enter(Deadline(5), Deadline(100))
    assert taken is not None
    late.release()  # too late: it has nothing to give back any more
    assert gate.enter(Deadline(SOON), Deadline(100)) is None
    taken.release()
    assert gate.enter(Deadline(1), Deadline(100)) is not None


def test_many_threads_never_overlap() -> None:
    gate = Gate()
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(50):
            entry = gate.enter(Deadline(30), Deadline(30))
            assert entry is not None
            inside.append(1)
            most.append(len(inside))
            inside.pop()
            entry.release()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(most) == 400
    assert max(most) == 1


def test_closing_lets_everybody_go() -> None:
    gate = Gate()
    assert gate.enter(Deadline(1), Deadline(100)) is not None
    results: list[object] = []
    threads = [
        threading.Thread(target=lambda: results.append(gate.enter(Deadline(30), Deadline(30)))) for _ in range(5)
    ]
    for t in threads:
        t.start()
    gate.close()
    for t in threads:
        t.join(5)
    assert results == [None] * 5
    assert gate.enter(Deadline(30), Deadline(30)) is None
