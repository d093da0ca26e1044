"""interpreters.py URL SESSION_ID: pollers in a subinterpreter (Python 3.14), which allows no daemon threads."""

from __future__ import annotations

import sys
from concurrent.futures import InterpreterPoolExecutor  # type: ignore[attr-defined,unused-ignore]

CODE = """
from parlant_sync import Client, TransportError

with Client(url) as client:
    print(bool(client.agents()))
    for call in (lambda: client.create_session("quick"), lambda: next(client.session(session_id).iter_events())):
        try:
            call()
        except TransportError as error:
            print("use a process or a thread pool" in str(error))
"""

if __name__ == "__main__":
    with InterpreterPoolExecutor(1) as pool:
        pool.submit(exec, CODE, {"url": sys.argv[1], "session_id": sys.argv[2]}).result(60)
