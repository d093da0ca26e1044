"""What a test gives is looked at when it is given."""

from __future__ import annotations

import pytest
from support.raw_api import brief


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda agent: agent.when_interrupted("foo"), "'auto', 'cancel', 'finish', 'late', 'stop'; not 'foo'"),
        (lambda agent: agent.waits("g", at="nowhere"), "'acknowledge', 'start', .*; not 'nowhere'"),
        (lambda agent: agent.fails(at="nowhere"), "'preamble', 'match', 'answer'; not 'nowhere'"),
        (lambda agent: agent.streams("a b", every=-1), "0 or more seconds, not -1"),
        (lambda agent: agent.streams("a b", breaks_after=-1), "number of pieces, not -1"),
        (lambda agent: agent.after(-0.1), "0 or more seconds"),
        (lambda agent: agent.paced(float("nan")), "0 or more seconds"),
        (lambda agent: agent.replies("fine", then="\ud800"), "a reply holds a lone surrogate"),
        (lambda agent: agent.echoes("\ud800"), "the prefix holds a lone surrogate"),
        (lambda agent: agent.streams(["a", "\ud800"]), "a piece holds a lone surrogate"),
        (lambda agent: agent.fails("\ud800"), "the exception holds a lone surrogate"),
        (lambda agent: agent.fails(saying="\ud800"), "saying holds a lone surrogate"),
        (lambda agent: agent.with_preamble("\ud800"), "the preamble holds a lone surrogate"),
        (lambda agent: agent.with_tool("t", {"a": "\ud800"}), "the call holds a lone surrogate"),
        (lambda agent: agent.with_tool("t", emits=[{"kind": "x"}]), 'a tool emits a "status", a "message" or'),
        (lambda agent: agent.hook_answers("\ud800"), "the hook's message holds a lone surrogate"),
        (lambda agent: agent.emits({"kind": "custom", "data": "\ud800"}), "an event holds a lone surrogate"),
    ],
)
def test_a_wrong_script_is_refused_where_it_is_written(api, write, told):
    agent = api.server.agent("support")
    with pytest.raises(ValueError, match=told):
        write(agent)
    told_anyway = [brief(e) for e in api.turn(api.session(), "hi")]
    assert "echo: hi" in told_anyway


def test_what_has_no_json_is_refused_where_it_is_written(api):
    agent = api.server.agent("support")
    with pytest.raises(TypeError, match="the call has no JSON"):
        agent.with_tool("t", result={1, 2})
    with pytest.raises(TypeError, match="an event has no JSON"):
        agent.emits({"kind": "custom", "data": {1, 2}})
    with pytest.raises(TypeError, match="a reply must be a text, not int"):
        agent.replies(5)
    session = api.session()
    for write in (lambda: api.server.say(session, "\ud800"), lambda: api.server.human(session, "\ud800")):
        with pytest.raises(ValueError, match="the message holds a lone surrogate"):
            write()
    assert api.events(session) == []
