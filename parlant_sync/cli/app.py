"""The old name of ``parlant_sync.cli.main``."""

from parlant_sync.cli.main import main, root

__all__ = ["main", "root"]
