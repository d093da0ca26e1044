"""``python -m parlant_sync``: the same as ``parlant-sync``."""

import sys

from parlant_sync.cli import main

if __name__ == "__main__":
    sys.exit(main())
