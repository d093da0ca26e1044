"""Posting a customer's message at most once, and finding out whether it arrived if the answer does not say."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from parlant_sync import _validation as check
from parlant_sync import errors
from parlant_sync._api.rest import RestApi, events_path
from parlant_sync._api.retry import LEAST, may_repeat, not_stored, refuses, unread
from parlant_sync._deadline import Deadline
from parlant_sync._http.transport import Failure
from parlant_sync._tracing import OPENTELEMETRY, Span
from parlant_sync.events import Event, Moderation, PostSource

logger = logging.getLogger(__name__)

# The name of a message's key inside its metadata.
KEY = "parlant_sync_key"
# The seconds before each look for a message that may still be on its way into the store.
LOOKS = (0.0, 0.2, 0.4, 0.8, 1.6)
# There is a look even if the caller's time ran out over the post: the caller must know what became of it.
_GRACE = 2.0
_REMEMBERED = 256
# After so many looks that are redirected, as the post was, and none that is answered, the address is wrong.
_REDIRECTS = 3


class _NotListed(Exception):
    """A look did not find the message (yet)."""


class Draft:
    """A message that is to be posted, and what goes with it. Its key stays the same however often it is tried."""

    __slots__ = ("key", "message", "metadata", "moderation", "once", "participant", "source")

    def __init__(
        self,
        message: str,
        key: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        moderation: Moderation | None = None,
        participant: Mapping[str, Any] | None = None,
        source: PostSource = "customer",
        *,
        once: bool = False,
    ) -> None:
        """``once``: only if the session does not hold a message with this ``key``. The default is a new key.

        Raises ConfigurationError for what cannot be posted.
        """
        if not isinstance(message, str):
            raise errors.ConfigurationError(f"the message must be a string, not {type(message).__name__}")
        if not message.strip():
            raise errors.ConfigurationError("the message is blank; give it some text")
        if key is not None:
            check.key(key)
        elif once:
            raise errors.ConfigurationError("once=True needs key=: the message is recognised by its key")
        if metadata is not None:
            check.mapping("metadata", metadata)
        if moderation is not None:
            check.moderation(moderation)
        if participant is not None or source != "customer":
            check.speaker(source, participant)
        self.message = message
        self.key = key or ""  # "": the poster will give it one
        self.metadata = metadata
        self.moderation = moderation
        self.participant = participant
        self.source = source
        self.once = once

    def body(self) -> dict[str, Any]:
        """The body of the request."""
        found: dict[str, Any] = {"kind": "message", "source": self.source, "message": self.message}
        found["metadata"] = {**(self.metadata or {}), KEY: self.key}
        if self.participant is not None:
            found["participant"] = dict(self.participant)
        return found


class MessagePoster:
    """The posts of one session. Thread-safe.

    No lock: single operations of dicts, each whole by itself, so that a signal handler may post at any moment.
    """

    def __init__(self, session_id: str, api: RestApi) -> None:
        self._session_id = session_id
        self._api = api
        # The keys of messages by the ids that their posts returned: none of them is another post's lost message.
        self._sent: dict[str, str] = {}
        # What is being posted, by key: its events may be read before its answer.
        self._posting: dict[str, str] = {}
        # What the keys begin with that are made here: such a message is known without being remembered.
        self._own = os.urandom(8).hex()
        # Messages that may or may not have arrived, by key. On 3.0 only their text finds them: it drops the key.
        self._doubtful: dict[str, tuple[str, int]] = {}

    def post(
        self, draft: Draft, *, since: int, deadline: Deadline, attempts: float = float("inf")
    ) -> tuple[Event, bool]:
        """Post; return the stored event, and whether it was found by looking because no answer came.

        Tried for ``request_timeout`` or until ``deadline``, whichever is earlier. Only what the server certainly did
        not take is repeated. ``since`` is an offset that the message cannot be below. Raises DeliveryUncertain if it
        is not known whether the server has it.
        """
        if not draft.key:
            draft.key = self._own + os.urandom(8).hex()
        span = Span("post", session_id=self._session_id, key=draft.key) if OPENTELEMETRY in sys.modules else None
        try:
            self._posting[draft.key] = draft.message
            event, found = self._post(draft, since, deadline, attempts)
            remember(self._sent, event.id, draft.key)
        except BaseException as error:
            if span is not None:
                span.end(error)
            raise
        finally:
            self._posting.pop(draft.key, None)
        if span is not None:
            span.end(offset=event.offset)
        if draft.metadata and not _keeps_metadata(event):
            self._warn("the metadata of messages")
        return event, found

    def _post(self, draft: Draft, since: int, deadline: Deadline, attempts: float) -> tuple[Event, bool]:
        key, body = draft.key, draft.body()
        params = {"moderation": draft.moderation} if draft.moderation is not None else None
        failure = Failure()
        started, tries = time.monotonic(), 0
        limit = self._api.transport.settings.request_timeout
        posting = Deadline(min(deadline.remaining(), limit))
        limiter, stop = self._api.post_limiter, self._api.stop_signal

        def once() -> Event:
            nonlocal tries
            # After a 429 all posts of the client pause together, and then take turns.
            if not limiter.limiting:
                limiter.went.append(time.monotonic())
            elif not limiter.wait(stop, posting) and not stop.is_set():
                raise self._not_its_turn(limiter.delay())
            tries += 1
            try:
                event = self._api.create_event(
                    self._session_id,
                    body,
                    failure=failure,
                    params=params,
                    read_timeout=posting.between(LEAST, limit),
                )
            except errors.RateLimitedError as error:
                limiter.limited(error.retry_after)
                raise
            if not self._is_of(event, key):
                self._api.transport.reconnect()
                raise errors.TransportError(
                    f"session {self._session_id} on {self._api.transport.base_url}: the answer to the post of message "
                    f"{key} belongs to another request; something on the way delivers answers twice"
                )
            return event

        try:
            return self._api.again(
                once, lambda error: may_repeat(error, failure), deadline=posting, attempts=attempts
            ), False
        except errors.ParlantSyncError as error:
            if not_stored(error, failure):
                if tries > 1 and type(error) is errors.TransportError:
                    took = time.monotonic() - started
                    tried = errors.TransportError(f"{error} (tried {tries} times in {took:.1f} s; nothing was posted)")
                    raise tried from error
                raise
            remember(self._doubtful, key, (draft.message, since))
            found = self._look_for(key, deadline, error)
            if found is None:
                raise
            return found, True

    def _not_its_turn(self, pause: float) -> errors.RateLimitedError:
        return errors.RateLimitedError(
            f"session {self._session_id} on {self._api.transport.base_url}: nothing was posted: the server "
            "has refused posts with 429, and the turn of this one does not come in time; wait longer, or post less "
            "often",
            method="POST",
            path=events_path(self._session_id),
            retry_after=pause,
        )

    def find(self, key: str, *, deadline: Deadline | None = None, attempts: int = 3) -> Event | None:
        """The message under ``key`` in the server's list; None if it is not there now."""
        message, since = self._doubtful.get(key, (None, 0))
        found = self._match(self._list(since, deadline, attempts), key, message)
        if found is None and since > 0:
            # Below what was known: only if the server's numbering went back (WIRE.md).
            found = self._match(self._list(0, deadline, attempts), key, None)
        return found

    def has_sent(self, event: Event) -> bool:
        """Whether this message is from a post of this object, which may still be under way.

        Of messages under a key of the caller's, or on 3.0, which drops the keys, only the latest are remembered.
        """
        key = event.metadata.get(KEY)
        if key in self._posting or (isinstance(key, str) and key.startswith(self._own)):
            return True
        posting = not _keeps_metadata(event) and event.message in self._posting.values()
        return posting or event.id in self._sent

    def _warn(self, what: str) -> None:
        """Log once what an old server drops silently."""
        if self._api.first_time(what):
            logger.warning(
                "session %s on %s: this server drops %s; Parlant keeps them from 3.1 on",
                self._session_id,
                self._api.transport.base_url,
                what,
            )

    def _list(self, since: int, deadline: Deadline | None, attempts: int) -> list[Event]:
        return self._api.list_events(
            self._session_id,
            since,
            kinds=frozenset({"message"}),
            deadline=deadline,
            attempts=attempts,
        )

    def _match(self, events: list[Event], key: str, message: str | None) -> Event | None:
        for event in events:
            if event.metadata.get(KEY) == key or self._sent.get(event.id) == key:
                return event
        if message is None:
            if events and not any(map(_keeps_metadata, events)):
                self._warn("the keys of messages, so find() knows those posted by this object alone")
            return None
        for event in events:
            # 3.0 has no metadata at all: only the text, the source and the place are left.
            same = event.source == "customer" and event.message == message and not _keeps_metadata(event)
            if same and self._sent.setdefault(event.id, key) == key:  # and no other post of this object has it
                return event
        return None

    def _is_of(self, event: Event, key: str) -> bool:
        """Whether this answer to the post of ``key`` is its own. 3.0 drops the keys, but an id is of one post alone."""
        known = self._sent.get(event.id, key)
        return known == key and (not _keeps_metadata(event) or event.metadata.get(KEY) == key)

    def _look_for(self, key: str, deadline: Deadline, cause: errors.ParlantSyncError) -> Event | None:
        """Find the message whose post failed with ``cause``; None if that proves that it is not stored."""
        logger.info("session %s: looking for message %s after: %s", self._session_id, key, cause)
        limit = self._api.transport.settings.request_timeout
        until = Deadline(min(max(deadline.remaining(), _GRACE), limit))
        looks = 0  # those that the server answered: the trouble that hid the answer may hide the list as well
        redirected = 0  # those that were redirected
        was_redirected = _redirects(cause)  # no closure has ``cause``: it would hold the frames of the post

        def look() -> Event:
            nonlocal looks, redirected
            try:
                event = self.find(key, deadline=Deadline(until.between(LEAST, 5.0)), attempts=1)
            except errors.ParlantSyncError as error:
                logger.debug("session %s: cannot look for message %s: %s", self._session_id, key, error)
                redirected += _redirects(error)
                raise
            looks += 1
            if event is None:
                logger.debug("session %s: message %s is not in the list (look %d)", self._session_id, key, looks)
                raise _NotListed
            return event

        def may_look_again(error: BaseException) -> bool:
            if isinstance(error, _NotListed):
                return looks < len(LOOKS)
            return unread(error) and not wrong_address(_REDIRECTS)

        def wrong_address(least: int) -> bool:
            """One redirect of a look may be another fault of the same kind (found by the soak)."""
            return was_redirected and looks == 0 and redirected >= least

        def pause(failures: int) -> float:
            return LOOKS[looks] if looks == failures else max(LOOKS[looks], 0.5)

        try:
            return self._api.again(look, may_look_again, deadline=until, attempts=float("inf"), pauses=pause)
        except (_NotListed, errors.ParlantSyncError):
            if wrong_address(2):  # there may have been no time for more
                return None  # nothing behind the address has seen the message
        if looks and (_is_servers_500(cause) or refuses(cause)):
            return None  # the server itself says that it failed, or a proxy that it refused, and the list agrees
        raise errors.DeliveryUncertain(
            f"session {self._session_id} on {self._api.transport.base_url}: the message with key {key} may or may not "
            f"have arrived ({cause}); call session.find({key!r}) later, before you send it again",
            key=key,
            session_id=self._session_id,
        ) from cause


def _redirects(error: BaseException) -> bool:
    return isinstance(error, errors.ApiError) and 300 <= error.status < 400


def _is_servers_500(error: BaseException) -> bool:
    """Whether Parlant itself failed, not a proxy: it answers so with JSON, or with the plain text of its framework."""
    if not isinstance(error, errors.ServerError) or error.status != 500:
        return False
    return error.from_parlant or error.detail == "Internal Server Error"


def _keeps_metadata(event: Event) -> bool:
    return "metadata" in event.raw


def remember(memory: dict[Any, Any], name: Any, value: Any) -> None:
    """Add it, and forget the oldest ones above the limit."""
    memory[name] = value
    for oldest in list(memory)[:-_REMEMBERED]:
        memory.pop(oldest, None)
