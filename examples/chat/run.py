"""Starts the chat page: python3 examples/chat/run.py [--port 5000]. Ctrl-C ends it.

Without PARLANT_SERVER it starts a demo server as well (extra: demo). Needs flask and gunicorn; in this repository the
project's own environment has both: .venv/bin/python examples/chat/run.py.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=5000)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        environment = dict(os.environ)
        if "PARLANT_SERVER" not in environment:
            from parlant_sync.demo.launcher import DemoServer

            environment["PARLANT_SERVER"] = stack.enter_context(DemoServer()).base_url
        # Threads, because a visitor who waits for an answer occupies one. A turn may take longer than --timeout.
        command = [sys.executable, "-m", "gunicorn", "--worker-class", "gthread", "--threads", "32", "--workers", "1"]
        command += ["--bind", f"127.0.0.1:{options.port}", "--chdir", str(HERE), "app:create_app()"]
        print(f"the chat page is at http://127.0.0.1:{options.port}", flush=True)
        process = subprocess.Popen(command, env=environment)
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()  # a Ctrl-C at a terminal has reached it as well; a signal to this process alone has not
            return process.wait()


if __name__ == "__main__":
    sys.exit(main())
