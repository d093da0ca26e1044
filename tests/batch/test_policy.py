"""What failures mean, how fast messages may go, and how long the server's trouble is borne."""

from __future__ import annotations

import pickle

import pytest
from support.waiting import Clock

import parlant_sync as ps
from parlant_sync.batch import policy
from parlant_sync.batch.policy import Rate, Trouble, Verdict, is_away, judge
from parlant_sync.batch.worker import Answer, Config, failure

PAGE = "<html>maintenance</html>"


def page(error: ps.ApiError) -> ps.ApiError:
    """A proxy has written it, and not Parlant."""
    error.from_parlant = False
    return error


REFUSED = ps.TransportError("refused")
LIMITED = ps.RateLimitedError("429", retry_after=2.0)
BROKEN = page(ps.ServerError("500", status=500, detail="Internal Server Error"))
PROXY = page(ps.ServerError("503", status=503, detail=PAGE))
GONE = ps.NotFoundError("404", status=404, detail="Session not found (id='s')")
NOWHERE = page(ps.NotFoundError("404", status=404, detail="404 page not found"))
MOVED = page(ps.ApiError("302", status=302, detail=""))
CLOSED_SHOP = page(ps.PermissionDeniedError("403", status=403, detail=PAGE))
SLOW = page(ps.ApiError("408", status=408, detail=""))
LOGIN = page(ps.AuthenticationError("401", status=401, detail=PAGE))
FORBIDDEN = ps.PermissionDeniedError("403", status=403, detail="not allowed")
DENIED = ps.AuthenticationError("401", status=401, detail="no")
NO_JSON = ps.ProtocolError("200, but not with what a Parlant server sends")
INVALID = ps.InvalidRequestError("422", status=422, detail="too long")
UNCERTAIN = ps.DeliveryUncertain("?", key="k", session_id="s")
TIMEOUT = ps.TurnTimeout("late", partial=ps.Reply("so far", "answered"))
AGENT = ps.AgentError("boom", partial=ps.Reply("half", "answered"))


@pytest.mark.parametrize(
    ("error", "opening", "looking", "asking"),
    [
        (REFUSED, Verdict.WAIT, Verdict.WAIT, Verdict.WAIT),
        (LIMITED, Verdict.WAIT, Verdict.WAIT, Verdict.WAIT),
        (BROKEN, Verdict.WAIT, Verdict.WAIT, Verdict.LOOK),
        (PROXY, Verdict.WAIT, Verdict.WAIT, Verdict.LOOK),
        (NOWHERE, Verdict.WAIT, Verdict.WAIT, Verdict.LOOK),
        (MOVED, Verdict.WAIT, Verdict.WAIT, Verdict.LOOK),
        (CLOSED_SHOP, Verdict.WAIT, Verdict.WAIT, Verdict.LOOK),
        (SLOW, Verdict.WAIT, Verdict.WAIT, Verdict.LOOK),
        (LOGIN, Verdict.WAIT, Verdict.WAIT, Verdict.LOOK),
        (NO_JSON, Verdict.WAIT, Verdict.WAIT, Verdict.LOOK),
        (UNCERTAIN, Verdict.OVER, Verdict.OVER, Verdict.LOOK),
        (GONE, Verdict.OVER, Verdict.ANEW, Verdict.LOOK),
        (FORBIDDEN, Verdict.OVER, Verdict.OVER, Verdict.OVER),
        (INVALID, Verdict.OVER, Verdict.OVER, Verdict.OVER),
        (TIMEOUT, Verdict.OVER, Verdict.OVER, Verdict.OVER),
        (AGENT, Verdict.OVER, Verdict.OVER, Verdict.OVER),
        (DENIED, Verdict.STOP, Verdict.STOP, Verdict.STOP),
    ],
)
def test_what_failures_mean(error: ps.ParlantSyncError, opening: Verdict, looking: Verdict, asking: Verdict) -> None:
    for stages, expected in ((["open"], opening), (["look"], looking), (["post", "ask", "wait"], asking)):
        for stage in stages:
            answer = failure(error, 1.0)
            assert judge(stage, answer, own=True, tries_left=True, was_away=False) is expected, stage


@pytest.mark.parametrize("error", [BROKEN, PROXY, NOWHERE, MOVED, UNCERTAIN, GONE])
def test_what_may_be_the_row_s_own_fault_is_not_tried_for_ever(error: ps.ParlantSyncError) -> None:
    assert judge("ask", failure(error, 1.0), own=True, tries_left=False, was_away=True) is Verdict.OVER


def test_the_time_of_an_outage_does_not_count() -> None:
    assert judge("ask", failure(TIMEOUT, 9.0), own=True, tries_left=True, was_away=True) is Verdict.LOOK


def test_a_given_session_that_is_gone_is_not_replaced() -> None:
    assert judge("look", failure(GONE, 0.0), own=False, tries_left=True, was_away=False) is Verdict.OVER


def test_a_failure_keeps_what_was_said_and_pickles() -> None:
    answer = failure(TIMEOUT, 2.0, "hello")
    assert answer.turn is not None
    assert (answer.status, answer.turn.message, answer.turn.text, answer.error) == (
        "timed_out", "hello", "so far", "late",
    )  # fmt: skip
    plain = "session s: no keys are kept, and there is such a message; it may be this row's"
    assert failure(ps.DeliveryUncertain(plain, key="k", session_id="s"), 0.0).error == plain
    again = pickle.loads(pickle.dumps(failure(LIMITED, 0.0)))
    assert isinstance(again.cause, ps.RateLimitedError)
    assert again.cause.retry_after == 2.0
    assert failure(AGENT, 0.0).status == "failed"
    assert failure(KeyError("x"), 0.0).error == "unexpected KeyError: 'x'"
    assert pickle.loads(pickle.dumps(Answer("answered"))) == Answer("answered")


def test_a_config_shows_no_secret() -> None:
    config = Config("http://x", {"token": "sesame"})
    assert "sesame" not in repr(config)
    assert pickle.loads(pickle.dumps(config)) == config


# -- pace


def test_a_rate_spreads_messages_out() -> None:
    clock = Clock(100.0)
    rate = Rate(30, clock=clock)
    waits = []
    for _ in range(3):
        waits.append(rate.wait())
        clock.now += waits[-1]
        rate.take()
    assert waits == [0.0, 2.0, 2.0]
    clock.now += 60.0  # what was not used is not saved up
    rate.take()
    assert rate.wait() == 2.0


@pytest.mark.parametrize(("error", "pauses"), [(LIMITED, [5, 10, 20, 40, 60]), (REFUSED, [1, 2, 4, 8, 10])])
def test_pauses_grow_one_by_one(error: ps.ParlantSyncError, pauses: list[float]) -> None:
    clock = Clock(100.0)
    trouble = Trouble(clock=clock)
    found = []
    for _ in range(5):
        trouble.failed(error, write=True)
        trouble.failed(error, write=True)  # under way at the same time
        found.append(trouble.pause_left())
        clock.now += found[-1]
    assert found == pauses
    trouble.succeeded(write=True)
    trouble.failed(REFUSED, write=True)
    assert trouble.pause_left() == 1.0


@pytest.mark.parametrize(("wish", "pause"), [(30.0, 30.0), (86_400.0, 300.0)])
def test_a_wish_of_the_server_is_respected_within_limits(wish: float, pause: float) -> None:
    trouble = Trouble(clock=Clock(100.0))
    trouble.failed(LIMITED, write=True)
    trouble.failed(ps.RateLimitedError("429", retry_after=wish), write=True)
    assert trouble.pause_left() == pause


@pytest.mark.parametrize(
    ("error", "patience"), [(REFUSED, policy.PATIENCE), (MOVED, policy.PATIENCE), (LIMITED, 300.0)]
)
def test_patience_is_that_of_the_run(error: ps.ParlantSyncError, patience: float) -> None:
    """Each row has its own failure, and the first one counts: rows must not begin their minutes one after another."""
    clock = Clock(100.0)
    trouble = Trouble(clock=clock)
    for _ in range(6):
        trouble.failed(error, write=True)
        assert trouble.gave_up() is None
        clock.now += patience / 6
    trouble.failed(error, write=True)
    assert trouble.gave_up() is error
    trouble.succeeded(write=True)
    assert trouble.gave_up() is None


def test_a_server_that_shows_everything_and_takes_nothing_is_in_trouble() -> None:
    clock = Clock(100.0)
    trouble = Trouble(clock=clock)
    trouble.failed(PROXY, write=True)
    clock.now += 30
    trouble.succeeded(write=False)
    assert trouble
    clock.now += 30
    trouble.failed(PROXY, write=True)
    assert trouble.gave_up() is PROXY
    trouble.succeeded(write=True)
    assert not trouble


def test_what_a_progress_line_says_of_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", policy.logger.name)
    clock = Clock(100.0)
    trouble = Trouble(clock=clock)
    assert trouble.text() == ""
    trouble.failed(ps.RateLimitedError("429", retry_after=20), write=True)
    assert trouble.text() == "429: next in 20 s"
    trouble.succeeded(write=True)
    clock.now += 20
    trouble.failed(REFUSED, write=False)
    clock.now += 0.9
    assert trouble.text() == "server not reached for 1 s: trying"
    trouble.succeeded(write=False)
    trouble.failed(PROXY, write=False)
    assert trouble.text().startswith("server answers 503 for 0 s")
    assert [record.getMessage() for record in caplog.records][:2] == [
        "all rows wait: 429", "the server answers again; the rows go on",
    ]  # fmt: skip


def test_trouble_is_remembered_for_the_turns_that_it_has_hit() -> None:
    clock = Clock(100.0)
    trouble = Trouble(clock=clock)
    assert not trouble.was_there(1000)
    trouble.failed(REFUSED, write=False)
    assert trouble.was_there(0.1)
    trouble.succeeded(write=False)
    clock.now += 10
    assert trouble.was_there(20)
    assert not trouble.was_there(5)


def test_only_parlant_s_own_refusals_are_refusals() -> None:
    assert [is_away(error) for error in (GONE, FORBIDDEN, DENIED, BROKEN, INVALID)] == [False] * 5
    assert [is_away(error) for error in (NOWHERE, CLOSED_SHOP, MOVED, PROXY, NO_JSON, REFUSED)] == [True] * 6
