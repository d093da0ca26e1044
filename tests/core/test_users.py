"""Counted by being alive: an interrupt may keep a user from saying that he goes, but not from going."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from parlant_sync._polling.users import Use, Users


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class FakePoller:
    def __init__(self, clock: Clock) -> None:
        self.users = Users(clock)
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None

    def use(self, user: object) -> None:
        self.before()
        self.users.come(user)
        self.after()

    def unuse(self, user: object) -> None:
        self.before()
        self.users.go(user)
        self.after()


def test_idle_since_the_last_one_has_gone() -> None:
    clock = Clock()
    poller = FakePoller(clock)
    clock.now = 5
    assert poller.users.idle() == 5
    with Use(poller):
        clock.now = 7
        with Use(poller):
            assert poller.users.idle() is None
        assert poller.users.idle() is None
        clock.now = 9
    assert poller.users.idle() == 0
    clock.now = 10
    assert poller.users.idle() == 1


def test_one_that_comes_several_times_goes_as_often() -> None:
    users, user = Users(Clock()), FakePoller(Clock())
    users.come(user)
    users.come(user)
    users.go(user)
    assert users.idle() is None
    users.go(user)
    users.go(user)  # an interrupt had taken its coming
    assert users.idle() == 0


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", ["use", "unuse"])
def test_an_interrupt_leaves_nobody_behind(moment: str, step: str) -> None:
    clock = Clock()
    poller = FakePoller(clock)

    def interrupt() -> None:
        raise KeyboardInterrupt

    if step == "use":
        setattr(poller, moment, interrupt)
    try:
        with Use(poller):
            assert poller.users.idle() is None
            clock.now = 3
            setattr(poller, moment, interrupt)
        pytest.fail("no interrupt")
    except KeyboardInterrupt:
        pass
    clock.now = 10
    assert poller.users.idle() in (10, 7)
