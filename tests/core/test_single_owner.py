"""Who is inside of what only one thread may be inside of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.raw_api import in_background

from parlant_sync._single_owner import SingleOwner


def elsewhere(call: Callable[[], Any]) -> Any:
    """What ``call`` gives in another thread."""
    return in_background(call).result()


def test_one_thread_at_a_time() -> None:
    claim = SingleOwner()
    assert not claim.taken()
    assert claim.take()
    assert claim.take()  # its own again
    assert not claim.taken()
    assert elsewhere(claim.taken)
    assert not elsewhere(claim.take)
    claim.let_go()
    assert not elsewhere(claim.taken)


def test_only_who_has_it_lets_go() -> None:
    """A second thread that was refused tidies up all the same."""
    claim = SingleOwner()
    assert claim.take()
    elsewhere(claim.let_go)
    assert elsewhere(claim.taken)
    assert not elsewhere(claim.take)
