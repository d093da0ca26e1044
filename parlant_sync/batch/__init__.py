"""Many questions, any number of crashes, each asked once: see :func:`run`, and ``parlant-sync batch``."""

from parlant_sync.batch.batch import Batch, Outlook, outlook, run
from parlant_sync.batch.files import BatchLocked
from parlant_sync.batch.reading import read_rows
from parlant_sync.batch.results import Result, Summary, TurnResult
from parlant_sync.batch.rows import Row

__all__ = ["Batch", "BatchLocked", "Outlook", "Result", "Row", "Summary", "TurnResult", "outlook", "read_rows", "run"]
