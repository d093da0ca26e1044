"""What is kept of a turn that got no reply, so that a false outcome can be understood after the run."""

from __future__ import annotations

import logging
import threading
from typing import Any

_HEAD = 160  # characters of a body


class Looks(logging.Handler):
    """What the posts of each thread said while they looked for their message. Add it to ``LOGGER``."""

    LOGGER = "parlant_sync._api.posting"

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._here = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        self._here.lines = [*self.lines[-9:], record.getMessage()]

    @property
    def lines(self) -> list[str]:
        """Of this thread, since ``clear()``."""
        found: list[str] = getattr(self._here, "lines", [])
        return found

    def clear(self) -> None:
        self._here.lines = []


def of_error(error: BaseException | None) -> str:
    """The error and its causes, each with its status and the head of the body that came."""
    told: list[str] = []
    while error is not None and len(told) < 5:
        status, detail = getattr(error, "status", None), getattr(error, "detail", "")
        body = f" [status {status}, body {detail[:_HEAD]!r}]" if status is not None else ""
        told.append(f"{type(error).__name__}: {str(error)[:400]}{body}")
        error = error.__cause__
    return " <- ".join(told)


def of_exchanges(proxy: Any, session_id: str, since: float) -> str:
    """What went through the fault proxy for this session since then, polls apart, and which fault struck it."""
    told: list[str] = []
    for exchange in proxy.exchanges:
        if exchange.started >= since and session_id in exchange.path and exchange.kind != "poll":
            body = exchange.answer.partition(b"\r\n\r\n")[2][:_HEAD]
            told.append(f"#{exchange.number} {exchange.kind} {exchange.status} {exchange.fault or 'no fault'} {body!r}")
    return "; ".join(told[-12:])


def of_events(events: list[dict[str, Any]]) -> str:
    """The end of what the server holds of a session."""
    told = (f"{e['offset']} {e['source']} {e['trace_id'][-6:]} {str(e['data'])[:_HEAD]}" for e in events[-16:])
    return "; ".join(told)
