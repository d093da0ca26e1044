"""The old name of :mod:`parlant_sync.cli.errors`."""

from parlant_sync.cli.errors import *  # noqa: F403
