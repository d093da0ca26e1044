"""A synchronous Python SDK for Parlant servers.

One daemon thread per session long-polls the server for as long as the session is open; ``send()``, ``stream()`` and
``iter_events()`` block on it. See ``Client``.

Importing this loads nothing: what it offers is loaded when it is first asked for. So the command line can be
interrupted while it loads, and the pytest plugin, which pytest imports in every project, costs nothing elsewhere.
"""

from typing import TYPE_CHECKING

from parlant_sync._version import __version__

if TYPE_CHECKING:
    from parlant_sync.client import Client
    from parlant_sync.errors import (
        AgentError,
        AgentUnavailable,
        ApiError,
        AuthenticationError,
        ConcurrencyError,
        ConfigurationError,
        DeliveryUncertain,
        ForkedProcessError,
        InvalidRequestError,
        NotFoundError,
        ParlantSyncError,
        PermissionDeniedError,
        ProtocolError,
        RateLimitedError,
        ServerError,
        SessionClosed,
        TransportError,
        TurnTimeout,
        UnsupportedByServer,
    )
    from parlant_sync.events import Agent, ClientStats, Event, Reply, ServerInfo, SessionHealth, SessionInfo
    from parlant_sync.reader import EventReader
    from parlant_sync.session import Session
    from parlant_sync.turn import Turn, Update, as_sse

# Where each is at home; all others are errors.
_HOMES = {
    "Agent": "events",
    "Client": "client",
    "ClientStats": "events",
    "Event": "events",
    "EventReader": "reader",
    "Reply": "events",
    "ServerInfo": "events",
    "Session": "session",
    "SessionHealth": "events",
    "SessionInfo": "events",
    "Turn": "turn",
    "Update": "turn",
    "as_sse": "turn",
}

__all__ = [
    "Agent",
    "AgentError",
    "AgentUnavailable",
    "ApiError",
    "AuthenticationError",
    "Client",
    "ClientStats",
    "ConcurrencyError",
    "ConfigurationError",
    "DeliveryUncertain",
    "Event",
    "EventReader",
    "ForkedProcessError",
    "InvalidRequestError",
    "NotFoundError",
    "ParlantSyncError",
    "PermissionDeniedError",
    "ProtocolError",
    "RateLimitedError",
    "Reply",
    "ServerError",
    "ServerInfo",
    "Session",
    "SessionClosed",
    "SessionHealth",
    "SessionInfo",
    "TransportError",
    "Turn",
    "TurnTimeout",
    "UnsupportedByServer",
    "Update",
    "__version__",
    "as_sse",
]


def __getattr__(name: str) -> object:
    import importlib

    if name == "errors":  # parlant_sync.errors.NotFoundError, without an import of its own
        return importlib.import_module(f"{__name__}.errors")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOMES.get(name, 'errors')}")
    globals()[name] = value = getattr(home, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
