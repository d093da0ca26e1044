"""What is asked of the server when a session is changed, and what it has not kept."""

from __future__ import annotations

from typing import Any

from parlant_sync import _validation as check
from parlant_sync.events import SessionInfo, read_session


def info(**known: Any) -> SessionInfo:
    return read_session({"id": "s", **known})


def body(known: SessionInfo, **wanted: Any) -> dict[str, Any]:
    return check.session_changes(
        known, **(dict.fromkeys(("title", "mode", "customer_id", "metadata", "labels")) | wanted)
    )


def test_only_what_is_given_is_changed() -> None:
    assert body(info()) == {}
    assert body(info(), title="t", mode="manual") == {"title": "t", "mode": "manual"}
    assert body(info(), customer_id="c") == {"customer_id": "c"}
    assert body(info(), title="") == {"title": ""}


def test_metadata_of_none_is_removed() -> None:
    assert body(info(), metadata={"x": 0, "y": None, "z": False}) == {
        "metadata": {"set": {"x": 0, "z": False}, "unset": ["y"]}
    }


def test_labels_are_to_be_these_alone() -> None:
    known = info(labels=["old", "kept", "ancient"])
    assert body(known, labels=["kept", "new"]) == {"labels": {"upsert": ["kept", "new"], "remove": ["ancient", "old"]}}
    assert body(known, labels=[]) == {"labels": {"upsert": [], "remove": ["ancient", "kept", "old"]}}


def test_what_an_old_server_has_dropped_is_told() -> None:
    assert list(check.not_kept(info(), metadata={"x": 1}, labels=["l"])) == [("metadata", "3.1"), ("labels", "3.2")]
    assert list(check.not_kept(info(metadata={"x": 1}, labels=["l", "more"]), metadata={"x": 1}, labels=["l"])) == []


def test_a_customer_that_was_not_taken_is_told() -> None:
    nothing: dict[str, Any] = {"metadata": None, "labels": None}
    assert list(check.not_kept(info(customer_id="old"), **nothing, customer_id="new")) == [("customer_id", "3.1")]
    assert list(check.not_kept(info(customer_id="new"), **nothing, customer_id="new")) == []


def test_what_was_not_wanted_is_not_missed() -> None:
    assert list(check.not_kept(info(), metadata=None, labels=None)) == []
    assert list(check.not_kept(info(), metadata={"removed": None}, labels=[])) == []
