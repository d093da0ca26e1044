"""The checks of ``doctor``, in order. Checks that depend on a failed one are skipped."""

from __future__ import annotations

import os
import platform
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from parlant_sync import (
    Agent,
    AuthenticationError,
    Client,
    ConfigurationError,
    NotFoundError,
    ParlantSyncError,
    PermissionDeniedError,
    Session,
    TransportError,
    __version__,
)
from parlant_sync.cli import errors, state
from parlant_sync.cli.app import App
from parlant_sync.cli.lookup import agent_called

_PATIENCE = 5.0  # seconds for one connection, one probe
_LONGEST = 10.0  # for one request, with all its retries
_SLOW = 2.0
_SICK = {"degraded", "unhealthy"}  # what a server's own checks may say
_SOON = 14  # days that a certificate should still be good for


@dataclass(frozen=True)
class Check:
    """``state``: ok, warning, failed or skipped. ``exit_code`` is 0 unless it failed."""

    name: str
    state: str
    detail: str
    advice: str = ""
    exit_code: int = 0


def _ok(name: str, detail: str, advice: str = "") -> Check:
    return Check(name, "ok", detail, advice)


def _skipped(name: str, detail: str, advice: str = "") -> Check:
    return Check(name, "skipped", detail, advice)


def _failed(name: str, error: BaseException | str, advice: str = "", code: int = 0) -> Check:
    if isinstance(error, BaseException):
        code = code or errors.exit_code(error)
        error = errors.line(error).partition(": ")[2] if not advice else str(error)
    return Check(name, "failed", error, advice, code or errors.UNEXPECTED)


class Checkup:
    """One examination of one server."""

    def __init__(self, app: App, agent_id: str | None, state_dir: str | None) -> None:
        self._app = app
        self._agent_id = agent_id
        self._state_dir = state_dir

    def run(self) -> Iterator[Check]:
        yield _ok("here", f"parlant-sync {__version__}, Python {platform.python_version()}, {platform.system()}")
        yield self._state()
        try:
            client = self._app.client(poll_wait=5, connect_timeout=_PATIENCE, request_timeout=_LONGEST)
        except (ConfigurationError, errors.CommandError) as error:
            yield _failed("address", error)
            return
        with client:
            yield from self._network(client)

    def _state(self) -> Check:
        try:
            folder = Path(self._state_dir) if self._state_dir else state.default_directory()
        except errors.CommandError as error:
            return _failed("state", error)
        try:
            state.make_folder(folder)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            return _failed("state", f"{folder}: {error.strerror}", "choose another with --state-dir")
        return _ok("state", f"{folder} can be written")

    # -- the way there

    def _network(self, client: Client) -> Iterator[Check]:
        url = client.base_url
        proxy = _proxy(url)
        if proxy:
            yield _ok("address", f"{url}, by the proxy of the environment")
        else:
            address = self._address(url)
            yield address
            if address.exit_code:
                return
            secure = self._tls(url)
            yield secure
            if secure.exit_code:
                return
        server = self._server(client)
        yield server
        if server.exit_code:
            return
        yield from self._permissions(client)

    def _address(self, url: str) -> Check:
        host, port = _host(url)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            return _failed("address", f"the name {host} cannot be resolved", "check --server, and the DNS", 3)
        try:
            socket.create_connection((host, port), _PATIENCE).close()
        except OSError as error:
            reason = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
            return _failed(
                "address",
                f"{url}: {reason}",
                f"start the server, or check that {port} is its port and that no firewall blocks it",
                3,
            )
        return _ok("address", f"{url} ({found[0][4][0]})")

    def _tls(self, url: str) -> Check:
        if not url.startswith("https:"):
            local = _host(url)[0] in ("localhost", "127.0.0.1", "::1")
            advice = "" if local else "http sends the token and all text unencrypted; use https outside this machine"
            return _skipped("TLS", "not used", advice)
        import ssl

        import requests

        host, port = _host(url)
        bundle = (
            os.environ.get("REQUESTS_CA_BUNDLE")
            or os.environ.get("CURL_CA_BUNDLE")
            or requests.utils.DEFAULT_CA_BUNDLE_PATH
        )
        try:
            context = (
                ssl.create_default_context(capath=bundle)
                if os.path.isdir(bundle)
                else ssl.create_default_context(cafile=bundle)
            )
            with (
                socket.create_connection((host, port), _PATIENCE) as plain,
                context.wrap_socket(plain, server_hostname=host) as secure,
            ):
                version, certificate = secure.version(), secure.getpeercert()
        except OSError as error:
            reason = getattr(error, "verify_message", "") or error.strerror or str(error)
            cure = "renew the certificate, or set REQUESTS_CA_BUNDLE to the file of your own authority"
            if "WRONG_VERSION_NUMBER" in str(error) or "HTTP_REQUEST" in str(error):
                cure = "this port uses plain HTTP: begin the address with http://"
            return _failed("TLS", f"{reason}", cure, 3)
        ends = str((certificate or {}).get("notAfter", ""))
        days = int((ssl.cert_time_to_seconds(ends) - time.time()) // 86400) if ends else 0
        return _ok("TLS", f"{version}, certificate good for {days} days", "renew it soon" if days < _SOON else "")

    def _server(self, client: Client) -> Check:
        try:
            info = client.server_info()
        except ParlantSyncError as error:
            if (
                isinstance(error, TransportError)
                and client.base_url.startswith("http:")
                and _speaks_tls(client.base_url)
            ):
                return _failed("server", "this port uses TLS", "begin the address with https://", errors.UNREACHED)
            return _failed("server", error)
        version = f"Parlant {info.version}" if info.version else "does not report its version (3.0, or in production)"
        detail = f"{version}, {info.latency * 1000:.0f} ms for a small request"
        checks = _health_checks(client.base_url)
        detail += "".join(f"; {name}: {state}" for name, state in checks.items())
        if not info.healthy or not _SICK.isdisjoint(checks.values()):
            # Not a failure: 3.3 reports it for a while after each start, and works (WIRE.md).
            return Check(
                "server",
                "warning",
                f"{detail}; it reports that it is not healthy",
                "if this does not change, see its log",
            )
        return _ok("server", detail, "that is slow" if info.latency > _SLOW else "")

    # -- what the token may do

    def _permissions(self, client: Client) -> Iterator[Check]:
        given = self._app.token_source()
        agents: list[Agent] = []
        try:
            agents = client.agents()
            listed = _ok("agents", f"{len(agents)}: {', '.join(agent.id for agent in agents[:6])}") if agents else None
        except AuthenticationError as error:
            advice = f"it is refused: check {given}" if given else "set PARLANT_TOKEN, or give --token-file"
            yield _failed("token", f"{error.status} {error.detail}", advice, errors.REFUSED)
            return
        except PermissionDeniedError:
            listed = _skipped("agents", "this token may not list them (a production server)", "name one: --agent-id")
        except NotFoundError as error:
            said = f"no Parlant server at {client.base_url}: it answers, but with {error.status} {error.detail[:100]}"
            yield _failed("agents", said, "check the host, the port and the path of --server", errors.REFUSED)
            return
        except ParlantSyncError as error:
            yield _failed("agents", error)
            return
        yield _ok("token", f"accepted, from {given}") if given else _skipped("token", "no token given, none needed")
        yield listed or _failed("agents", "this server has no agents", "make one on the server", errors.REFUSED)
        yield _may("sessions", "list sessions", lambda: next(iter(client.list_sessions()), None))
        if self._agent_id is None and not agents:
            yield _skipped("poll", "not checked: no agent is known", "name one: --agent-id")
        else:
            yield from self._poll(client, self._agent_id or agents[0].id)

    def _poll(self, client: Client, agent_id: str) -> Iterator[Check]:
        try:
            session = client.create_session(agent_id, title="parlant-sync doctor")
        except NotFoundError:
            if (named := agent_called(client, agent_id)) is not None:
                yield from self._poll(client, named)
            else:
                again = self._app.again("agents")
                yield _failed("agent", f"there is no agent {agent_id!r}", f"{again} lists them", errors.REFUSED)
            return
        except ParlantSyncError as error:
            yield _failed("session", error)
            return
        try:
            yield _probe(session)
        except ParlantSyncError as error:
            yield _failed("poll", error)
        finally:
            left = _may("delete", "delete sessions", session.delete)
        if left.state != "ok":
            yield _skipped("delete", f"this token may not; the probe's session {session.id} stays on the server")


def _probe(session: Session) -> Check:
    """How long an event takes from its post to a reader. It starts no turn."""
    with session.iter_events(since="latest", timeout=_PATIENCE) as reader:
        started = time.monotonic()
        try:
            posted = session.post_event("custom", {"probe": "parlant-sync doctor"})
        except PermissionDeniedError:
            session.history()
            took = (time.monotonic() - started) * 1000
            return _ok("poll", f"listing events works, {took:.0f} ms (this token may not post a probe)")
        for event in reader:
            if event.offset >= posted.offset:
                took = (time.monotonic() - started) * 1000
                return _ok("poll", f"an event arrives in {took:.0f} ms (servers look every 250 ms)")
    return Check(
        "poll",
        "failed",
        f"a posted event did not arrive within {_PATIENCE:g} s",
        "a proxy may hold answers back: turn its buffering off, and allow 70 s for a poll",
        errors.UNREACHED,
    )


def _may(name: str, what: str, call: Callable[[], Any]) -> Check:
    try:
        call()
    except (PermissionDeniedError, AuthenticationError):
        return _skipped(name, f"this token may not {what}")
    except ParlantSyncError as error:
        return _failed(name, error)
    return _ok(name, f"this token may {what}")


def _health_checks(base_url: str) -> dict[str, str]:
    """The server's own checks by name, which some servers show in /healthz."""
    import requests

    try:
        content = requests.get(f"{base_url}/healthz", timeout=_PATIENCE, auth=lambda request: request).json()
    except (requests.RequestException, ValueError):
        return {}
    checks = content.get("checks") if isinstance(content, dict) else None
    if not isinstance(checks, dict):
        return {}
    return {str(name): str(each.get("status") if isinstance(each, dict) else each) for name, each in checks.items()}


def _host(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _speaks_tls(url: str) -> bool:
    """Whether a handshake succeeds at that address, whatever the certificate is worth."""
    import ssl

    host, port = _host(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), _PATIENCE) as plain, context.wrap_socket(plain):
            return True
    except OSError:
        return False


def _proxy(url: str) -> str | None:
    from requests.utils import get_environ_proxies, select_proxy

    return select_proxy(url, get_environ_proxies(url))
