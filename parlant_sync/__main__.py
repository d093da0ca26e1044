"""``python -m parlant_sync``: the same as ``parlant-sync``."""

import sys

from _parlant_sync import main

if __name__ == "__main__":
    sys.exit(main())
