"""What a batch is told once."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

from parlant_sync.batch.files import LineFile
from parlant_sync.batch.journal import Journal
from parlant_sync.batch.worker import Config


@dataclass(frozen=True)
class Plan:
    """The options of a run, checked, and its open files, which are the runner's from then on."""

    config: Config
    agent_id: str | None
    customer_id: str | None
    concurrency: int
    rate: float | None
    max_failures: int | None
    settle: float
    executor: Executor | None
    results: LineFile | None
    journal: Journal | None
