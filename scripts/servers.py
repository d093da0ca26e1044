"""Environments with several versions of the Parlant server: python3 scripts/servers.py list|make|python."""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - an old Python gets one clear line
    sys.exit("parlant_sync needs Python 3.10 or newer. Try: python3.12 " + sys.argv[0])

from dev import servers

sys.exit(servers.main())
