"""Makes the modules of scripts/ importable."""

import sys
from pathlib import Path

# At the end: scripts/test.py must not hide the standard library's `test`.
sys.path.append(str(Path(__file__).resolve().parents[3] / "scripts"))
