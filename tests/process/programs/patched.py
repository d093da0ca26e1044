"""patched.py PATCH URL [PEM]: an ordinary conversation in a process in which PATCH is active. Prints READY and a reply.

Exits with 77 if the package is not installed.
"""

# ruff: noqa: E402  what is imported before what is the point
from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator

patch, url = sys.argv[1:3]
pem = sys.argv[3] if len(sys.argv) > 3 else True
NEEDS = {
    "gevent": "gevent.monkey",
    "eventlet": "eventlet",
    "pyopenssl": "urllib3.contrib.pyopenssl",
    "opentelemetry": "opentelemetry.instrumentation.urllib3",
    "vcrpy": "vcr",
    "requests-cache": "requests_cache",
    "sentry": "sentry_sdk",
    "ddtrace": "ddtrace",
    "elastic-apm": "elasticapm",
    "newrelic": "newrelic.agent",
    "truststore": "truststore",
    "time-machine": "time_machine",
    "requests-mock": "requests_mock",
}
try:
    module = importlib.import_module(NEEDS[patch])
except ImportError:
    sys.exit(77)

if patch == "gevent":
    module.patch_all()
elif patch == "eventlet":
    module.monkey_patch()
elif patch == "pyopenssl":
    module.inject_into_urllib3()
elif patch == "opentelemetry":
    module.URLLib3Instrumentor().instrument()
    importlib.import_module("opentelemetry.instrumentation.requests").RequestsInstrumentor().instrument()
elif patch == "requests-cache":
    module.install_cache(os.path.join(tempfile.mkdtemp(), "cache"))
elif patch == "sentry":
    module.init(dsn="http://key@127.0.0.1:9/1", traces_sample_rate=1.0, transport=lambda event: None)
elif patch == "ddtrace":
    os.environ["DD_TRACE_ENABLED"] = "false"
    module.patch_all()
elif patch == "elastic-apm":
    client = module.Client(service_name="x", disable_send=True, central_config=False)
    module.instrument()
elif patch == "newrelic":
    module.initialize()
elif patch == "truststore":
    module.inject_into_ssl()

from parlant_sync import Client


@contextlib.contextmanager
def active() -> Iterator[None]:
    if patch == "time-machine":
        with module.travel("2030-01-01", tick=True):
            yield
    elif patch == "requests-mock":
        with module.Mocker(real_http=True) as mock:
            mock.get("http://parlant.test/agents", json=[{"id": "mocked", "name": "Mocked"}])
            with Client("http://parlant.test") as client:
                print(client.agents()[0].id)
            yield
    else:
        yield


def converse(**options: object) -> None:
    with active(), Client(url, verify=pem, close_timeout=3, request_timeout=10, **options) as client:
        session = client.create_session("quick")
        print(session.send("hello", timeout=20).text)
        before = len(session.history())
        print(session.find("k"))
        posted = session.post("found", key="k")
        found = session.find("k")
        print("found" if found is not None and found.id == posted.id else "not found")
        session.reply_to(posted, timeout=20)
        print("grown" if len(session.history()) > before else "the same list")
        client.close()
        print("closed")


if patch == "vcrpy":
    # Recorded, and then replayed without the server's knowledge; afterwards the real server again.
    tape = os.path.join(tempfile.mkdtemp(), "tape.yaml")
    for _ in range(2):
        with module.use_cassette(tape) as cassette, Client(url) as client:
            print(len(client.agents()), cassette.play_count)
    with Client(url) as client:
        print(len(client.agents()))
converse()
if patch == "requests-cache":
    import requests

    converse(session_factory=requests.Session)
print("READY")
sys.stdout.flush()
os._exit(0)  # what the patch itself leaves behind is not the question
