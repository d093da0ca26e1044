"""The main job in one command: python3 scripts/demo.py [arguments of ``parlant-sync demo``].

Makes the project's .venv if there is none, starts a real Parlant server on this machine, and holds a conversation with
it. It needs no account and no key.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - an old Python gets one clear line
    sys.exit("parlant_sync needs Python 3.10 or newer. Try: python3.12 " + sys.argv[0])

from dev import environments

sys.exit(environments.become(["demo"], ["-m", "parlant_sync", "demo", *sys.argv[1:]]))
