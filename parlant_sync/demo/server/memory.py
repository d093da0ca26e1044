# mypy: disallow-subclassing-any=False
"""Parlant's in-memory session store, with a faster way to the events of one session.

Parlant's own looks through all events of all sessions for each long poll, four times a second.
Some hundred waiting sessions keep a processor busy with that, and a test of them would measure
nothing else. Here each session's documents are a collection of Parlant's own of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from parlant.adapters.db.transient import TransientDocumentCollection, TransientDocumentDatabase
from parlant.core.sessions import SessionDocumentStore

# The field by which a collection is looked up.
_KEYS = {"sessions": "id", "events": "session_id"}


def session_store() -> Any:
    """A session store in memory; to be entered as an async context manager."""
    return SessionDocumentStore(_Database())


class _Database(TransientDocumentDatabase):
    async def create_collection(self, name: str, schema: Any) -> Any:
        if name not in _KEYS:
            return await super().create_collection(name, schema)
        self._collections[name] = collection = _Divided(name, schema)
        return collection


class _Divided(TransientDocumentCollection):
    """A collection in parts, one for each value of its key."""

    def __init__(self, name: str, schema: Any) -> None:
        self._key = _KEYS[name]
        self._parts: dict[str, Any] = {}
        super().__init__(name, schema)

    @property
    def _documents(self) -> list[Any]:
        """What the base class searches where a filter does not name the key."""
        return [document for part in self._parts.values() for document in part._documents]

    @_documents.setter
    def _documents(self, documents: Iterable[Any]) -> None:
        assert not documents, "starts empty"

    def _part(self, key: str) -> Any:
        if key not in self._parts:
            self._parts[key] = TransientDocumentCollection(self._name, self._schema)
        return self._parts[key]

    def _named(self, filters: Mapping[str, Any]) -> str | None:
        """The one key that *filters* ask for, else None."""
        alternatives = filters.get("$or", [filters])
        keys = {alternative.get(self._key, {}).get("$eq") for alternative in alternatives}
        return keys.pop() if len(keys) == 1 else None

    async def find(self, filters: Any, *args: Any, **options: Any) -> Any:
        key = self._named(filters)
        if key is None:
            return await super().find(filters, *args, **options)
        return await self._part(key).find(filters, *args, **options)

    async def find_one(self, filters: Any, *args: Any, **options: Any) -> Any:
        key = self._named(filters)
        if key is None:
            return await super().find_one(filters, *args, **options)
        return await self._part(key).find_one(filters, *args, **options)

    async def insert_one(self, document: Any) -> Any:
        return await self._part(document[self._key]).insert_one(document)

    async def update_one(self, filters: Any, params: Any, upsert: bool = False) -> Any:
        for part in self._affected(filters):
            result = await part.update_one(filters, params)
            if result.matched_count:
                return result
        return await super().update_one(filters, params, upsert)

    async def delete_one(self, filters: Any) -> Any:
        for part in self._affected(filters):
            result = await part.delete_one(filters)
            if result.deleted_count:
                return result
        return await super().delete_one(filters)

    def _affected(self, filters: Mapping[str, Any]) -> list[Any]:
        key = self._named(filters)
        return list(self._parts.values()) if key is None else [self._part(key)]
