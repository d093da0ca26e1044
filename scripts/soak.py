"""Many sessions, turns, readers and faults: python3 scripts/soak.py --faults 100000 --seed 1, or --minutes 15

Keeps a ledger of what the server holds and what readers and calls got, prints a line every ten seconds, and a verdict.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - an old Python gets one clear line
    sys.exit("parlant_sync needs Python 3.10 or newer. Try: python3.12 " + sys.argv[0])

from dev import environments

# By default glibc gives each of the 400 threads a heap of its own, which grows by fragments for a long time.
EXTRA = {"MALLOC_ARENA_MAX": "1", "PYTHONPATH": str(environments.ROOT / "scripts")}
sys.exit(environments.become(["demo"] if "real" in sys.argv else [], ["-m", "soaking", *sys.argv[1:]], EXTRA))
