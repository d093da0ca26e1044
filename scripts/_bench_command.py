"""What scripts/bench.py does once it runs on a Python that is new enough."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import _env


def main() -> int:
    try:
        # parlant brings the official client along.
        python = _env.project(["demo"])
    except _env.SetupError as error:
        _env.say(str(error))
        return 1
    except KeyboardInterrupt:  # what was half installed is made anew next time
        return 130
    environment = _env.environ({"PYTHONPATH": str(Path(__file__).parent)})
    process = subprocess.Popen([str(python), "-m", "_bench", *sys.argv[1:]], env=environment)
    try:
        return process.wait()
    except KeyboardInterrupt:
        return process.wait()  # the terminal told it as well
