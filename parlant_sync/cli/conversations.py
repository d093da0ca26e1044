"""``--conversation NAME``: a session that is kept between runs, by server and agent."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parlant_sync import Client, NotFoundError, Session
from parlant_sync.cli import output, state
from parlant_sync.cli.errors import usage
from parlant_sync.cli.options import App
from parlant_sync.cli.state import Lock
from parlant_sync.cli.target import choose_agent, create_session, missing
from parlant_sync.cli.terminal import waiting_for

_KIND = "conversation"
_LONGEST_TITLE = 200  # more of it servers refuse
_FIELDS: dict[str, type] = {"name": str, "server": str, "agent_id": str, "session_id": str}


@dataclass(frozen=True)
class Wanted:
    """What the options ask for."""

    name: str
    agent_id: str | None
    customer_id: str | None
    title: str | None
    state_dir: str | None
    renew: bool = False
    wait_lock: float | None = 0.0

    @property
    def folder(self) -> Path:
        base = Path(self.state_dir) if self.state_dir else state.default_directory()
        return base / "conversations"


class Conversation:
    """The named session, locked while entered: two runs in one conversation would mix their turns."""

    def __init__(self, app: App, client: Client, wanted: Wanted) -> None:
        if not wanted.name.strip():
            raise usage("--conversation is empty; give it a name")
        self._app = app
        self._client = client
        self._wanted = wanted
        self._agent_id = wanted.agent_id or _stored_agent(client, wanted) or choose_agent(client, None)
        self._path = wanted.folder / _file_name(client.base_url, wanted.name, self._agent_id)
        self._lock = Lock(self._path.with_suffix(".lock"), f"the conversation {wanted.name!r}", wanted.wait_lock)

    def __enter__(self) -> Conversation:
        self._lock.__enter__()
        return self

    def __exit__(self, *_: Any) -> None:
        self._lock.__exit__(None, None, None)

    def session(self) -> Session:
        """The session of last time, or a new one, written down before anything is said in it."""
        stored = self._read()
        if stored is None:
            return self._create()
        self._check_customer(stored)
        session_id: str = stored["session_id"]
        with missing(self._app, self._client, session_id, self._wanted.name):
            try:
                with waiting_for(self._client.base_url):
                    return self._client.session(session_id)
            except NotFoundError:
                if not self._wanted.renew:
                    raise
        output.note(f"session {session_id} of {self._wanted.name!r} is gone; starting a new one")
        return self._create()

    def _read(self) -> dict[str, Any] | None:
        try:
            return state.read(self._path, _KIND, _FIELDS)
        except state.Damaged as damaged:
            if not self._wanted.renew:
                raise
            output.note(f"{damaged}; starting a new conversation")
            return None

    def _check_customer(self, stored: dict[str, Any]) -> None:
        asked, theirs = self._wanted.customer_id, stored.get("customer_id")
        if asked is not None and theirs is not None and asked != theirs:
            raise usage(
                f"the conversation {self._wanted.name!r} is with customer {theirs!r}, not {asked!r}; "
                "use another name for another customer"
            )

    def _create(self) -> Session:
        wanted = self._wanted
        session = create_session(
            self._app,
            self._client,
            self._agent_id,
            customer_id=wanted.customer_id,
            title=wanted.title or f"conversation {wanted.name}"[:_LONGEST_TITLE],
        )
        state.write(
            self._path,
            _KIND,
            {
                "name": wanted.name,
                "server": self._client.base_url,
                "agent_id": self._agent_id,
                "customer_id": wanted.customer_id,
                "session_id": session.id,
            },
        )
        return session


def find_session_id(client: Client, wanted: Wanted) -> str:
    """The session id of a conversation, for those who only read. Raises CommandError where there is none yet."""
    agent_id = wanted.agent_id or _stored_agent(client, wanted)
    stored = None
    if agent_id is not None:
        stored = state.read(wanted.folder / _file_name(client.base_url, wanted.name, agent_id), _KIND, _FIELDS)
    if stored is None:
        raise usage(
            f"no conversation {wanted.name!r} with {client.base_url} under {wanted.folder}; "
            f"parlant-sync send --conversation {wanted.name} begins one"
        )
    session_id: str = stored["session_id"]
    return session_id


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
    """For people who look into the folder; the digest tells names apart."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("._")[:40] or "unnamed"
