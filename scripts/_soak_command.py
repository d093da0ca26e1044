"""What scripts/soak.py does once it runs on a Python that is new enough: goes on in the project's environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import _env


def main() -> int:
    extras = ["demo"] if "real" in sys.argv else []
    try:
        python = _env.project(extras)
        # By default glibc gives each of the 400 threads a heap of its own, which grows by fragments for a long time.
        environment = _env.environ({"MALLOC_ARENA_MAX": "1"})
        return subprocess.call([str(python), str(Path(__file__).with_name("_soak.py")), *sys.argv[1:]], env=environment)
    except _env.SetupError as error:
        _env.say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
