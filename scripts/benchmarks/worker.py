"""The process of one run: ``python -m benchmarks.worker MODULE.FUNCTION OPTIONS`` prints what the function returns."""

from __future__ import annotations

import importlib
import json
import sys


def main() -> None:
    module, _, function = sys.argv[1].partition(".")
    job = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    print(json.dumps(job(**json.loads(sys.argv[2]))))


if __name__ == "__main__":
    main()
