"""``python -m benchmarks``: what scripts/bench.py does once it runs in the project's environment."""

import sys

from benchmarks.command import main

try:
    code = main()
except KeyboardInterrupt:
    code = 130
sys.exit(code)
