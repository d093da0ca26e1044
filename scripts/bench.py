"""Speed and size, side by side with what one would use instead: python3 scripts/bench.py [--help].

Makes the project's .venv if there is none, measures for about a quarter of an hour, and prints a table.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - an old Python gets one clear line
    sys.exit("parlant_sync needs Python 3.10 or newer. Try: python3.12 " + sys.argv[0])

from dev import environments

# The extra "demo" brings the official client, "speed" the faster JSON.
SCRIPTS = str(environments.ROOT / "scripts")
sys.exit(environments.become(["demo", "speed"], ["-m", "benchmarks", *sys.argv[1:]], {"PYTHONPATH": SCRIPTS}))
