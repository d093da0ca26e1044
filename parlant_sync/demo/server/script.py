"""Directives: what a test asks of an agent, in square brackets at the beginning of a message.

``[slow=2][parts=3] hello`` is the message ``hello`` with two directives. They are read here and
obeyed by the NLP service, so that everything else is Parlant's own doing.

==================  ===================================================================
``[echo]``          answer ``echo: <rest>``, also where the agent would answer otherwise
``[slow=S]``        the answer takes S seconds to generate
``[slowmatch=S]``   so does guideline matching, where a turn can still be cancelled
``[gate=NAME]``     the answer waits until the test opens gate NAME
``[gatematch=..]``  the same while guidelines are matched
``[gatepreamble=]`` the same for the preamble: it comes late, even after a cancelled turn
``[gatemid=..]``    the same in the middle of a streamed answer
``[pace=S]``        pause between the words of a streamed answer
``[parts=N]``       an answer of N messages (plain agents), 1.5 s apart or more
``[silent]``        a turn without a message
``[fail]``          the engine fails and reports an ``error``
``[fail=STAGE]``    STAGE is ``preamble`` (as ``[fail]``), ``match`` (the engine tries for 5 s
                    before it reports) or ``answer`` (plain agents: from 3.1 on an empty turn)
``[break]``         a streamed answer breaks in its middle
==================  ===================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

STAGES = ("preamble", "match", "answer")

_DIRECTIVE = re.compile(r"\s*\[([a-z]+)(?:=([^\[\]]+))?\]")
_GATE = re.compile(r"[A-Za-z0-9_.-]{1,100}\Z")


def _seconds(value: str) -> bool:
    try:
        return 0 <= float(value) < 1e6
    except ValueError:
        return False


# What a directive's value must look like; None: it has none.
_VALUES: Mapping[str, Callable[[str], bool] | None] = {
    "echo": None,
    "silent": None,
    "break": None,
    "slow": _seconds,
    "slowmatch": _seconds,
    "pace": _seconds,
    "parts": lambda value: value.isdecimal() and 1 <= int(value) <= 50,
    "fail": lambda value: value in STAGES,
    "gate": lambda value: _GATE.match(value) is not None,
    "gatepreamble": lambda value: _GATE.match(value) is not None,
    "gatematch": lambda value: _GATE.match(value) is not None,
    "gatemid": lambda value: _GATE.match(value) is not None,
}
_OPTIONAL = {"fail": "preamble"}


@dataclass(frozen=True)
class Script:
    """A customer's message, taken apart."""

    text: str
    directives: Mapping[str, str] = field(default_factory=dict)

    def seconds(self, name: str, default: float = 0.0) -> float:
        return float(self.directives[name]) if name in self.directives else default

    @property
    def parts(self) -> int:
        return int(self.directives.get("parts", "1"))

    def fails(self, stage: str) -> bool:
        return self.directives.get("fail") == stage

    def __contains__(self, name: str) -> bool:
        return name in self.directives


def parse(message: str) -> Script:
    """Split *message* into its directives and the rest.

    What is not a known directive with a sensible value is text: ``[1] see the footnote`` is
    nothing but a message.
    """
    directives: dict[str, str] = {}
    position = 0
    while match := _DIRECTIVE.match(message, position):
        name, value = match.group(1), match.group(2)
        if name not in _VALUES:
            break
        check = _VALUES[name]
        if value is None:
            if check is not None and name not in _OPTIONAL:
                break
            value = _OPTIONAL.get(name, "")
        elif check is None or not check(value):
            break
        directives[name] = value
        position = match.end()
    return Script(text=message[position:].strip() if directives else message, directives=directives)
