"""The poller's loop, step by step, without a thread where that will do."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import requests
from support.raw_api import in_background
from support.waiting import Clock, must_end, wait_until, within

from parlant_sync import errors
from parlant_sync._api.rate_limit import RateLimiter
from parlant_sync._deadline import Deadline
from parlant_sync._http.connection import Interrupted, RunningRequest
from parlant_sync._polling.event_feed import Mailbox
from parlant_sync._polling.event_hub import EventHub, LogPosition
from parlant_sync._polling.poller import Poller, Use
from parlant_sync.events import Event

GONE = errors.NotFoundError("gone", status=404)


USERS: list[Use] = []


def use(p: Poller, *, start: bool = True) -> Use:
    """Uses the session until its ``__exit__``, or to the end of the test."""
    USERS.append(Use(p, start=start))
    USERS[-1].__enter__()
    return USERS[-1]


class FakeLine:
    wakeable = True

    def __init__(self) -> None:
        self.slot = RunningRequest()
        self.session = requests.Session()
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def drop_inherited(self) -> None:
        self.dropped = True


class Blocked:
    """A poll that goes on until it is woken."""

    def __init__(self) -> None:
        self.began = threading.Event()

    def __call__(self, line: FakeLine) -> BaseException:
        self.began.set()
        wait_until(lambda: line.slot.interrupted)
        return Interrupted("woken")


class Idle:
    """A poll that goes on until the session is out of use, and for some seconds longer."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.began, self.unused = threading.Event(), threading.Event()
        self._clock, self._seconds = clock, seconds

    def __call__(self) -> list[int]:
        self.began.set()
        assert self.unused.wait(5)
        self._clock.now += self._seconds
        return []


class FakeApi:
    """Answers polls from a script: lists of offsets, exceptions, or callables."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.asked: list[tuple[int, int]] = []
        self.lines: list[FakeLine] = []
        self.transport = SimpleNamespace(base_url="http://there", line=self._line)
        self.list_limiter = RateLimiter()

    def _line(self) -> FakeLine:
        self.lines.append(FakeLine())
        return self.lines[-1]

    def poll(self, line: FakeLine, session_id: str, *, min_offset: int, wait: int, slack: float) -> Any:
        self.asked.append((min_offset, wait))
        step = self.script.pop(0) if self.script else GONE
        if callable(step):
            step = step(line) if isinstance(step, Blocked) else step()
        if isinstance(step, BaseException):
            raise step
        return [Event({"offset": o}) for o in step], 10


def poller(api: FakeApi, hub: EventHub | None = None, **options: Any) -> Poller:
    options = {"poll_wait": 60, "idle_timeout": float("inf"), "backoff": lambda n: 0.0, **options}
    return Poller("s1", api, hub or EventHub(0), **options)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    yield
    USERS.clear()
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith("parlant-sync"):
            thread.join(5)
            assert not thread.is_alive()


def run_to_the_end(p: Poller) -> None:
    use(p)
    assert p.join(Deadline(10))


def test_polls_ask_for_what_comes_after_the_largest_offset() -> None:
    api, hub = FakeApi([0, 1, 2], [5], [5, 4, 9], []), EventHub(0)
    run_to_the_end(poller(api, hub))
    assert [offset for offset, _ in api.asked] == [0, 3, 6, 10, 10]
    assert hub.place.next == 10


@pytest.mark.parametrize(("took", "expected"), [(60, []), (0, [1, 2, 3])], ids=["in time", "early"])
def test_only_empty_answers_that_come_early_back_off(clock: Clock, took: float, expected: list[int]) -> None:
    pauses: list[int] = []

    def empty() -> list[int]:
        clock.now += took
        return []

    run_to_the_end(poller(FakeApi(empty, empty, empty), clock=clock, backoff=lambda n: pauses.append(n) or 0.0))
    assert pauses == expected


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "trouble",
    [
        errors.TransportError("down"),
        errors.ServerError("failed", status=502),
        errors.ProtocolError("html"),
        errors.InvalidRequestError("?", status=422),
        errors.ApiError("redirect", status=302),
        RuntimeError("a bug of a token callable"),
        SystemExit("a token callable that has given up"),
        Mute(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_failed_poll_is_repeated_at_the_same_offset_after_a_pause(trouble: Exception) -> None:
    pauses: list[int] = []
    api, hub = FakeApi([0], trouble, trouble, [1], trouble), EventHub(0)
    p = poller(api, hub, backoff=lambda n: pauses.append(n) or 0.0)
    run_to_the_end(p)
    # After a failure, for a short wait: to notice soon that the server is back.
    assert api.asked == [(0, 60), (1, 60), (1, 1), (1, 1), (2, 60), (2, 1)]
    assert pauses == [1, 2, 1]
    assert p.counts.failures == 3
    assert p.counts.reconnects == 1


@pytest.mark.parametrize(
    "cause",
    [GONE, errors.AuthenticationError("no", status=401), errors.PermissionDeniedError("no", status=403)],
    ids=lambda e: type(e).__name__,
)
def test_the_error_that_ends_polling_is_passed_on(cause: errors.ApiError) -> None:
    states: list[str] = []
    api, hub = FakeApi([0], cause), EventHub(0)
    p = poller(api, hub)
    p._on_change = lambda: states.append(p.state if hub.ending is None else "ended")
    run_to_the_end(p)
    assert hub.ending is cause
    assert p.state == "ended"
    assert "ended" in states
    assert api.lines[0].closed
    assert p.counts.last_error == str(cause)


def test_a_429_slows_all_pollers_of_the_client() -> None:
    api = FakeApi(errors.RateLimitedError("slow down", status=429, retry_after=30.0))
    p = poller(api)

    def told() -> float:
        p.stop()
        return 0.0

    p._backoff = lambda n: told()
    run_to_the_end(p)
    assert api.list_limiter.delay() > 20


def test_a_bug_in_the_poller_ends_all_waits(caplog: pytest.LogCaptureFixture) -> None:
    hub = EventHub(0)
    run_to_the_end(poller(FakeApi(BaseException("strange")), hub))
    assert isinstance(hub.ending, errors.ParlantSyncError)
    assert "the poller failed" in caplog.text


def test_stop_wakes_a_poll(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    poll = Blocked()
    api = FakeApi(poll)
    p = poller(api, idle_timeout=100, clock=clock)
    use(p).__exit__()
    assert poll.began.wait(5)
    clock.now = 1000
    p.stop()
    assert p.join(Deadline(5))
    assert p.state == "ended"
    assert caplog.text == ""  # it is not parked on its way out
    use(p)  # one-way: a later use starts nothing
    assert len(api.asked) == 1


def test_a_poller_stopped_before_its_first_use_never_starts() -> None:
    api = FakeApi()
    p = poller(api)
    p.stop()
    use(p)
    assert (p.state, api.lines, api.asked) == ("ended", [], [])


def test_stop_cuts_a_pause() -> None:
    paused = threading.Event()

    def backoff(attempt: int) -> float:
        paused.set()
        return 60.0

    p = poller(FakeApi(errors.TransportError("down")), backoff=backoff)
    use(p)
    assert paused.wait(5)
    with within(5):
        p.stop()
        assert p.join(Deadline(10))


def test_a_poll_that_cannot_be_woken_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows, and with adapters of another kind."""
    monkeypatch.setattr(FakeLine, "wakeable", False)
    api = FakeApi()
    run_to_the_end(poller(api))
    assert api.asked == [(0, 5)]


def test_poll_now_asks_again() -> None:
    hub, poll = EventHub(7), Blocked()
    api = FakeApi(poll, GONE)
    p = poller(api, hub)
    use(p)
    assert poll.began.wait(5)
    assert hub.renumber(2, hub.place)
    p.poll_now()
    assert p.join(Deadline(5))
    assert [offset for offset, _ in api.asked] == [7, 2]


def test_join_does_not_wait_in_the_poller_s_own_thread() -> None:
    p = poller(FakeApi())
    joined: list[bool] = []
    p._on_change = lambda: joined.append(p.join(Deadline(60)))  # from both threads
    run_to_the_end(p)
    assert joined == [True, True]


def test_parked_after_idle_time_and_started_again(clock: Clock) -> None:
    hub, idle, parked = EventHub(0), Idle(clock, 60), threading.Event()
    api = FakeApi(idle, idle)
    p = poller(api, hub, idle_timeout=100, clock=clock)
    p._on_change = lambda: parked.set() if p.state == "parked" else None
    use(p).__exit__()
    idle.unused.set()
    assert parked.wait(5)
    # 60 s, then only as long as it may stay: 40 s
    assert api.asked == [(0, 60), (0, 40)]
    assert hub.ending is None
    api.script = [[0, 1]]
    run_to_the_end(p)
    assert (api.asked[2][0], hub.place.next, len(api.lines)) == (0, 2, 2)


class ParkingLock:
    """The poller's lock, and somebody who parks the poller just before a caller gets it."""

    def __init__(self, lock: Any, park: Callable[[], None]) -> None:
        self._lock = lock
        self._park: Callable[[], None] | None = park

    def __enter__(self) -> None:
        park, self._park = self._park, None
        if park is not None:
            park()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _is_owned(self) -> Any:
        return self._lock._is_owned()


def test_a_user_who_comes_while_it_is_being_parked_starts_it_again(clock: Clock) -> None:
    idle, parked = Idle(clock, 600), threading.Event()
    api = FakeApi(idle)
    p = poller(api, idle_timeout=100, clock=clock)
    p._on_change = lambda: parked.set() if p.state == "parked" else None
    use(p).__exit__()
    assert idle.began.wait(5)

    def park() -> None:
        idle.unused.set()
        assert parked.wait(5)

    assert p.state == "polling"
    p._lock = ParkingLock(p._lock, park)  # type: ignore[assignment]
    run_to_the_end(p)
    assert len(api.asked) == 2


def test_a_poller_in_use_is_not_parked(clock: Clock) -> None:
    idle = Idle(clock, 600)
    idle.unused.set()
    api = FakeApi(idle, idle, idle)
    run_to_the_end(poller(api, idle_timeout=40, clock=clock))  # its user does not leave
    assert api.asked == [(0, 40)] * 4  # it may be out of use soon, and is then not to be polled for a minute


def test_the_pause_after_a_429_is_cut_by_stop_alone() -> None:
    api = FakeApi([0])
    api.list_limiter.limited(60.0)
    p = poller(api)
    use(p)
    wait_until(lambda: p.state == "waiting")
    thread = p._thread
    assert thread is not None
    p.cut_pause()
    thread.join(0.05)
    assert (p.state, api.asked) == ("waiting", [])
    with within(2):
        p.stop()
        assert p.join(Deadline(5))
    assert api.asked == []


def collected_in_the_middle(monkeypatch: pytest.MonkeyPatch, method: str, act: Callable[[], None]) -> None:
    """Have ``act`` run where a thread is made or started, as a collection may run a user's ``__del__`` there."""
    original = getattr(threading.Thread, method)

    def patched(self: threading.Thread, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("name", getattr(self, "_name", "")) == "parlant-sync-poll-s1":
            monkeypatch.undo()
            act()
        original(self, *args, **kwargs)

    monkeypatch.setattr(threading.Thread, method, patched)


@pytest.mark.parametrize("method", ["__init__", "start"])
def test_stopped_in_the_middle_of_its_start(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same thread, which holds the lock."""
    api = FakeApi([0])
    p = poller(api)
    joined: list[bool] = []

    def act() -> None:
        p.stop()
        joined.append(in_background(p.join, Deadline(5)).result())  # the thread may be there, and not started yet

    collected_in_the_middle(monkeypatch, method, act)
    must_end(use, p)
    assert joined == [method == "__init__"]
    assert p.join(Deadline(5))
    assert (p.state, api.asked) == ("ended", [])


def test_used_in_the_middle_of_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is but one thread."""
    poll = Blocked()
    api = FakeApi(poll)
    p = poller(api)
    collected_in_the_middle(monkeypatch, "__init__", lambda: use(p))
    must_end(use, p)
    assert poll.began.wait(5)
    assert [line.closed for line in api.lines] == [True, False]
    p.stop()
    assert p.join(Deadline(5))
    assert len(api.asked) == 1


def test_a_forked_child_lets_go_of_the_idle_connection() -> None:
    """In a pause there is no request, and the connection is idle in its pool."""
    p = poller(FakeApi(errors.TransportError("down")), backoff=lambda n: 60.0)
    use(p)
    wait_until(lambda: p.state == "waiting")
    thread, line = p._thread, cast(FakeLine, p._line)
    with p._lock:  # held by a thread that the child does not have
        must_end(p.drop_inherited)
    assert thread is not None
    assert line is not None
    assert line.dropped
    assert p.state == "ended"
    p.stop()
    thread.join(5)
    assert not thread.is_alive()


def test_used_again_before_its_old_thread_is_out(clock: Clock) -> None:
    """The old one, on its way out, lets go of its own line and not of the new one, by which stop() wakes."""
    idle, poll = Idle(clock, 600), Blocked()
    api = FakeApi(idle, poll)
    p = poller(api, idle_timeout=100, clock=clock)
    p._on_change = lambda: use(p) if p.state == "parked" else None  # by the thread that has just parked it
    user = use(p)
    old = p._thread
    assert old is not None
    user.__exit__()
    idle.unused.set()
    old.join(5)
    assert poll.began.wait(5)
    try:
        p.stop()
        assert api.lines[1].slot.interrupted
        assert p.join(Deadline(5))
    finally:
        api.lines[1].slot.stop()
    assert [line.closed for line in api.lines] == [True, True]


class Moving(EventHub):
    """Another thread notices a new numbering just after the poller has looked where it is."""

    poller: Poller | None = None

    @property
    def place(self) -> LogPosition:
        found = self.now
        waker, self.poller = self.poller, None
        if waker is not None:
            assert self.renumber(2, found)
            waker.poll_now()
        return found

    @place.setter
    def place(self, place: LogPosition) -> None:
        self.now = place


def test_poll_now_just_before_the_request_is_not_lost() -> None:
    """It would be a minute before the poller looked again."""
    hub, api = Moving(7), FakeApi()
    kicked: list[bool] = []

    def step() -> BaseException:
        kicked.append(api.lines[0].slot.interrupted)  # what publish() looks at
        return Interrupted("woken")

    api.script = [step, GONE]
    p = poller(api, hub)
    hub.poller = p
    run_to_the_end(p)
    assert kicked == [True]
    assert [offset for offset, _ in api.asked] == [7, 2]


def test_an_early_answer_of_an_old_numbering_is_no_failure(clock: Clock) -> None:
    """The numbering went back meanwhile; what the server has now is to be asked for at once."""
    hub, pauses = EventHub(7), list[int]()

    def renumbered() -> list[int]:
        assert hub.renumber(2, hub.place)
        return []

    api = FakeApi(renumbered)
    run_to_the_end(poller(api, hub, clock=Clock(), backoff=lambda n: pauses.append(n) or 0.0))
    assert [offset for offset, _ in api.asked] == [7, 2]
    assert pauses == []


# -- who uses it


def test_idle_since_the_last_user_has_gone(clock: Clock) -> None:
    p = poller(FakeApi(), clock=clock)
    clock.now = 5
    assert p._idle() == 5
    one, two = use(p, start=False), use(p, start=False)
    clock.now = 7
    assert p._idle() is None
    one.__exit__()
    assert p._idle() is None
    clock.now = 9
    two.__exit__()
    two.__exit__()  # an interrupt had taken its coming
    assert p._idle() == 0
    clock.now = 10
    assert p._idle() == 1


def test_an_interrupted_user_counts_until_it_is_freed(clock: Clock) -> None:
    """An exception of a signal handler may keep a user from leaving, but not from being freed."""
    p = poller(FakeApi(), clock=clock)
    user = Use(p, start=False)
    user.__enter__()
    clock.now = 20
    assert p._idle() is None
    del user
    clock.now = 22
    assert p._idle() == 2  # since it was seen last


# -- foreign code


class Spiteful(logging.Handler):
    """Logging that fails: the disk is full, stderr is closed, a filter asks a server."""

    def __init__(self, told: Callable[[], bool]) -> None:
        super().__init__(logging.DEBUG)
        self.told = told
        self.early: list[str] = []
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1
        if not self.told():
            self.early.append(record.getMessage())
        raise SystemExit("the disk is full")


@pytest.fixture
def spiteful() -> Iterator[Spiteful]:
    logger = logging.getLogger("parlant_sync")
    handler = Spiteful(lambda: True)
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_a_logging_handler_that_raises_stops_nothing(spiteful: Spiteful) -> None:
    """Every line that the poller logs: failures, recovery, a backlog, its end. Those who wait are woken before."""
    hub = EventHub(0)
    box = Mailbox(2)
    hub.join(box, None, 0)
    down = errors.TransportError("down")
    p = poller(FakeApi([0], down, down, [1, 2], [3, 4], down), hub)
    p._alarms._failing_since = -1e9  # the outage is long enough to be reported
    spiteful.told = lambda: hub.ending is not None or box.waiting > 0 or box.behind
    run_to_the_end(p)
    assert hub.ending is GONE
    assert p.counts.failures == 3
    assert hub.place.next == 5
    assert spiteful.early == []
    assert spiteful.count >= 5


def test_the_end_is_notified_before_it_is_logged(spiteful: Spiteful) -> None:
    hub = EventHub(0)
    spiteful.told = lambda: hub.ending is not None
    run_to_the_end(poller(FakeApi(), hub))
    assert (spiteful.early, spiteful.count) == ([], 1)


# -- inside a signal handler


@pytest.mark.parametrize("lock", ["poller", "hub", "mailbox"])
def test_close_does_not_wait_for_a_poller_that_waits_for_this_thread(lock: str) -> None:
    """A signal handler that closes has interrupted its own thread, which may hold what the poller needs."""
    poll, hub, box = Blocked(), EventHub(0), Mailbox(10)
    hub.join(box, None, 0)
    p = poller(FakeApi(poll), hub)
    use(p)
    assert poll.began.wait(5)
    locks: dict[str, Any] = {"poller": p._lock, "hub": hub._lock, "mailbox": box.mutex}
    with locks[lock]:
        with within(5):
            hub.end(errors.SessionClosed("closed"))
            p.stop()
            assert not p.join(Deadline(30))
    assert p.join(Deadline(5))


def test_the_end_is_reported_while_the_poller_delivers() -> None:
    """Its thread holds the hub's lock and waits for a mailbox, whose own reader is what the handler has interrupted."""
    hub, box = EventHub(0), Mailbox(10)
    hub.join(box, None, 0)
    delivering = threading.Thread(target=hub.deliver, args=([Event({"offset": 0})], hub.place), daemon=True)

    def reader() -> None:
        with box.mutex:
            delivering.start()
            while hub._lock.acquire(blocking=False):
                hub._lock.release()
                threading.Event().wait(0.001)
            hub.end(errors.SessionClosed("closed"))

    must_end(reader)
    assert isinstance(hub.ending, errors.SessionClosed)
    delivering.join(5)
    assert not delivering.is_alive()


def test_a_subinterpreter_allows_no_daemon_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """``InterpreterPoolExecutor`` of Python 3.14 runs its tasks in one."""

    def thread(*_: object, **__: object) -> None:
        raise RuntimeError("daemon threads are disabled in this (sub)interpreter")

    api = FakeApi([0])
    p = poller(api)
    with monkeypatch.context() as patch:
        patch.setattr(threading, "Thread", thread)
        with pytest.raises(errors.TransportError, match="daemon threads are disabled") as kept:
            Use(p).__enter__()
    assert (p.state, api.lines[0].closed) == ("new", True)
    assert kept.traceback  # its frames hold the use
    with p._lock:
        assert p._idle() is not None


@pytest.mark.parametrize("comes_up", [True, False])
def test_a_start_that_was_interrupted_is_made_again(comes_up: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler raises while the thread comes up: the session goes on, with one poller."""
    start = threading.Thread.start
    came_up: list[threading.Thread] = []

    def interrupted(self: threading.Thread) -> None:
        monkeypatch.undo()
        if comes_up:
            came_up.append(self)
            start(self)
        raise KeyboardInterrupt

    api, hub = FakeApi(Blocked()), EventHub(0)
    p = poller(api, hub)
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        use(p)
    for thread in came_up:
        thread.join(5)
        assert not thread.is_alive()
    assert hub.ending is None
    api.script, api.asked = [], []
    run_to_the_end(p)
    assert len(api.asked) == 1
