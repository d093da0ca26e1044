"""Many questions, each asked once, whatever crashes: see ``run``, and ``parlant-sync batch``."""

from parlant_sync.batch.input_file import read_rows
from parlant_sync.batch.journal import BatchLocked
from parlant_sync.batch.results import Result, Summary, TurnResult
from parlant_sync.batch.rows import Row
from parlant_sync.batch.run import Batch, Outlook, outlook, run

__all__ = ["Batch", "BatchLocked", "Outlook", "Result", "Row", "Summary", "TurnResult", "outlook", "read_rows", "run"]
