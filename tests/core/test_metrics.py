"""The Prometheus collector, by scraping it."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import threading

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from parlant_sync import Client
from parlant_sync.metrics import ClientCollector, register
from parlant_sync.testing import FakeServer

Labels = tuple[tuple[str, str], ...]
COUNTERS = "polls idle_polls events received_bytes reconnects poll_failures".split()


def scrape(registry: CollectorRegistry) -> dict[str, dict[Labels, float]]:
    """What Prometheus would read: the text of the exposition, parsed again."""
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        found.setdefault(family.name, {})
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def one(found: dict[str, dict[Labels, float]], name: str) -> float:
    (value,) = found[name].values()
    return value


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def server(parlant_server: FakeServer) -> FakeServer:
    parlant_server.agent("support").replies("Hello")
    return parlant_server


def test_a_scrape_after_a_conversation(server: FakeServer, parlant_client: Client, registry: CollectorRegistry) -> None:
    register(parlant_client, registry=registry)
    before = scrape(registry)
    assert {one(before, f"parlant_sync_{name}_total") for name in COUNTERS} == {0.0}
    session = parlant_client.create_session("support")
    session.send("Hi")
    server.wait_idle()
    list(session.iter_events(timeout=0))
    found = scrape(registry)
    stats = parlant_client.stats()
    assert one(found, "parlant_sync_polls_total") == stats.polls > 0
    assert one(found, "parlant_sync_events_total") == stats.events > 0
    assert one(found, "parlant_sync_received_bytes_total") == stats.bytes > 0
    assert one(found, "parlant_sync_poll_failures_total") == 0
    assert found["parlant_sync_sessions"][("client", "default"), ("state", "polling")] == 1
    assert one(found, "parlant_sync_backlog_events") == 0
    assert one(found, "parlant_sync_failing_sessions") == 0


def test_names_and_labels(server: FakeServer, parlant_client: Client, registry: CollectorRegistry) -> None:
    """Prometheus' habits: one prefix, base units at the end, `_total` for counters only, a help text for each."""
    register(parlant_client, registry=registry)
    for _ in range(5):
        parlant_client.create_session("support")
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    assert len(families) == len(COUNTERS) + 3
    for family in families:
        assert re.fullmatch(r"parlant_sync_[a-z_]+", family.name)
        assert family.documentation.endswith(".")
        assert family.type == ("counter" if family.name.removeprefix("parlant_sync_") in COUNTERS else "gauge")
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
            # Five sessions, and no label that grows with them.
            assert set(sample.labels) <= {"client", "state"}
    assert "parlant_sync_received_bytes_total" in generate_latest(registry).decode()


def test_sessions_one_by_one_where_that_is_asked_for(
    server: FakeServer, parlant_client: Client, registry: CollectorRegistry
) -> None:
    register(parlant_client, registry=registry, per_session=True)
    sessions = [parlant_client.create_session("support") for _ in range(2)]
    sessions[0].send("Hi")
    server.wait_idle()
    found = scrape(registry)
    for name in "consecutive_failures backlog_events next_offset".split():
        ids = {dict(labels)["session_id"] for labels in found[f"parlant_sync_session_{name}"]}
        assert ids == {session.id for session in sessions}
    key = (("client", "default"), ("session_id", sessions[0].id))
    last_poll = sessions[0].health.last_poll
    assert last_poll is not None
    assert found["parlant_sync_session_last_poll_timestamp_seconds"][key] <= last_poll.timestamp() + 1e-6


def test_counters_never_go_back(server: FakeServer, parlant_client: Client, registry: CollectorRegistry) -> None:
    register(parlant_client, registry=registry)
    session = parlant_client.create_session("support")
    session.send("Hi")
    server.wait_idle()
    first = scrape(registry)
    session.send("Once more")  # counted although the session is closed when it is scraped
    session.close()
    second = scrape(registry)
    assert parlant_client.stats().events == 0
    assert one(second, "parlant_sync_events_total") > one(first, "parlant_sync_events_total")
    # The same id again is another object, whose counts begin at 0.
    parlant_client.session(session.id).send("And again")
    third = scrape(registry)
    assert one(third, "parlant_sync_events_total") > one(second, "parlant_sync_events_total")
    parlant_client.close()
    assert one(scrape(registry), "parlant_sync_events_total") >= one(third, "parlant_sync_events_total")


def test_failures_are_seen(server: FakeServer, parlant_client: Client, registry: CollectorRegistry) -> None:
    register(parlant_client, registry=registry)
    session = parlant_client.create_session("support")
    server.wait_polls(1)
    server.fail_next(lambda request: request.waits, 502, times=None)
    server.cut_connections()
    server.wait_requests(lambda request: request.waits and request.status == 502)
    assert session.health.consecutive_failures > 0
    found = scrape(registry)
    assert one(found, "parlant_sync_failing_sessions") == 1
    assert one(found, "parlant_sync_poll_failures_total") >= 1


def test_a_client_that_is_gone_is_no_longer_shown(server: FakeServer, registry: CollectorRegistry) -> None:
    client = Client(server.base_url)
    register(client, registry=registry)
    assert len(scrape(registry)["parlant_sync_polls_total"]) == 1
    client.close()
    del client
    gc.collect()
    assert scrape(registry)["parlant_sync_polls"] == {}


def test_two_clients_of_one_registry_are_shown_side_by_side(
    server: FakeServer, parlant_client: Client, registry: CollectorRegistry
) -> None:
    collector = register(parlant_client, registry=registry, name="web")

    def names() -> set[str]:
        return {dict(labels)["client"] for labels in scrape(registry)["parlant_sync_polls_total"]}

    with Client(server.base_url) as other:
        for _ in range(2):  # twice does no harm: a cell of a notebook that is run again
            assert register(other, registry=registry, name="batch") is collector
            collector.watch(other, name="batch")
        assert names() == {"web", "batch"}
        with pytest.raises(ValueError, match="another client is shown as 'web'"):
            collector.watch(other, name="web")
        with pytest.raises(ValueError, match="another client is shown as 'web'"):
            register(other, registry=registry, name="web")
        registry.unregister(collector)
        register(other, registry=registry, name="batch")
        assert "batch" in names()
        with pytest.raises(ValueError, match="per_session=False"):
            register(other, registry=registry, name="third", per_session=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_counts_anew(server: FakeServer) -> None:
    code = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of any fork with threads
from prometheus_client import CollectorRegistry, generate_latest
from parlant_sync import Client
from parlant_sync.metrics import register
client, registry = Client(sys.argv[1]), CollectorRegistry()
collector = register(client, registry=registry)
client.create_session("support").send("Hi")
assert "parlant_sync_events_total{client=\\"default\\"} 0.0" not in generate_latest(registry).decode()
with collector._lock:
    pid = os.fork()
if pid == 0:
    print(generate_latest(registry).decode(), flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
    done = subprocess.run([sys.executable, "-c", code, server.base_url], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert 'parlant_sync_events_total{client="default"} 0.0' in done.stdout


def test_without_prometheus_client_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['prometheus_client'] = None; import parlant_sync.metrics"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert 'pip install "parlant-sync[prometheus]"' in done.stderr.splitlines()[-1]


def test_an_empty_collector_shows_nothing(registry: CollectorRegistry) -> None:
    registry.register(ClientCollector())
    assert all(samples == {} for samples in scrape(registry).values())


def test_a_scrape_that_is_overtaken_counts_nothing_twice(
    server: FakeServer, parlant_client: Client, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session closes between its picture of the sessions and its sums, and another scrape would note that first."""
    collector = register(parlant_client, registry=registry)
    opened = [parlant_client.create_session("support") for _ in range(2)]
    for session in opened:
        session.send("Hi")
    scrape(registry)
    sessions = Client.sessions.fget  # type: ignore[attr-defined]

    def overtake() -> None:
        for session in opened:
            session.close()
        # Where the first scrape keeps others out, this one would wait for it.
        if collector._lock.acquire(blocking=False):
            collector._lock.release()
            scrape(registry)

    def taken(client: Client) -> object:
        found = sessions(client)
        monkeypatch.undo()
        other = threading.Thread(target=overtake)
        other.start()
        other.join()
        return found

    monkeypatch.setattr(Client, "sessions", property(taken))
    scrape(registry)
    received = sum(session._opened.poller.counts.events for session in opened)
    assert one(scrape(registry), "parlant_sync_events_total") == received > 0
