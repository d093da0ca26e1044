"""Passing events on to a command or a URL, at least once each: an event counts as passed on after exit 0 or a 2xx."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parlant_sync import Event
from parlant_sync.cli import output
from parlant_sync.cli.errors import UNREACHED, CommandError
from parlant_sync.cli.state import make_folder
from parlant_sync.cli.terminal import above_lines

_LONGEST_PAUSE = 60.0
# Returns what went wrong; empty if the event was taken. Gets the JSON of the event, its session and its offset.
Deliver = Callable[[bytes, str, int], str]


class Forwarder:
    """Passes events on, one after the other, with retries; then to the dead-letter file.

    Without such a file, an event that is not taken ends the run with CommandError: nothing may be lost.
    """

    def __init__(self, deliver: Deliver, *, retries: int, dead_letters: Path | None) -> None:
        self._deliver = deliver
        self._retries = retries
        self._dead_letters = dead_letters
        self._pause = threading.Event()  # never set: waits on it end early only by an exception of a signal

    def __call__(self, session_id: str, event: Event) -> None:
        body = json.dumps({"session_id": session_id, **event.raw}).encode()
        for attempt in range(self._retries + 1):
            problem = self._deliver(body, session_id, event.offset)
            if not problem:
                return
            if attempt < self._retries:
                seconds = min(2.0**attempt, _LONGEST_PAUSE)
                _note(f"event {event.offset} of session {session_id}: {problem}; trying again in {seconds:.0f} s")
                self._pause.wait(seconds)
        if self._dead_letters is None:
            raise CommandError(
                UNREACHED,
                f"event {event.offset} of session {session_id} could not be passed on: {problem}; run it again later, "
                "or give --dead-letter FILE to set such events aside and continue",
            )
        _append(self._dead_letters, {"problem": problem, "event": json.loads(body)})
        _note(f"event {event.offset} of session {session_id}: {problem}; it is now in {self._dead_letters}")


def to_command(command: str, timeout: float | None) -> Deliver:
    """Runs ``command`` in a shell for each event, with its JSON on stdin."""

    def deliver(body: bytes, session_id: str, offset: int) -> str:
        environment = {**os.environ, "PARLANT_EVENT_SESSION_ID": session_id, "PARLANT_EVENT_OFFSET": str(offset)}
        # A group of its own, so that all of it can be ended. What it prints goes to stderr: stdout is for answers.
        with subprocess.Popen(
            command, shell=True, stdin=subprocess.PIPE, stdout=2, env=environment, start_new_session=True
        ) as process:
            try:
                process.communicate(body + b"\n", timeout)
            except subprocess.TimeoutExpired:
                _kill(process)
                return f"the command was not over after {timeout:g} s"
            except BrokenPipeError:
                pass  # it does not read its input
            except BaseException:
                _kill(process)
                raise
        return f"the command ended with exit code {process.returncode}" if process.returncode else ""

    return deliver


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except ProcessLookupError:
        pass


def to_url(url: str, timeout: float | None) -> Deliver:
    """POSTs each event as JSON to ``url``, without the token of the Parlant server. Redirects are not followed."""
    import requests

    session = requests.Session()
    session.auth = lambda request: request  # or else requests would look into ~/.netrc

    def deliver(body: bytes, session_id: str, offset: int) -> str:
        headers = {"Content-Type": "application/json", "Idempotency-Key": f"{session_id}/{offset}"}
        try:
            answer = session.post(url, data=body, headers=headers, timeout=timeout, allow_redirects=False)
        except requests.RequestException as error:
            return f"no answer from the URL ({type(error).__name__})"
        return "" if 200 <= answer.status_code < 300 else f"the URL answered {answer.status_code}"

    return deliver


def _append(path: Path, value: dict[str, Any]) -> None:
    """On the disk when this returns."""
    make_folder(path.parent)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "ab") as file:
        file.write(json.dumps(value).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _note(text: str) -> None:
    with above_lines():
        output.note(text)
