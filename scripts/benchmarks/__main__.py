"""``python -m benchmarks``: what scripts/bench.py does once it runs in the project's environment."""

import sys

from benchmarks.command import main

try:
    sys.exit(main())
except KeyboardInterrupt:
    sys.exit(130)
