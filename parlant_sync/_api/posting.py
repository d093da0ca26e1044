"""Posting a customer's message at most once, and finding out whether it arrived where the answer does not tell."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from parlant_sync import errors
from parlant_sync._api.calls import may_repeat, not_taken, unread
from parlant_sync._api.rest import RestApi, events_path
from parlant_sync._api.retry import LEAST, LONGEST_RETRY_AFTER, StopSignal, retrying
from parlant_sync._deadline import Deadline
from parlant_sync._http.transport import Failure
from parlant_sync.events import Event

logger = logging.getLogger(__name__)

# Where a message's key travels, inside its metadata.
KEY = "parlant_sync_key"
# How long a message is looked for that may still be on its way into the store, in seconds between the looks.
LOOKS = (0.0, 0.2, 0.4, 0.8, 1.6)
# A look is made even where the caller's time has run out over the post: the caller must know what became of it.
_GRACE = 2.0
_REMEMBERED = 256


class MessagePoster:
    """The posts of one session. Thread-safe."""

    def __init__(self, session_id: str, api: RestApi, stop: StopSignal) -> None:
        self._session_id = session_id
        self._api = api
        self._stop = stop
        self._warned = False
        self._lock = threading.Lock()  # guards _sent and _doubtful
        # Ids of messages that posts of this object gave back: none of them is somebody else's lost message.
        self._sent: OrderedDict[str, str] = OrderedDict()
        # What was posted under a key whose fate is not known: 3.0 drops the metadata, and the key with it.
        self._doubtful: OrderedDict[str, tuple[str, int]] = OrderedDict()

    def post(
        self,
        message: str,
        *,
        key: str | None,
        metadata: Mapping[str, Any] | None,
        moderation: str | None,
        participant: Mapping[str, Any] | None,
        source: str = "customer",
        since: int,
        deadline: Deadline,
        attempts: float = float("inf"),
    ) -> tuple[Event, bool]:
        """Post and return the stored event, and whether it was found by looking, for no answer told.

        ``since`` is an offset that the message cannot be below. Repeats only what the server certainly did not take.
        Raises DeliveryUncertain where nobody can tell.
        """
        if key is None:
            key = os.urandom(16).hex()
        body: dict[str, Any] = {"kind": "message", "source": source, "message": message}
        body["metadata"] = {**(metadata or {}), KEY: key}
        if participant is not None:
            body["participant"] = dict(participant)
        params = {"moderation": moderation} if moderation is not None else None
        failure = Failure()
        limit = self._api.transport.settings.request_timeout

        limiter = self._api.post_limiter
        limited: list[errors.RateLimitedError] = []

        def once() -> Event:
            # After a 429 all posts of the client wait together, and then take turns.
            if not limiter.wait(self._stop, deadline) and not self._stop.is_set():
                raise limited[-1] if limited else self._not_its_turn(limiter.delay())
            timeout = deadline.between(LEAST, limit)
            try:
                return self._api.create_event(
                    self._session_id, body, failure=failure, params=params, read_timeout=timeout
                )
            except errors.RateLimitedError as error:
                limiter.limited(error.retry_after)
                limited[:] = [error]
                raise

        try:
            event = retrying(
                once,
                deadline=deadline,
                attempts=attempts,
                may_retry=lambda error: may_repeat(error, failure),
                stop=self._stop,
            )
            found = False
        except errors.ParlantSyncError as error:
            if _not_stored(error, failure):
                raise
            with self._lock:
                _remember(self._doubtful, key, (message, since))
            event = self._look_for(key, deadline, error)
            found = True
        with self._lock:
            _remember(self._sent, event.id, key)
            self._doubtful.pop(key, None)
        if metadata and not _keeps_metadata(event):
            self._warn("the metadata of messages")
        return event, found

    def _not_its_turn(self, pause: float) -> errors.RateLimitedError:
        return errors.RateLimitedError(
            f"session {self._session_id} on {self._api.transport.base_url}: nothing was posted, for the server has "
            "refused other posts with 429, and this one's turn did not come in time; wait longer, or post less often",
            method="POST",
            path=events_path(self._session_id),
            retry_after=pause,
        )

    def find(self, key: str, *, deadline: Deadline | None = None, attempts: int = 3) -> Event | None:
        """The message under ``key``, by the server's list; None where it holds none now."""
        with self._lock:
            message, since = self._doubtful.get(key, (None, 0))
        found = self._match(self._list(since, deadline, attempts), key, message)
        if found is None and since > 0:
            # Below what was known: only where the server has begun to count again (WIRE.md).
            found = self._match(self._list(0, deadline, attempts), key, None)
        return found

    def has_sent(self, event: Event) -> bool:
        """Whether a post of this object has stored this message."""
        with self._lock:
            return event.id in self._sent

    def _warn(self, what: str) -> None:
        """What an old server drops without a word, told once."""
        if not self._warned:
            self._warned = True
            logger.warning(
                "session %s on %s: this server drops %s; Parlant keeps them from 3.1 on",
                self._session_id,
                self._api.transport.base_url,
                what,
            )

    def _list(self, since: int, deadline: Deadline | None, attempts: int) -> list[Event]:
        return self._api.list_events(
            self._session_id, since, kinds=frozenset({"message"}), deadline=deadline, attempts=attempts
        )

    def _match(self, events: list[Event], key: str, message: str | None) -> Event | None:
        with self._lock:
            ours = dict(self._sent)
        for event in events:
            if event.metadata.get(KEY) == key or ours.get(event.id) == key:
                return event
        if message is None:
            if events and not any(map(_keeps_metadata, events)):
                self._warn("the keys of messages, so find() knows those posted by this object alone")
            return None
        for event in events:
            # 3.0 has no metadata at all: there the text, the source and the place must do.
            same = event.source == "customer" and event.message == message and not _keeps_metadata(event)
            if same and self._claim(event.id, key):
                return event
        return None

    def _claim(self, event_id: str, key: str) -> bool:
        """Whether this message is the one of ``key``, and so of no other post of this object."""
        with self._lock:
            if self._sent.get(event_id, key) != key:
                return False
            _remember(self._sent, event_id, key)
            return True

    def _look_for(self, key: str, deadline: Deadline, cause: errors.ParlantSyncError) -> Event:
        logger.info("session %s: looking for message %s after: %s", self._session_id, key, cause)
        until = Deadline(max(deadline.remaining(), _GRACE))
        looks = list(LOOKS)
        looked = False
        while not self._stop.is_set():
            self._stop.wait(min(looks[0], until.remaining()))
            try:
                event = self.find(key, deadline=Deadline(until.between(LEAST, 5.0)), attempts=1)
            except errors.ParlantSyncError as error:
                logger.debug("session %s: cannot look for message %s: %s", self._session_id, key, error)
                if not unread(error):
                    break  # no patience mends it; what the server holds stays unknown
                if _redirects(error) and _redirects(cause):
                    raise cause from None  # the address itself: what is behind it has seen nothing
                # Not yet a look: the trouble that hid the answer hides the list as well.
                looks[0] = max(looks[0], 0.5)
                if isinstance(error, errors.RateLimitedError):
                    self._api.list_limiter.limited(error.retry_after)  # the pollers pause, too
                    looks[0] = max(looks[0], min(error.retry_after or 0.0, LONGEST_RETRY_AFTER))
            else:
                if event is not None:
                    return event
                looks.pop(0)
                looked = True
            if not looks or until.expired():
                break
        if looked and isinstance(cause, errors.ServerError) and cause.status == 500 and not cause._of_a_proxy:
            raise cause  # the server itself says that it failed
        raise errors.DeliveryUncertain(
            f"session {self._session_id} on {self._api.transport.base_url}: the message with key {key} may or may not "
            f"have arrived ({cause}); ask session.find({key!r}) later, before it is sent again",
            key=key,
            session_id=self._session_id,
        ) from cause


def _not_stored(error: errors.ParlantSyncError, failure: Failure) -> bool:
    """Whether this failure of a post proves that the server does not hold it."""
    if not failure.sent or not_taken(error, failure):
        return True
    if isinstance(error, errors.ApiError) and not isinstance(error, errors.ServerError):
        # A redirect and the two of 4xx that speak of time may be a proxy's, about an answer that did not reach it.
        return error.status >= 400 and error.status not in (408, 425)
    return False


def _redirects(error: errors.ParlantSyncError) -> bool:
    return isinstance(error, errors.ApiError) and 300 <= error.status < 400


def _keeps_metadata(event: Event) -> bool:
    return "metadata" in event.raw


def _remember(memory: OrderedDict[str, Any], name: str, value: Any) -> None:
    memory[name] = value
    while len(memory) > _REMEMBERED:
        memory.popitem(last=False)
