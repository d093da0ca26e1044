"""Ask an agent many questions at once: a thread and a session for each, and plain ``send()`` in it.

    python scripts/examples/ask_many.py AGENT_ID < questions.txt

One question a line; the answers come as JSON lines, in the order of the questions. The server and the token come from
PARLANT_SERVER and PARLANT_TOKEN. A batch that has to survive crashes is ``parlant-sync batch``.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from parlant_sync import AgentError, Client, ParlantSyncError, TurnTimeout

THREADS = 8
PATIENCE = 120.0  # seconds for one answer


def ask(client: Client, agent_id: str, question: str) -> dict[str, str]:
    """One question in a session of its own. Never raises for what one question can do wrong."""
    try:
        # Leaving the block ends the session's polling; the session stays on the server.
        with client.create_session(agent_id, title="ask_many") as session:
            reply = session.send(question, timeout=PATIENCE)
        return {"question": question, "outcome": reply.outcome, "text": reply.text}
    except TurnTimeout as error:
        return {"question": question, "outcome": "timed_out", "text": error.partial.text}
    except AgentError as error:
        return {"question": question, "outcome": "failed", "text": str(error)}


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: ask_many.py AGENT_ID < questions.txt", file=sys.stderr)
        return 2
    failures = 0
    try:
        questions = [line.strip() for line in sys.stdin if line.strip()]
        # One client for all threads: it keeps their connections. It is left before the pool is, so that Ctrl-C, or
        # whatever else goes wrong, ends every wait of theirs.
        with ThreadPoolExecutor(THREADS) as pool, Client() as client:
            for answer in pool.map(partial(ask, client, sys.argv[1]), questions):
                print(json.dumps(answer, ensure_ascii=False), flush=True)
                failures += answer["outcome"] in ("timed_out", "failed")
    except ParlantSyncError as error:  # the server is gone, the token is wrong: true of all questions
        print(f"ask_many: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ask_many: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the answers has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes once more when it ends
        return 0
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
