"""The text of an engine's error: foreign, large, and never evaluated."""

from __future__ import annotations

import pprint
import time
from collections.abc import Callable
from typing import Any

import pytest

from parlant_sync._turns.engine_errors import error_detail, summary_of
from parlant_sync.events import Event


def error(data: Any) -> Event:
    return Event(
        {"offset": 0, "kind": "status", "data": {"status": "error", **({} if data is None else {"data": data})}}
    )


LINES = [
    "Traceback (most recent call last):\n",
    '  File "a.py", line 1\n',
    "    f('x')\n",
    "KeyError: 'a \"b\"' \\ 한\n",
]


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (None, ""),
        ({}, ""),
        ({"exception": 3}, ""),
        ({"exception": "boom"}, "boom"),
        ({"message": "the service is down"}, "the service is down"),
        ({"exception": LINES}, "".join(LINES)),
        ({"exception": repr(LINES)}, "".join(LINES)),
        ({"exception": pprint.pformat(LINES)}, "".join(LINES)),  # as all servers send it
        ({"exception": pprint.pformat(LINES, width=20)}, "".join(LINES)),
        ({"exception": repr(["one line"])}, "one line"),
        ({"exception": [1, "a", None]}, "a"),
    ],
)
def test_detail(data: Any, detail: str) -> None:
    found = error_detail(error(data))
    assert found.rstrip("\n") == detail.rstrip("\n")


@pytest.mark.parametrize(
    "long", ["x" * 4_000_000, "ab\n" * 1_000_000, "\\" * 3_000_000, "['" + "\\n', '" * 500_000 + "']"]
)
@pytest.mark.parametrize("form", [repr, "[{0[0]!r},\n {0[1]!r}]".format, None])
def test_a_long_text_is_cut_and_takes_no_time(long: str, form: Callable[[list[str]], str] | None) -> None:
    text = form([long, "RuntimeError: boom\n"]) if form else f"{long}\nRuntimeError: boom"
    started = time.perf_counter()
    detail = error_detail(error({"exception": text}))
    assert detail.rstrip().endswith("RuntimeError: boom")
    assert len(detail) <= 8192
    assert 0 < len(summary_of(detail)) <= 300
    assert time.perf_counter() - started < 1.0


def test_a_cut_list_begins_with_a_whole_line() -> None:
    """Also if the cut is inside one of the pieces of a long line, and if all is one line."""
    lines = [f"line {number}: {'word ' * 30}\n" for number in range(200)]
    for cut in range(200):
        detail = error_detail(error({"exception": pprint.pformat([*lines, "x" * cut + "\n"])}))
        assert "'" not in detail
        assert detail.endswith("word \n" + "x" * cut + "\n")
    assert error_detail(error({"exception": repr(["word " * 9000 + "boom\n"])})).endswith("word word boom\n")


def test_a_cut_leaves_no_half_of_a_secret() -> None:
    secret = "s3cret-token-" * 3
    for shift in range(len(secret)):
        text = f"{secret} {'x' * (8192 - shift)}"
        assert "token" not in error_detail(error({"exception": text}))


@pytest.mark.parametrize(
    ("detail", "said"),
    [
        ("boom", "boom"),
        (
            "1 validation error for Schema\nfield\n  Input should be a string\n    For further information visit x",
            "1 validation error for Schema field Input should be a string For further information visit x",
        ),
        (
            'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\n    f()\n    ~^^\nKeyError: 1\n\n'
            "During handling of the above exception, another exception occurred:\n\n"
            'Traceback (most recent call last):\n  File "a.py", line 3, in f\n    g()\nValueError: two\n  lines\n',
            "ValueError: two lines",
        ),
        ("Traceback (most recent call last):\nRuntimeError: boom", "RuntimeError: boom"),
        ("", "no detail"),
    ],
)
def test_summary(detail: str, said: str) -> None:
    assert summary_of(detail) == said
