"""Schemas filled in with the least that is valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Literal, Optional

import pytest

pydantic = pytest.importorskip("pydantic")  # comes with parlant only
pytest.importorskip("parlant")

from parlant_sync.demo.server.nlp import fill, item  # noqa: E402


class Colour(Enum):
    RED = "red"


class Check(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    guideline_id: str
    applies: bool


class Schema(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    text: str
    yes: bool
    count: int
    share: float
    choice: Literal["b", "a"]
    colour: Colour
    maybe: Optional[str]  # noqa: UP045  (as Parlant writes it)
    either: int | str
    checks: Sequence[Check]
    mapping: Mapping[str, Any]
    nested: Check
    anything: Any
    default: str = "kept"


def test_it_fills_in_the_least() -> None:
    assert fill(Schema).model_dump() == {
        "text": "",
        "yes": False,
        "count": 0,
        "share": 0.0,
        "choice": "b",
        "colour": Colour.RED,
        "maybe": None,
        "either": 0,
        "checks": [],
        "mapping": {},
        "nested": {"guideline_id": "", "applies": False},
        "anything": None,
        "default": "kept",
    }


def test_it_takes_values_that_the_schema_has() -> None:
    filled = fill(Schema, text="x", unknown=3)
    assert filled.text == "x"
    assert not hasattr(filled, "unknown")


def test_it_finds_the_items_of_a_list() -> None:
    assert item(Schema, "checks") is Check
    assert item(Schema, "unknown") is None
    assert item(Schema, "text") is None
