"""A Parlant server for tests, in this process: ``FakeServer``. It needs the standard library only.

It does what real servers of 3.0 to 4.0 do (long polls, turns of every kind of agent, interruptions, errors after the
last ``ready``, streaming in place, production limits), and is scripted in a line::

    with FakeServer() as server:
        server.agent("support").replies("Hello", then="How can I help?")

The pytest plugin of this package has it as the fixture ``parlant_server``.
"""

from .agents import AgentScript, HumanScript
from .faults import Hold
from .httpd import Request, Response
from .server import FakeServer

__all__ = ["AgentScript", "FakeServer", "Hold", "HumanScript", "Request", "Response"]
