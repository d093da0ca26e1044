"""What scripts/demo.py does once it runs on a Python that is new enough."""

from __future__ import annotations

import os
import subprocess
import sys

import _env


def main() -> int:
    try:
        python = _env.project(["demo"])
    except _env.SetupError as error:
        _env.say(str(error))
        return 1
    except KeyboardInterrupt:  # what was half installed is made anew next time
        return 130
    program = python.with_name("parlant-sync.exe" if os.name == "nt" else "parlant-sync")
    command = [str(program), "demo", *sys.argv[1:]]
    environment = _env.environ()
    if os.name == "nt":  # exec on Windows returns to the shell before the work is done
        return subprocess.call(command, env=environment)
    os.execve(command[0], command, environment)  # so that signals and the exit code are the program's own
