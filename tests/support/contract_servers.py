"""One face for the real server and the stand-in, so that one test case runs against both.

``script()`` gives the text of a message that makes the agent behave in a certain way. The real demo server reads that
out of the text itself; the stand-in is told beforehand, and gets the text alone. So on it a script holds for the
agent's next turn, whoever's message that answers: a test that needs one calls ``script()`` right before it posts.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import itertools
import re
import subprocess
import sys
import uuid
from collections.abc import Mapping
from typing import Any

import pytest
import requests

from parlant_sync.demo.launcher import DemoServer
from parlant_sync.testing import FakeServer
from support.shared_servers import SharedServer, server_python

VERSIONS = ("3.0", "3.1", "3.2", "3.3", "4.0")
ROLES = ("quick", "streamer", "hesitant", "research", "welfare")
PREFIX = {"quick": "echo: ", "hesitant": "echo: ", "streamer": "streamed echo of: "}
PREAMBLE = "Let me see."
BOOM = "boom"
MODES = {"rest": "fluid", "sdk": "canned_fluid"}
_ORDINALS = ("second", "third", "fourth", "fifth")

# What the demonstration's agents are asked, and what has to be in the answer. The last question of each only makes
# sense to who remembers the one before.
TALKS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "research": (
        ("What is peer review?", "Peer review is the examination of a manuscript"),
        ("What is the transformer?", "The transformer is a neural network architecture"),
        ("And when was it published?", "It was published in June 2017"),
    ),
    "welfare": (
        ("What is long-term care insurance?", "Long-term care insurance is the public scheme"),
        ("What does it cost?", "Users pay 10 per cent"),
        ("And who can use it?", "Everybody aged 65 or over"),
    ),
}


def parts(first: str, count: int) -> list[str]:
    """The messages of an answer of so many parts."""
    return [first, *(f"{_ORDINALS[n]} part" for n in range(count - 1))]


class Server:
    """What both have in common: they are reached by HTTP."""

    kind = ""
    moment = 0.0  # seconds in which a turn gets to its first message, also on a busy machine
    base_url = ""
    version: tuple[int, int] = (0, 0)
    agents: Mapping[str, str]

    @property
    def streams(self) -> bool:
        return self.version >= (3, 2)

    @property
    def cancels(self) -> bool:
        """Whether a newer message cancels a turn that has said nothing yet; before 3.2 its POST waits for that turn."""
        return self.version >= (3, 2)

    @property
    def keeps_metadata(self) -> bool:
        return self.version >= (3, 1)

    @property
    def keeps_labels(self) -> bool:
        return self.version >= (3, 2)

    # -- what Compass, the engine of the agents on 4.0, does not do (docs/compatibility.md)

    @property
    def compass(self) -> bool:
        return self.version >= (4, 0)

    @property
    def utters(self) -> bool:
        """Whether guidelines can make the agent speak, and ``allow_greeting``."""
        return not self.compass

    @property
    def hands_over(self) -> bool:
        return not self.compass

    @property
    def splits(self) -> bool:
        """Whether a turn can have several messages, and a preamble."""
        return not self.compass

    @property
    def answers_for_rest_agents(self) -> bool:
        """In 4.0.0a1, the engine of agents made with ``POST /agents`` fails in each turn. The stand-in's does not."""
        return not (self.compass and self.kind == "real")

    @property
    def takes_custom_events(self) -> bool:
        """In 4.0.0a1, each turn of Compass fails after a custom event in the session. The stand-in's does not."""
        return not (self.compass and self.kind == "real")

    def needs(self, ability: str, lacking: str) -> None:
        """Skip the test where this version cannot do that, by its name and with what it lacks."""
        if not getattr(self, ability):
            pytest.skip(f"Parlant {self.version[0]}.{self.version[1]} {lacking}")

    def script(
        self,
        role: str,
        text: str,
        *,
        gate: str | None = None,
        at: str = "answer",
        parts: int = 1,
        between: str | None = None,
        pace: float | None = None,
        ends: str = "",
    ) -> str:
        """The text to send to the agent.

        ``gate``: waits there ``at`` "match" (where a turn can still be cancelled), "preamble", "answer" or "middle" (of
        a streamed answer) until ``release()``. ``parts``: so many messages; the real server takes 1.5 s between them,
        the stand-in until the gate ``between`` opens. ``pace``: seconds between streamed words. ``ends``: "silent",
        "fail" or "break".
        """
        raise NotImplementedError

    def matrix_agent(self, kind: str, messages: Mapping[str, Mapping[str, Any]]) -> str:
        """The id of an agent of that kind, as "rest-natural-block" (support/contract_matrix.py).

        The stand-in has to know what the agent does with each of the *messages*; the real server reads directives.
        """
        raise NotImplementedError

    def make_rest_agent(self) -> str:
        """The id of a new agent, made as any program may do with ``POST /agents``. It echoes."""
        raise NotImplementedError

    def make_customer(self, customer: str) -> str:
        """From 4.0 on, a session's customer has to be known."""
        if self.compass:
            self.request("POST", "/customers", json={"id": customer, "name": customer})
        return customer

    def speaks(self, role: str, text: str) -> None:
        """What the agent says in its next turn without a customer's message; the real server knows by itself."""

    def release(self, gate: str) -> None:
        raise NotImplementedError

    def gate(self) -> str:
        """A gate of its own."""
        return uuid.uuid4().hex

    def echo(self, role: str, text: str) -> str:
        """What the agent answers to that text."""
        return PREFIX[role] + text

    # -- what other people's programs do, past this SDK

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        with requests.Session() as http:
            http.trust_env = False
            answer = http.request(method, self.base_url + path, timeout=20, **options)
        answer.raise_for_status()
        return answer

    def human(self, session_id: str, text: str, *, on_behalf: bool = False) -> None:
        """A human agent writes into the session."""
        source = "human_agent_on_behalf_of_ai_agent" if on_behalf else "human_agent"
        body = {"kind": "message", "source": source, "message": text, "participant": {"display_name": "Dana"}}
        self.request("POST", f"/sessions/{session_id}/events", json=body)

    # -- its life

    def kill(self) -> None:
        """As a crash would end it."""
        raise NotImplementedError

    def restart(self) -> None:
        """The same server again, at the same address; it has its sessions if its store keeps them."""
        raise NotImplementedError


class Real(Server):
    kind = "real"
    moment = 2.0

    def __init__(self, demo: DemoServer | SharedServer) -> None:
        self.demo = demo
        self.base_url = demo.base_url
        self.agents = demo.agents
        self.version = _short(demo.version)

    def script(self, role: str, text: str, **how: Any) -> str:
        gate, at = how.get("gate"), how.get("at", "answer")
        name = {"answer": "gate", "match": "gatematch", "preamble": "gatepreamble", "middle": "gatemid"}[at]
        directives = [f"[{name}={gate}]"] if gate else []
        directives += [f"[parts={how['parts']}]"] if how.get("parts", 1) > 1 else []
        directives += [f"[pace={how['pace']}]"] if how.get("pace") else []
        directives += [f"[{how['ends']}]"] if how.get("ends") else []
        return " ".join(["".join(directives), text]) if directives else text

    def matrix_agent(self, kind: str, messages: Mapping[str, Mapping[str, Any]]) -> str:
        return self.agents[kind]

    def make_rest_agent(self) -> str:
        body = {"name": f"Made by a test {uuid.uuid4().hex}"}
        return str(self.request("POST", "/agents", json=body).json()["id"])

    def release(self, gate: str) -> None:
        self.demo.release(gate)


class Mortal(Real):
    """A real server that is not shared."""

    demo: DemoServer

    def kill(self) -> None:
        self.demo.kill()

    def restart(self) -> None:
        self.demo.restart()


class Fake(Server):
    kind = "fake"
    moment = 0.5

    def __init__(self, version: str, *, keep: bool = False, **options: Any) -> None:
        self.fake = FakeServer(version, **options)
        self.version = _short(version)
        self.agents = {role: role for role in ROLES}
        self._keep = keep
        for role in ROLES:
            self._agent(role)
            self._plain(role)
        self.fake.start()
        self.base_url = self.fake.base_url

    def _agent(self, role: str) -> Any:
        agent = self.fake.agent(role, shared=True)
        agent.forget()
        return agent.with_preamble(PREAMBLE) if role not in ("quick", "streamer") else agent

    def _plain(self, role: str) -> None:
        """How the agent answers what no script was given for."""
        agent = self.fake.agent(role)
        if role in TALKS:
            answers = dict(TALKS[role])
            agent.replies(lambda text: answers.get(text, "I have nothing on that."))
        else:
            agent.echoes(PREFIX[role])

    def script(self, role: str, text: str, **how: Any) -> str:
        agent, answer = self._agent(role), PREFIX.get(role, "echo: ") + text
        ends, count = how.get("ends"), how.get("parts", 1)
        words = re.findall(r"\S+\s*", answer)
        if ends == "silent":
            agent.stays_silent()
        elif ends == "fail":
            agent.fails(f"{BOOM}: told to fail")
        elif ends == "break":
            agent.streams(words, breaks_after=(len(words) + 1) // 2)
        elif role == "streamer":
            agent.streams(words, every=how.get("pace"))
        else:
            agent.replies(*parts(answer, count))
        if how.get("gate"):
            points = {"answer": "answer", "match": "start", "preamble": "preamble", "middle": "chunk"}
            agent.waits(how["gate"], at=points[how.get("at", "answer")])
        if how.get("between"):
            agent.waits(how["between"], at="then")
        self._plain(role)
        return text

    def matrix_agent(self, kind: str, messages: Mapping[str, Mapping[str, Any]]) -> str:
        made, pace, output = kind.split("-")
        agent = self.fake.agent(
            f"{kind}-{uuid.uuid4().hex}",
            composition_mode=MODES.get(made, made),
            preamble=pace == "natural" and self.splits,
        )
        for message, does in messages.items():
            rule, answer, behaviour = agent.when(message), f"echo: {message}", does.get("behaviour")
            if behaviour is None or "{}" in behaviour.text:
                rule.streams(answer) if output == "stream" else rule.replies(answer)
            if behaviour is not None:
                behaviour.script(rule)
            if "gate" in does:
                gate, at = does["gate"]
                rule.waits(gate, at="start" if at == "match" else at)
        return str(agent.id)

    def make_customer(self, customer: str) -> str:
        self.fake.customer(customer, customer)
        return customer

    def make_rest_agent(self) -> str:
        return str(self.fake.agent(uuid.uuid4().hex, composition_mode="fluid").echoes().id)

    def speaks(self, role: str, text: str) -> None:
        self._agent(role).replies(text)
        self._plain(role)

    def release(self, gate: str) -> None:
        self.fake.release(gate)

    def kill(self) -> None:
        self.fake.stop()

    def restart(self) -> None:
        self.fake.restart(keep=self._keep)

    def stop(self) -> None:
        self.fake.stop()


class Watched:
    """A server in a test's hands: opens all its gates in the end, so that no turn of one test holds up the next."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._gates: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def gate(self) -> str:
        self._gates.append(self._server.gate())
        return self._gates[-1]

    def finish(self) -> None:
        with contextlib.suppress(Exception):
            for gate in self._gates:
                self._server.release(gate)


def _short(version: str) -> tuple[int, int]:
    major, minor = itertools.islice(version.split("."), 2)
    return int(major), int(minor)


@functools.cache
def fake_version() -> str:
    """The version that the stand-in is to imitate: that of the real server, as near as it can."""
    code = "import importlib.metadata as m; print(m.version('parlant'))"
    if server_python() != sys.executable:
        installed = subprocess.run([server_python(), "-c", code], capture_output=True, text=True, check=True).stdout
    else:
        try:
            installed = importlib.metadata.version("parlant")
        except importlib.metadata.PackageNotFoundError:
            return VERSIONS[-1]
    short = ".".join(map(str, _short(installed.strip())))
    return short if short in VERSIONS else VERSIONS[-1]
