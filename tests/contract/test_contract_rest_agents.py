"""An agent made with ``POST /agents`` answers five turns in a row: by ``send()``, the command line and a batch.

Such an agent is "fluid", and sends a bare ``ready`` right after ``acknowledged``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.cli_runs import Cli

from parlant_sync import Client, batch

TEXTS = [f"number {n}" for n in range(5)]
ANSWERS = [f"echo: {text}" for text in TEXTS]


@pytest.fixture
def agent_id(server: Any) -> str:
    server.needs("answers_for_rest_agents", "cannot run such agents (docs/compatibility.md)")
    return str(server.make_rest_agent())


def test_send(client: Client, agent_id: str) -> None:
    session = client.create_session(agent_id)
    replies = [session.send(text) for text in TEXTS]
    assert [(reply.text, reply.outcome) for reply in replies] == [(answer, "answered") for answer in ANSWERS]
    assert not [event for event in session.history() if event.status == "cancelled"]


def test_the_command(server: Any, client: Client, agent_id: str, tmp_path: Path) -> None:
    session = client.create_session(agent_id)
    for text, answer in zip(TEXTS, ANSWERS, strict=True):
        done = Cli(server.base_url, tmp_path).run("send", "--session-id", session.id, text)
        assert (done.code, done.out) == (0, answer + "\n"), done.err


def test_a_batch(server: Any, agent_id: str, tmp_path: Path) -> None:
    """Five turns of one row, and five rows at the same time."""
    results = tmp_path / "results.jsonl"
    rows = [{"id": "long", "messages": TEXTS}, *({"id": text, "message": text} for text in TEXTS)]
    with batch.run(rows, results=results, agent_id=agent_id, base_url=server.base_url, timeout=60) as run:
        assert {result.status for result in run} == {"answered"}
    found = {line["id"]: line for line in map(json.loads, results.read_text("utf-8").splitlines())}
    assert [turn["text"] for turn in found["long"]["turns"]] == ANSWERS
    assert [found[text]["text"] for text in TEXTS] == ANSWERS
