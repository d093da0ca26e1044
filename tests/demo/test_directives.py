"""Directives at the beginning of a message."""

from __future__ import annotations

import pytest

from parlant_sync.demo.server.directives import parse


def test_directives_are_taken_off_the_message() -> None:
    script = parse("[slow=0.5] [parts=3][gate=g-1.x]  hello [slow=2] there ")
    assert script.text == "hello [slow=2] there"
    assert script.directives == {"slow": "0.5", "parts": "3", "gate": "g-1.x"}
    assert script.seconds("slow") == 0.5
    assert script.seconds("pace", 0.25) == 0.25
    assert script.parts == 3
    assert "gate" in script
    assert "fail" not in script


@pytest.mark.parametrize(
    "message",
    [
        "hello",
        "  hello ",
        "",
        "[1] see the footnote",
        "[unknown=3] hello",
        "[slow] hello",
        "[slow=] hello",
        "[slow=soon] hello",
        "[slow=-1] hello",
        "[slow=nan] hello",
        "[parts=0] hello",
        "[parts=1.5] hello",
        "[echo=3] hello",
        "[fail=elsewhere] hello",
        "[gate=../../etc/passwd] hello",
        "[gate=a b] hello",
        "[tool=hammer] hello",
        "[hook=sings] hello",
        "[slow=1 hello",
    ],
)
def test_what_is_no_directive_is_text(message: str) -> None:
    script = parse(message)
    assert script.text == message
    assert script.directives == {}


def test_reading_stops_at_the_first_word_that_is_no_directive() -> None:
    script = parse("[echo][nonsense][silent] x")
    assert script.directives == {"echo": ""}
    assert script.text == "[nonsense][silent] x"
