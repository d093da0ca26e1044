"""Reading JSON: what is refused, what is kept, and what it may cost."""

from __future__ import annotations

import json
import random
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.raw_api import in_background

from parlant_sync import errors
from parlant_sync._http import codec
from parlant_sync._http.codec import MAX_DEPTH, MAX_MARKS, decode_json, is_deep


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff\xfe", b'[{"offset": 1}'])
def test_broken_json_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of any text
        decode_json(body)


def test_strange_json_is_kept() -> None:
    digits = "7" * 5000
    assert decode_json(b'{"n": %s}' % digits.encode()) == {"n": digits}
    assert decode_json(b'"\\ud800"') == "\ud800"
    assert json.loads(json.dumps(decode_json(b"[NaN, Infinity]"), allow_nan=False)) == ["NaN", "Infinity"]
    assert decode_json(b"\xef\xbb\xbf[1]") == [1]


def lists(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def objects(depth: int) -> bytes:
    return b'{"a":' * depth + b"0" + b"}" * depth


def with_neighbours(depth: int) -> bytes:
    pairs, odd = divmod(depth - 1, 2)
    return b'[{},{"a":' * pairs + b"[" * odd + b"[]" + b"]" * odd + b',"b":[]},[]]' * pairs


def with_brackets_in_texts(depth: int) -> bytes:
    return b'["}]]",' * depth + b"0" + b"]" * depth


@pytest.mark.parametrize("nest", [lists, objects, with_neighbours, with_brackets_in_texts])
def test_how_deep_it_may_be(nest: Callable[[int], bytes]) -> None:
    assert decode_json(nest(MAX_DEPTH))
    assert not is_deep(decode_json(nest(MAX_DEPTH)))
    assert is_deep(json.loads(nest(MAX_DEPTH + 1)))
    with pytest.raises(ValueError, match="too deeply"):
        decode_json(nest(MAX_DEPTH + 1))


@pytest.mark.parametrize(
    "text", ["[" * 5000, "}" * 5000, "[]" * 5000, "{[" * 5000, "]" * 500 + '"' + "{" * 500, "\\", '\\"[[' * 200]
)
def test_brackets_in_a_text_are_none(text: str) -> None:
    body = json.dumps([{"offset": 1, "text": text}])
    assert decode_json(body.encode()) == json.loads(body)


def test_everybody_comes_to_the_same_result() -> None:
    """However deep in its own calls: Python's limit is one for both."""
    body = lists(MAX_DEPTH)

    def deeper(levels: int) -> Any:
        return deeper(levels - 1) if levels else decode_json(body)

    assert deeper(sys.getrecursionlimit() // 2) == decode_json(body)


def test_how_many_values_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before anything is made of it."""
    monkeypatch.setattr(codec, "_decoded", lambda body: "made")
    assert decode_json(b"[" + b"{}," * (MAX_MARKS // 3 - 2) + b"{}]") == "made"
    for many in (b"{},", b"[],", b"0,,,"):
        with pytest.raises(ValueError, match="more than 8,000,000"):
            decode_json(b"[" + many * (MAX_MARKS // 3 + 1) + b"0]")


def test_no_memory_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(body: bytes) -> Any:
        raise MemoryError

    monkeypatch.setattr(codec, "_decoded", decoded)
    with pytest.raises(ValueError, match="memory") as caught:
        decode_json(b"[]")
    assert caught.value.__context__ is None  # whose frames would hold what there was no memory for


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'[{"a":' * 50_000 + b"1" + b"}]" * 50_000,
        b'["' + b"[" * 300 + b'",' + b"[" * 201 + b"]" * 201 + b"]",
    ],
)
def test_what_is_deep_is_never_decoded(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a small stack the decoder of Python 3.12 and 3.13 crashes the process."""
    monkeypatch.setattr(codec, "_decoded", lambda body: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="nested too deeply"):
        codec.decode_json(body)


def test_a_value_that_holds_itself_is_not_posted() -> None:
    endless: list[object] = []
    endless += [endless, endless]  # each level of it is twice as long as the last
    with pytest.raises(errors.ConfigurationError, match="deep"):
        codec.encode(endless)


def test_deep_json_on_a_small_stack() -> None:
    size = threading.stack_size(256 * 1024)
    try:
        with pytest.raises(ValueError, match="nested too deeply"):
            in_background(codec.decode_json, b"[" * 100_000).result()
        nested = b"[" * 200 + b"]" * 200
        assert in_background(codec.decode_json, nested).result() is not None
        with pytest.raises(errors.ConfigurationError):
            in_background(codec.encode, json.loads(b"[" * 600 + b"]" * 600)).result()
    finally:
        threading.stack_size(size)


# -- the extra "speed"

STRANGE = [
    *b"-0 -0.0 1e400 -1e400 1E5 0.1234567890123456789 2.5e-324 NaN [-Infinity]".split(),
    *(
        b"%d" % (sign * (base + off))
        for base in (2**53, 2**63, 2**64, 10**18)
        for sign in (1, -1)
        for off in (-1, 0, 1)
    ),
    *(b"7" * 5000, b"[1.%s]" % (b"3" * 400), b'{"n": 18446744073709551616}', b'["18446744073709551616"]'),
    *rb'"\ud800" "\ud83d\ude00" "\u0000"'.split(),
    *(b'"\xed\xa0\x80"', b'"\xff"', b'"\x00"', b'"\x7f"', '"\u2028é"'.encode()),
    *(b"\xef\xbb\xbf[1]", b" \t\r\n[1]\n ", b"\x0b1", b"\xc2\xa01", b"[1]\x00", b"", b" "),
    *b"[1,] 01 1. .5 +1 - {1:2} {'a':1} nul null True true".split(),
    *(b'{"a": 1, "a": 2}', b'{"a" 1}', b"[1 2]", b"[] []", b"//x\n1"),
]


def outcome(body: bytes) -> str:
    """The value with the types of its parts, or how it is refused."""
    try:
        return repr(decode_json(body))
    except ValueError as error:
        return f"{type(error).__name__}: {error}"


def assert_same(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(codec, "_LONG", 0)
        with_orjson = outcome(body)
        patch.setattr(codec, "_orjson", lambda: None)
        assert with_orjson == outcome(body), body[:200]


@pytest.mark.parametrize("body", STRANGE)
def test_orjson_gives_what_json_gives(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert codec._orjson() is pytest.importorskip("orjson").loads
    assert_same(body, monkeypatch)


def _value(dice: random.Random, depth: int) -> Any:
    kind = dice.randrange(9 if depth else 7)
    if kind < 3:
        characters = 'ab"\\/[]{},:\n\x00\x7fé\u2028\ud800😀0123456789'
        return "".join(dice.choices(characters, k=dice.choice((0, 3, 30))))
    if kind < 5:
        return dice.choice((1, -1)) * dice.getrandbits(dice.choice((1, 31, 53, 63, 64, 65, 200)))
    if kind == 5:
        return dice.choice((dice.uniform(-1, 1) * 10.0 ** dice.randrange(-320, 309), float("inf"), float("nan"), -0.0))
    if kind == 6:
        return dice.choice((None, True, False))
    parts = [_value(dice, depth - 1) for _ in range(dice.randrange(5))]
    return parts if kind == 7 else {str(_value(dice, 0)): part for part in parts}


@pytest.mark.parametrize("seed", range(20))
def test_orjson_gives_what_json_gives_for_anything(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if some of its bytes are others, or missing."""
    pytest.importorskip("orjson")
    dice = random.Random(seed)
    for _ in range(100):
        text = json.dumps(_value(dice, 4), ensure_ascii=dice.random() < 0.5, indent=dice.choice((None, 1)))
        body = text.encode("utf-8", "surrogatepass")
        assert_same(body, monkeypatch)
        at = dice.randrange(len(body))
        assert_same(
            body[:at] + bytes(dice.choices(b'[]{}",:\\-.eE019 \xff', k=dice.randrange(3))) + body[at + 1 :], monkeypatch
        )
