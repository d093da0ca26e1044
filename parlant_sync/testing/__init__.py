"""A Parlant server for tests, in this process: :class:`FakeServer`. Standard library only.

It is faithful to what real servers of 3.0 to 3.3 do (long polls, turns, preambles, interruptions, errors after the last
``ready``, streaming in place, production limits), and scripted in a line::

    with FakeServer() as server:
        server.agent("support").replies("Hello", then="How can I help?")

The pytest plugin of this package has it as the fixture ``parlant_server``.
"""

from .agents import AgentScript
from .faults import Hold
from .messages import Request, Response
from .server import FakeServer

__all__ = ["AgentScript", "FakeServer", "Hold", "Request", "Response"]
