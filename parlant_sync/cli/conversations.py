"""``--conversation NAME``: a session that is kept between runs, by server and agent."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parlant_sync import Client, NotFoundError, Session
from parlant_sync.cli import output, state
from parlant_sync.cli.app import App
from parlant_sync.cli.errors import is_gone, usage
from parlant_sync.cli.lookup import agent_of_that_name, choose_agent, create_session, missing
from parlant_sync.cli.state import Lock
from parlant_sync.cli.terminal import waiting_for

_KIND = "conversation"
_LONGEST_TITLE = 200  # more of it servers refuse
_FIELDS: dict[str, type] = {"name": str, "server": str, "agent_id": str, "session_id": str}


@dataclass(frozen=True)
class Wanted:
    """What the options ask for."""

    name: str
    agent_id: str | None
    options: Mapping[str, Any]  # of a new session
    state_dir: str | None
    renew: bool = False
    fresh: bool = False
    wait_lock: float | None = 0.0

    @property
    def folder(self) -> Path:
        return _folder(self.state_dir)


class Conversation:
    """The named session, locked while entered: two runs in one conversation would mix their turns."""

    def __init__(self, app: App, client: Client, wanted: Wanted) -> None:
        if not wanted.name.strip():
            raise usage("--conversation is empty; give it a name")
        self._app = app
        self._client = client
        self._wanted = wanted
        self._agent_id = wanted.agent_id or _stored_agent(client, wanted) or choose_agent(client, None)
        self._path = self._place()
        if wanted.agent_id is not None and not self._path.exists():
            # It may be a name, and the conversation may be kept under the agent's id.
            try:
                client.agent(wanted.agent_id)
            except NotFoundError as error:
                self._agent_id = agent_of_that_name(app, client, wanted.agent_id, error)
                self._path = self._place()
        self._lock = Lock(self._path.with_suffix(".lock"), f"the conversation {wanted.name!r}", wanted.wait_lock)

    def _place(self) -> Path:
        return self._wanted.folder / _file_name(self._client.base_url, self._wanted.name, self._agent_id)

    def __enter__(self) -> Conversation:
        self._lock.__enter__()
        return self

    def __exit__(self, *_: Any) -> None:
        self._lock.__exit__(None, None, None)

    def session(self) -> Session:
        """The session of last time, or a new one, written down before anything is said in it."""
        if self._wanted.fresh:
            return self._create()
        stored = state.read(self._path, _KIND, _FIELDS)
        if stored is None:
            return self._create()
        self._check_customer(stored)
        self._client = _client_of(self._app, self._client, stored)
        session_id: str = stored["session_id"]
        with missing(self._app, self._client, session_id, self._wanted.name):
            try:
                with waiting_for(self._client.base_url, self._client):
                    return self._client.session(session_id)
            except NotFoundError as error:
                # A proxy's page says nothing about the session: nothing may be replaced because of it.
                if not self._wanted.renew or not is_gone(error, session_id):
                    raise
        output.note(f"session {session_id} of {self._wanted.name!r} is gone; starting a new one")
        return self._create()

    def _check_customer(self, stored: dict[str, Any]) -> None:
        asked, theirs = self._wanted.options.get("customer_id"), stored.get("customer_id")
        if asked is not None and theirs is not None and asked != theirs:
            raise usage(
                f"the conversation {self._wanted.name!r} is with customer {theirs!r}, not {asked!r}; "
                "use another name for another customer"
            )

    def _create(self) -> Session:
        wanted = self._wanted
        title = wanted.options.get("title") or f"conversation {wanted.name}"[:_LONGEST_TITLE]
        session = create_session(self._app, self._client, self._agent_id, {**wanted.options, "title": title})
        state.write(
            self._path,
            _KIND,
            {
                "name": wanted.name,
                "server": self._client.base_url,
                "agent_id": self._agent_id,
                "customer_id": wanted.options.get("customer_id"),
                "session_id": session.id,
                **_guest(self._client),
            },
        )
        return session


def stored(state_dir: str | None) -> list[dict[str, Any]]:
    """What is kept about every conversation, by name; each has its file as ``path``."""
    found = []
    for path in sorted(_folder(state_dir).glob("*.json")):
        content = state.peek(path)
        if content.get("kind") == _KIND and all(type(content.get(name)) is kind for name, kind in _FIELDS.items()):
            found.append({**content, "path": path})
    return sorted(found, key=lambda each: (each["name"], each["server"], each["agent_id"]))


def forget(path: Path, name: str, wait_lock: float | None) -> None:
    """Remove what is kept; the session stays on the server. Raises CommandError if a run is using it."""
    with Lock(path.with_suffix(".lock"), f"the conversation {name!r}", wait_lock):
        path.unlink(missing_ok=True)


def _folder(state_dir: str | None) -> Path:
    return (Path(state_dir) if state_dir else state.default_directory()) / "conversations"


def _guest(client: Client) -> dict[str, str]:
    """The token that a 4.0 server gave an anonymous client: later runs need it. (The file has mode 0600.)"""
    return {"guest_token": client.guest_token} if client.guest_token else {}


def _client_of(app: App, client: Client, stored: Mapping[str, Any]) -> Client:
    """The client that may read what is stored: a guest's, if this run has no token of its own."""
    token = stored.get("guest_token")
    return app.guest_client(token) if isinstance(token, str) and not app.token_source() else client


def find_session_id(app: App, client: Client, wanted: Wanted) -> tuple[Client, str]:
    """A client and the session id of a conversation, for runs that only read.

    Raises CommandError if there is no such conversation.
    """
    agent_id = wanted.agent_id or _stored_agent(client, wanted)
    stored = _read_kept(client, wanted, agent_id)
    if stored is None and wanted.agent_id is not None:  # it may be a name
        try:
            client.agent(wanted.agent_id)
        except NotFoundError as error:
            stored = _read_kept(client, wanted, agent_of_that_name(app, client, wanted.agent_id, error))
    if stored is None:
        raise usage(
            f"no conversation {wanted.name!r} with {client.base_url} under {wanted.folder}; "
            f"{app.again('send', '--conversation', wanted.name)} begins one"
        )
    return _client_of(app, client, stored), stored["session_id"]


def _read_kept(client: Client, wanted: Wanted, agent_id: str | None) -> dict[str, Any] | None:
    if agent_id is None:
        return None
    return state.read(wanted.folder / _file_name(client.base_url, wanted.name, agent_id), _KIND, _FIELDS)


def _stored_agent(client: Client, wanted: Wanted) -> str | None:
    """The agent of the one conversation of that name with this server, where --agent-id was left out."""
    found = set()
    for path in wanted.folder.glob(f"{_slug(wanted.name)}-*.json"):
        stored = state.peek(path)
        if (stored.get("name"), stored.get("server")) == (wanted.name, client.base_url):
            found.add(str(stored.get("agent_id")))
    if len(found) > 1:
        raise usage(
            f"the conversation {wanted.name!r} is kept with several agents; say which with --agent-id: "
            + ", ".join(sorted(found))
        )
    return found.pop() if found else None


def _file_name(server: str, name: str, agent_id: str) -> str:
    digest = hashlib.sha256("\0".join((server, agent_id, name)).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{_slug(name)}-{digest[:12]}.json"


def _slug(name: str) -> str:
    """The readable part of the file's name; the digest behind it makes the name unique."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("._")[:40] or "unnamed"
