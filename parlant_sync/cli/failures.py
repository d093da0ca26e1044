"""The old name of ``parlant_sync.cli.errors``."""

from parlant_sync.cli.errors import *  # noqa: F403
