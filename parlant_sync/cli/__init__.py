"""The command ``parlant-sync``. Each command is a file of its own, loaded when it is called."""

from parlant_sync.cli.app import main

__all__ = ["main"]
