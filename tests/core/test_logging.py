"""What the library logs: one logger a module, an id in every line, no secret, nothing at INFO while all is well."""

from __future__ import annotations

import ast
import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.waiting import Clock, wait_until

import parlant_sync
from parlant_sync import Client, Event
from parlant_sync._polling import poll_log as alarms_module
from parlant_sync._polling.event_feed import Mailbox
from parlant_sync._polling.event_hub import EventHub
from parlant_sync._polling.poll_log import EMPTIED, FULL, LONG_OUTAGE, PollLog
from parlant_sync.testing import FakeServer

PACKAGE = Path(parlant_sync.__file__).parent
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if not {"cli", "server"} & set(path.parts)]
LEVELS = "debug|info|warning|error|exception|critical|log"
# What names the session in a line: its id, or a path that holds it.
NAMES = re.compile(r"(session_id|base_url|\bid|path|row|key)$")


@pytest.fixture(autouse=True)
def _everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "parlant_sync")


class Watch(logging.Handler):
    """Keeps what is logged, and waits for a line that another thread is to write."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.args: list[str] = []
        self._changed = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        # An error among the arguments would keep its frames, with all that is in them, until the test is over.
        args = str(record.args)
        record.msg, record.args = record.getMessage(), ()
        with self._changed:
            self.args.append(args)
            self.records.append(record)
            self._changed.notify_all()

    def at(self, level: int) -> list[str]:
        return [record.getMessage() for record in self.records if record.levelno >= level]

    def for_line(self, text: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: any(text in line for line in self.at(0)), 10), (text, self.at(0))


@pytest.fixture
def watch() -> Iterator[Watch]:
    handler, root = Watch(), logging.getLogger()
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)


def logged(caplog: pytest.LogCaptureFixture, level: int = logging.DEBUG) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name.startswith("parlant_sync") and r.levelno >= level]


# -- in the sources


def calls(path: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and re.fullmatch(rf"logger\.({LEVELS})", ast.unparse(node.func)):
            yield node


def test_one_logger_for_each_module() -> None:
    for path in MODULES:
        made = re.findall(r"^.*getLogger\(.*$", path.read_text("utf-8"), re.MULTILINE)
        wanted = ["logger = logging.getLogger(__name__)"] if list(calls(path)) else []
        assert made in (wanted, []), path
        assert bool(made) == bool(wanted), f"{path} has a logger that it does not use, or uses one that it has not"


def test_the_library_sets_nothing_up() -> None:
    """Levels, handlers and formats are the application's."""
    for path in MODULES:
        assert not re.search(r"basicConfig|addHandler|setLevel|logging\.(debug|info|warning|error)\(", path.read_text())
    assert not logging.getLogger("parlant_sync").handlers


def test_every_line_names_what_it_is_about() -> None:
    for path in MODULES:
        if path.parent.name == "batch":
            continue  # a process runs one batch
        for call in calls(path):
            arguments = [ast.unparse(argument) for argument in call.args]
            assert any(NAMES.search(argument) for argument in arguments), f"{path.name}:{call.lineno} {arguments}"


def test_lines_are_formatted_only_when_they_are_wanted() -> None:
    for path in MODULES:
        for call in calls(path):
            assert not any(isinstance(a, (ast.JoinedStr, ast.BinOp)) for a in call.args), f"{path.name}:{call.lineno}"


# -- in a conversation


def test_quiet_at_info_while_all_is_well(
    parlant_server: FakeServer, parlant_client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    parlant_server.agent("support").replies("Hello", then="How can I help?").with_preamble("Let me see...")
    session = parlant_client.create_session("support")
    assert session.send("Hi").text == "Hello\n\nHow can I help?"
    assert list(session.iter_events(timeout=0))
    parlant_client.close()
    assert logged(caplog, logging.INFO) == []


def test_trouble_is_told_with_ids_and_without_secrets(parlant_server: FakeServer, watch: Watch) -> None:
    """Refusals that repeat the request's headers, as production servers do, for polls and for calls."""
    secret = "s3cret-t0ken-of-a-test"
    parlant_server.agent("support")
    parlant_server.token = secret
    echo = f'{{"detail": {{"authorization": "Bearer {secret}", "said": "my {secret}"}}}}'
    with Client(parlant_server.base_url, token=lambda: secret, headers={"X-Api-Key": secret}) as client:
        for status in (500, 403, 429):
            session = client.create_session("support")
            parlant_server.wait_polls(1, session.id)
            parlant_server.fail_next(lambda request: request.waits, status, echo)
            parlant_server.cut_connections()
            watch.for_line(f": {status} ")
            parlant_server.fail_next("PATCH", status, echo, times=3)  # a 429 is tried again
            with pytest.raises(parlant_sync.ApiError) as failed:
                client.session(session.id).update(title="new")
            assert secret not in f"{failed.value} {failed.value.detail}"
            parlant_server.clear_faults()
    records = [record for record in watch.records if record.name.startswith("parlant_sync")]
    assert len(records) >= 3
    assert not [args for args in watch.args if secret in args]
    for record in records:
        assert secret not in record.getMessage()
        assert re.search(r"session \w+|/sessions/", record.getMessage()), record.getMessage()


# -- alarms


def test_an_outage_is_told_once_and_once_that_it_is_over(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    alarms = PollLog("s1", clock)
    failures = 0
    while clock.now < LONG_OUTAGE:
        failures += 1
        alarms.failed(failures, OSError("refused"))
        clock.now += 7
    assert logged(caplog, logging.INFO) == []
    alarms.failed(10, OSError("refused"))
    alarms.failed(11, OSError("refused"))
    assert logged(caplog, logging.INFO) == [
        "session s1: no poll has succeeded for 63 s (10 failures; the last: refused); still trying"
    ]
    clock.now += 7
    alarms.recovered(11)
    assert logged(caplog, logging.WARNING)[1:] == ["session s1: polling again after 70 s, 11 failures"]
    caplog.clear()
    # The next outage is another one.
    alarms.failed(1, OSError("refused"))
    clock.now += LONG_OUTAGE - 1
    alarms.failed(2, OSError("refused"))
    alarms.recovered(2)
    assert logged(caplog, logging.INFO) == []


def test_an_outage_that_ends_the_session_is_told_as_well(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    alarms = PollLog("s1", clock)
    alarms.failed(1, OSError("refused"))
    clock.now += LONG_OUTAGE
    alarms.failed(2, OSError("refused"))
    alarms.ended(parlant_sync.NotFoundError("404 Session not found", status=404))
    assert logged(caplog, logging.WARNING)[1:] == ["session s1: polling ended: 404 Session not found"]


def test_a_backlog_is_told_once_and_once_that_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    alarms = PollLog("s1")
    for pressure in (0.0, FULL, EMPTIED, FULL):
        alarms.backlog(pressure, 5)
    assert logged(caplog) == []
    for pressure in (0.6, 1.0, 0.6, FULL, 0.4):
        alarms.backlog(pressure, 6000)
    assert len(logged(caplog)) == 1
    assert logged(caplog, logging.WARNING)[0].startswith("session s1: a reader does not keep up (6000 events wait)")
    alarms.backlog(EMPTIED, 10)
    alarms.backlog(0.0, 0)
    assert logged(caplog, logging.WARNING)[1:] == ["session s1: its readers keep up again"]


def events(count: int, first: int = 0) -> list[Event]:
    return [Event({"offset": first + n}) for n in range(count)]


def test_the_pressure_is_that_of_the_fullest_reader() -> None:
    hub = EventHub(0)
    boxes = [Mailbox(10), Mailbox(100)]
    assert hub.pressure == 0.0
    for box in boxes:
        hub.join(box, None, 0)
    hub.deliver(events(6), hub.place)
    assert hub.pressure == 0.6
    # Too much: it lets go of all, and stays under pressure until its reader has come round to list.
    hub.deliver(events(6, 6), hub.place)
    assert (boxes[0].waiting, hub.pressure) == (0, 1.0)
    boxes[0].catch_up()
    assert hub.pressure == 0.12
    hub.leave(boxes[1])
    assert hub.pressure == 0.0


# -- the alarms of a running poller


def test_a_poller_tells_of_its_outage(
    parlant_server: FakeServer, parlant_client: Client, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    parlant_server.agent("support")
    monkeypatch.setattr(alarms_module, "LONG_OUTAGE", 0.0)
    session = parlant_client.create_session("support")
    parlant_server.wait_polls(1)
    parlant_server.fail_next(lambda request: request.waits, 502, times=None)
    parlant_server.cut_connections()
    watch.for_line(f"session {session.id}: no poll has succeeded")
    assert session.health.consecutive_failures >= 1
    parlant_server.clear_faults()
    parlant_server.fill(session.id, 1)  # a poll that works is known to once it is answered
    watch.for_line(f"session {session.id}: polling again after")
    assert session.health.consecutive_failures == 0
    assert len(watch.at(logging.WARNING)) == 2


def test_a_poller_tells_of_a_reader_that_does_not_keep_up(parlant_server: FakeServer, watch: Watch) -> None:
    parlant_server.agent("support")
    with Client(parlant_server.base_url, backlog_limit=10) as client:
        session = client.create_session("support")
        with session.iter_events(since="latest", timeout=10) as reader:
            parlant_server.fill(session.id, 6)
            wait_until(lambda: session.health.backlog == 6)
            assert watch.at(logging.WARNING) == []
            parlant_server.fill(session.id, 1)
            watch.for_line(f"session {session.id}: a reader does not keep up (6 events wait)")
            assert [next(reader).offset for _ in range(7)] == list(range(7))
            parlant_server.fill(session.id, 1)
            watch.for_line(f"session {session.id}: its readers keep up again")
    assert len(watch.at(logging.WARNING)) == 2
