"""The command ``parlant-sync``. Each command is a file in ``commands/``, loaded when it is called."""

from parlant_sync.cli.main import main

__all__ = ["main"]
