from __future__ import annotations

import inspect
import pickle

import pytest

from parlant_sync import errors
from parlant_sync.events import Event, Reply

REPLY = Reply("so far", "answered")
EVENT = Event({"offset": 3, "id": "e"})
INSTANCES = [
    errors.ParlantSyncError("x"),
    errors.ConfigurationError("x"),
    errors.TransportError("x"),
    errors.ProtocolError("x"),
    errors.SessionClosed("x"),
    errors.ConcurrencyError("x"),
    errors.ForkedProcessError("x"),
    errors.TurnTimeout("x", partial=REPLY, event=EVENT),
    errors.AgentError("x", detail="boom", partial=REPLY),
    errors.AgentUnavailable("x", detail="budget", summary="no budget", partial=REPLY, retry_after=60.0),
    errors.UnsupportedByServer("x"),
    errors.DeliveryUncertain("x", key="k", session_id="s"),
    errors.RateLimitedError("x", status=429, method="GET", path="/p", detail="d", retry_after=2.0),
    *(
        kind("x", status=status, method="GET", path="/p", detail="d")
        for kind, status in [
            (errors.ApiError, 302),
            (errors.AuthenticationError, 401),
            (errors.PermissionDeniedError, 403),
            (errors.NotFoundError, 404),
            (errors.InvalidRequestError, 422),
            (errors.ServerError, 500),
        ]
    ),
]


def test_all_kinds_are_tried_here() -> None:
    kinds = {k for _, k in inspect.getmembers(errors, inspect.isclass) if issubclass(k, errors.ParlantSyncError)}
    assert {type(e) for e in INSTANCES} == kinds


@pytest.mark.parametrize("error", INSTANCES, ids=lambda e: type(e).__name__)
def test_pickled_and_copied_whole(error: errors.ParlantSyncError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), errors.copy_for_waiter(error)):
        assert type(again) is type(error)
        assert again is not error
        assert str(again) == str(error) == "x"
        assert again.__dict__ == error.__dict__


def test_the_tree() -> None:
    assert issubclass(errors.ConfigurationError, ValueError)
    assert issubclass(errors.TurnTimeout, TimeoutError)
    for kind in (errors.NotFoundError, errors.RateLimitedError, errors.ServerError, errors.InvalidRequestError):
        assert issubclass(kind, errors.ApiError)
    for kind in {type(e) for e in INSTANCES}:
        assert kind.__name__ in (errors.__doc__ or "")


def test_a_copy_names_the_first_cause() -> None:
    first = errors.NotFoundError("gone", status=404)
    copied = errors.copy_for_waiter(first)
    assert copied.__cause__ is first
    other = KeyError("not ours")
    assert errors.copy_for_waiter(other) is other


@pytest.mark.parametrize(
    ("detail", "summary"),
    [
        ("", ""),
        ("boom", "boom"),
        ("Traceback (most recent call last):\n  File x\nValueError: no   model\n\n", "ValueError: no model"),
        ("x" * 500, "x" * 300),
        ("\n" * 1_000_000 + "the end" + " \n" * 1000, "the end"),
    ],
)
def test_the_summary_of_an_agent_error_is_one_line(detail: str, summary: str) -> None:
    assert errors.AgentError("x", detail=detail, partial=REPLY).summary == summary
    assert errors.AgentError("x", detail=detail, summary="given", partial=REPLY).summary == "given"
