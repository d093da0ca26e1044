"""Directives: what a test asks of an agent, in square brackets at the beginning of a message.

``[slow=2][parts=3] hello`` is the message ``hello`` with two directives. They are read here. The NLP service, the hooks
and the tool of this server obey them; everything else is Parlant's own work.

==================  ===================================================================
``[echo]``          answer ``echo: <rest>``, also if the agent would answer otherwise
``[slow=S]``        the answer takes S seconds to generate
``[slowmatch=S]``   guideline matching takes S seconds; a turn can still be cancelled there
``[gate=NAME]``     the answer waits until the test opens gate NAME
``[gatematch=..]``  the same while guidelines are matched
``[gatepreamble=]`` the same for the preamble: it comes late, even after a cancelled turn
``[gatemid=..]``    the same in the middle of a streamed answer
``[pace=S]``        pause between the words of a streamed answer
``[parts=N]``       an answer of N messages (agents that do not stream), 1.5 s apart or more
``[silent]``        a turn without a message
``[fail]``          the engine fails and reports an ``error``
``[fail=STAGE]``    STAGE is ``preamble`` (as ``[fail]``), ``match`` (the engine tries for 5 s
                    before it reports), ``answer`` (from 3.1 on an empty turn) or ``hook``
                    (every kind of agent reports an ``error`` at once)
``[break]``         a streamed answer breaks in its middle
``[think]``         thinks aloud before it answers (Compass, the other engine of 4.0)
``[refuse=S]``      the server's cost control refuses the turn, for S seconds (Compass)
``[tool=WHAT]``     a tool is called first. It sends a status ``ready`` or ``error``, sends a
                    ``message``, sends a ``custom`` event, or hands the session over (``manual``)
``[hook=WHAT]``     a hook ``answers`` and stops the engine, ``greets`` and lets it go on,
                    ``drops`` the answer, or ``stops`` the engine without a word
==================  ===================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_DIRECTIVE = re.compile(r"\s*\[([a-z]+)(?:=([^\[\]]+))?\]")
_GATE = re.compile(r"[A-Za-z0-9_.-]{1,100}\Z")


def _seconds(value: str) -> bool:
    try:
        return 0 <= float(value) < 1e6
    except ValueError:
        return False


def _gate(value: str) -> bool:
    return _GATE.match(value) is not None


# What the value of a directive must look like; None if it has no value.
_VALUES: Mapping[str, Callable[[str], bool] | None] = {
    "echo": None,
    "silent": None,
    "break": None,
    "think": None,
    "refuse": _seconds,
    "slow": _seconds,
    "slowmatch": _seconds,
    "pace": _seconds,
    "parts": lambda value: value.isdecimal() and 1 <= int(value) <= 50,
    "fail": ("preamble", "match", "answer", "hook").__contains__,
    "tool": ("ready", "error", "message", "custom", "manual").__contains__,
    "hook": ("answers", "greets", "drops", "stops").__contains__,
    "gate": _gate,
    "gatepreamble": _gate,
    "gatematch": _gate,
    "gatemid": _gate,
}
_DEFAULTS = {"fail": "preamble"}


@dataclass(frozen=True)
class Script:
    """A customer's message, split into its directives and its text."""

    text: str
    directives: Mapping[str, str] = field(default_factory=dict)

    def get(self, name: str) -> str | None:
        return self.directives.get(name)

    def seconds(self, name: str, default: float = 0.0) -> float:
        return float(self.directives[name]) if name in self.directives else default

    @property
    def parts(self) -> int:
        return int(self.directives.get("parts", "1"))

    def fails(self, stage: str) -> bool:
        return self.get("fail") == stage

    def __contains__(self, name: str) -> bool:
        return name in self.directives


def parse(message: str) -> Script:
    """Split *message* into its directives and the rest.

    Anything that is not a known directive with a valid value is text: ``[1] see the footnote`` is only a message.
    """
    directives: dict[str, str] = {}
    position = 0
    while match := _DIRECTIVE.match(message, position):
        name, value = match.groups()
        if name not in _VALUES:
            break
        check = _VALUES[name]
        if value is None:
            if check is not None and name not in _DEFAULTS:
                break
            value = _DEFAULTS.get(name, "")
        elif check is None or not check(value):
            break
        directives[name] = value
        position = match.end()
    return Script(text=message[position:].strip() if directives else message, directives=directives)


class ScriptedFailure(RuntimeError):
    """A test asked for this."""

    def __init__(self, what: str) -> None:
        super().__init__(f"boom: the script makes {what} fail")
