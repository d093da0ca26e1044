"""``python -m _bench``: what scripts/bench.py does once it runs in the project's environment."""

import sys

from _bench.command import main

try:
    code = main()
except KeyboardInterrupt:
    code = 130
sys.exit(code)
