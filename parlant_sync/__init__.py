"""A synchronous Python SDK for Parlant servers.

One daemon thread per session long-polls the server for as long as the session is open; ``send()``, ``stream()`` and
``iter_events()`` block on what it brings. See :class:`Client`.
"""

from parlant_sync._version import __version__
from parlant_sync.client import Client, ClientStats
from parlant_sync.errors import (
    AgentError,
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
)
from parlant_sync.events import Agent, Event, Reply, ServerInfo, SessionInfo
from parlant_sync.reader import EventReader
from parlant_sync.session import Session, SessionHealth
from parlant_sync.turn import Turn

__all__ = [
    "Agent",
    "AgentError",
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
    "__version__",
]
