"""The REST API of agents and sessions, and which request goes where."""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable
from typing import Any

from .agents import API_MODES, AgentScript
from .api_events import EventsApi
from .engine import Engine
from .httpd import Request, Response
from .policy import Policy
from .store import NotFound, Session, Store, now
from .validation import Checks, HttpError, body_of, broken

Handler = Callable[..., Awaitable[Response]]


class Api:
    """Answers requests as the real API does."""

    def __init__(self, store: Store, engine: Engine, policy: Policy) -> None:
        self._store = store
        self._engine = engine
        self._policy = policy
        self._version = store.version
        self.events = events = EventsApi(store, engine, policy)
        table: list[tuple[str, str, Handler]] = [
            ("GET", "/agents", self.list_agents),
            ("POST", "/agents", self.create_agent),
            ("GET", "/agents/{}", self.read_agent),
            ("POST", "/sessions", self.create_session),
            ("GET", "/sessions", self.list_sessions),
            ("GET", "/sessions/{}", self.read_session),
            ("PATCH", "/sessions/{}", self.update_session),
            ("DELETE", "/sessions/{}", self.delete_session),
            ("POST", "/sessions/{}/events", events.create),
            ("GET", "/sessions/{}/events", events.list_),
            ("DELETE", "/sessions/{}/events", events.delete),
            ("GET", "/openapi.json", self.openapi),
        ]
        if self._version.metadata:
            table.append(("PATCH", "/sessions/{}/events/{}", events.update))
        if self._version.stages:
            table.append(("GET", "/sessions/{}/events/{}", events.read))
        if self._version.health:
            table.append(("GET", "/healthz", self.healthz))
        self._table = [(m, re.compile(p.replace("{}", "([^/]+)"), re.DOTALL), h) for m, p, h in table]

    async def answer(self, request: Request) -> Response:
        """The API's answer to a request."""
        try:
            if request.path != "/healthz":
                self._policy.check_token(request)
            try:
                return await self._route(request)
            except UnicodeEncodeError:
                raise broken() from None
        except NotFound as error:
            return Response.of(404, {"detail": str(error)})
        except HttpError as error:
            if error.plain:
                headers = {"content-type": "text/plain; charset=utf-8"}
                return Response(error.status, str(error.detail).encode(), headers, close=True)
            response = Response.of(error.status, {"detail": error.detail})
            if error.status == 401:
                response.headers["www-authenticate"] = "Bearer"
            return response

    async def _route(self, request: Request) -> Response:
        path = request.path
        allowed = None
        for method, pattern, handler in self._table:
            found = pattern.fullmatch(path)
            if found:
                allowed = allowed or method  # as in FastAPI: of the first route that has the path
                if method == request.method:
                    return await handler(request, *found.groups())
        if allowed:
            response = Response.of(405, {"detail": "Method Not Allowed"})
            response.headers["allow"] = allowed
            return response
        raise HttpError(404, "Not Found")

    # --- about the server

    async def healthz(self, request: Request) -> Response:
        if self._version.health == "ok":
            return Response.of(200, {"status": "ok"})
        check = {"status": "healthy", "latency_ms": 0.1}
        health: dict[str, Any] = {"status": "healthy", "checks": {"event_loop": check}}
        if self._version.compass:
            health["instance_id"] = self._store.instance_id
        return Response.of(200, health)

    async def openapi(self, request: Request) -> Response:
        try:
            self._policy.authorize("access_api_docs", request)
        except HttpError:
            raise broken() from None
        title = "FastAPI" if self._version.prefix_traces else "Parlant API"
        info = {"title": title, "version": self._version.number}
        return Response.of(200, {"openapi": "3.1.0", "info": info, "paths": {}})

    # --- agents

    def _agent(self, agent_id: str, full: bool) -> dict[str, Any]:
        agent = self._store.agent(agent_id)
        return {
            "id": agent.id,
            "name": agent.name,
            "description": agent.description if full else None,
            "max_engine_iterations": agent.max_engine_iterations,
            "composition_mode": next(name for name, mode in API_MODES.items() if mode == agent.composition_mode),
            **({"message_output_mode": agent.output_mode} if self._version.stages else {}),
            self._version.tags: [],
        }

    async def list_agents(self, request: Request) -> Response:
        self._policy.authorize("list_agents", request)
        return Response.of(200, [self._agent(a, True) for a in self._store.agents])

    async def create_agent(self, request: Request) -> Response:
        checks = Checks()
        body = body_of(request, self._version)
        name = checks.text(body, "name", required=True)
        description = checks.text(body, "description")
        mode = checks.choice(body, "composition_mode", tuple(API_MODES), at=("body",))
        output = checks.choice(body, "message_output_mode", ("block", "stream"), at=("body",))
        given_id = checks.text(body, "id") if self._version.metadata else None
        checks.done()
        self._policy.authorize("create_agent", request)
        agent_id = given_id or self._store.new_id()
        if agent_id in self._store.agents:
            raise broken()
        stream = output == "stream" and self._version.stages
        self._store.agents[agent_id] = AgentScript(
            agent_id,
            name or "",
            description,
            composition_mode=API_MODES[mode or "fluid"],
            output_mode="stream" if stream else "block",
        )
        return Response.of(201, self._agent(agent_id, full=True))

    async def read_agent(self, request: Request, agent_id: str) -> Response:
        self._policy.authorize("read_agent", request)
        return Response.of(200, self._agent(agent_id, self._policy.name != "production"))

    # --- sessions

    async def create_session(self, request: Request) -> Response:
        checks = Checks()
        greeting = checks.boolean(request.query, "allow_greeting")
        body = body_of(request, self._version)
        agent_id = checks.text(body, "agent_id", required=True)
        customer_id = checks.text(body, "customer_id")
        title = checks.text(body, "title", longest=200)
        metadata = checks.mapping(body, "metadata")
        labels = checks.strings(body, "labels")
        checks.done()
        self._policy.authorize("create_customer_session" if customer_id else "create_guest_session", request)
        agent = self._store.agent(agent_id or "")
        if self._version.compass and customer_id and customer_id not in self._store.customers:
            raise NotFound(f"Item '{customer_id}' not found")  # older versions take it, and never answer
        session = self._store.create(agent.id, customer_id or "guest", title, metadata or {})
        session.labels = list(dict.fromkeys(labels or []))
        if greeting and agent.engine != "compass":
            await self._engine.dispatch(session, self._store.trace_of_turn(self._store.new_trace()))
        response = Response.of(201, session.dto())
        guest_token = self._policy.admit_guest(request, session.id)
        if guest_token is not None:
            response.headers["x-parlant-guest-token"] = guest_token
        return response

    async def read_session(self, request: Request, session_id: str) -> Response:
        self._policy.authorize("read_session", request)
        return Response.of(200, self._store.session(session_id).dto())

    async def list_sessions(self, request: Request) -> Response:
        checks = Checks()
        paged = self._version.metadata
        limit = checks.integer(request.query, "limit") if paged else None
        checks.done()
        self._policy.authorize("list_sessions", request)
        sessions = self._matching(request)
        if limit is not None:
            sessions = _after(sessions, request.query.get("cursor"))
        page = sessions[:limit]
        labels = {value for name, value in request.pairs if name == "labels"} if self._version.labels else set()
        more = limit is not None and len(sessions) > limit
        total = len(sessions)
        if labels:
            # As in Parlant: filtered after the page was cut, and then there is no further page.
            page = [s for s in page if labels.issubset(s.labels)]
            total, more = len(page), False
        items = [s.dto() for s in page]
        if limit is None:
            return Response.of(200, items)
        cursor = _cursor(page[-1]) if more and page else None
        return Response.of(200, {"items": items, "total_count": total, "has_more": more, "next_cursor": cursor})

    def _matching(self, request: Request) -> list[Session]:
        agent, customer = request.query.get("agent_id"), request.query.get("customer_id")
        since = request.query.get("min_modified_utc", "") if self._version.compass else ""
        return [
            s
            for s in self._store.sessions.values()
            if (not agent or s.agent_id == agent)
            and (not customer or s.customer_id == customer)
            and (not since or s.modified >= since)
        ]

    async def update_session(self, request: Request, session_id: str) -> Response:
        checks = Checks()
        body = body_of(request, self._version)
        title = checks.text(body, "title", longest=200)
        mode = checks.choice(body, "mode", ("auto", "manual"), at=("body",))
        consumed = checks.mapping(body, "consumption_offsets") or {}
        # Older versions accept what they do not know, and ignore it.
        new = self._version.metadata
        metadata = (checks.mapping(body, "metadata") or {}) if new else {}
        customer_id = checks.text(body, "customer_id") if new else None
        agent_id = checks.text(body, "agent_id") if new else None
        labels = (checks.mapping(body, "labels") or {}) if self._version.labels else {}
        checks.done()
        self._policy.authorize("update_session", request)
        session = self._store.session(session_id)
        session.title = session.title if title is None else title
        session.mode = mode or session.mode
        session.customer_id = customer_id or session.customer_id
        session.agent_id = agent_id or session.agent_id
        session.consumed = consumed.get("client") or session.consumed
        session.metadata = {**session.metadata, **(metadata.get("set") or {})}
        for key in metadata.get("unset") or ():
            session.metadata.pop(key, None)
        kept = dict.fromkeys([*session.labels, *(labels.get("upsert") or ())])
        session.labels = [label for label in kept if label not in (labels.get("remove") or ())]
        session.modified = now()
        return Response.of(200, session.dto())

    async def delete_session(self, request: Request, session_id: str) -> Response:
        self._policy.authorize("delete_session", request)
        self._store.delete(self._store.session(session_id))
        return Response(204, headers={"content-type": "application/json"})


def _cursor(session: Session) -> str:
    return base64.b64encode(f"{session.created}|{session.id}".encode()).decode()


def _after(sessions: list[Session], cursor: str | None) -> list[Session]:
    """The sessions behind the one that a cursor names, which may have been deleted since."""
    try:
        created, _, session_id = base64.b64decode(cursor or "").decode().partition("|")
    except ValueError:
        return sessions  # as in Parlant: a cursor that cannot be read counts as none
    for index, session in enumerate(sessions):
        if session.id == session_id:
            return sessions[index + 1 :]
    return [s for s in sessions if s.created > created]
