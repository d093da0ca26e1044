"""Every kind of agent times everything that may happen in a turn: the right text and outcome, and no needless waiting.

The cells of a test run at the same time, each in a session of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import cycle, product
from typing import Any

import pytest
from support.contract_matrix import CALLS, CELLS, KINDS, Run, applies
from support.waiting import Background

from parlant_sync import AgentError, Client


@pytest.fixture
def check(server: Any, make_client: Callable[..., Client]) -> Callable[[Iterable[tuple[str, str, str]]], None]:
    def run(cells: Iterable[tuple[str, str, str]]) -> None:
        cells = [cell for cell in cells if applies(server, *cell[:2])]
        if not cells:
            pytest.skip(
                f"Parlant {server.version[0]}.{server.version[1]} cannot run such agents (docs/compatibility.md)"
            )
        runs = [Background(Run(server, make_client, *cell).check) for cell in cells]
        errors = {", ".join(cell): run.error(60) for cell, run in zip(cells, runs, strict=True)}
        wrong = [f"{name}: {type(error).__name__}: {error}" for name, error in errors.items() if error is not None]
        print(f"{len(cells) - len(wrong)} of {len(cells)} cells are correct")  # shown by pytest -rP
        assert not wrong, f"{len(wrong)} of {len(cells)} cells are wrong:\n" + "\n\n".join(wrong)

    return run


def test_each_kind_and_each_cell_once(check: Callable[..., None]) -> None:
    kinds = cycle(KINDS)
    check((next(kinds), *cell) for cell in product(CELLS, CALLS))


@pytest.mark.full
@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
def test_every_cell(check: Callable[..., None], kind: str) -> None:
    check((kind, *cell) for cell in product(CELLS, CALLS))


@pytest.mark.parametrize("made", ["rest", "strict", "composited"])
def test_what_4_0_cannot_run_fails_and_never_hangs(server: Any, client: Client, made: str) -> None:
    """An agent of the first engine, or of a composition mode that Compass does not have: each turn is an error."""
    if server.answers_for_rest_agents:
        pytest.skip("only 4.0.0a1 is like that")
    session = client.create_session(server.matrix_agent(f"{made}-prompt-block", {}))
    for text in ("one", "two"):
        with pytest.raises(AgentError):
            session.send(text, timeout=10)
