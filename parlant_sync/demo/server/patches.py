# mypy: disallow-subclassing-any=False
"""What this server changes in Parlant's stores: JSON files that survive a kill, and a faster store in memory."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from parlant.adapters.db import json_file
from parlant.adapters.db.transient import TransientDocumentCollection, TransientDocumentDatabase
from parlant.core.sessions import SessionDocumentStore

# The field by which each collection is divided.
_KEYS = {"sessions": "id", "events": "session_id"}


def make_json_files_survive_a_kill() -> None:
    """Let Parlant replace its JSON files in one step.

    Parlant truncates a file and writes it again for every event. A server that is killed in between would start again
    with an empty store.
    """

    async def save(database: Any, data: Mapping[str, Any]) -> None:
        path = database.file_path
        new = path.with_name(path.name + ".new")
        text = json.dumps({**database._raw_data, **data}, ensure_ascii=False)
        new.write_text(text, encoding="utf-8")
        os.replace(new, path)

    json_file.JSONFileDocumentDatabase._save_data = save


def pass_over_other_sessions() -> None:
    """Let Parlant apply a filter that names one session to the documents of that session alone.

    It goes through all events of all sessions for each long poll, four times a second. The answers are the same.
    """
    collection = json_file.JSONFileDocumentCollection
    for method in ("find", "find_one"):
        setattr(collection, method, _narrowed(getattr(collection, method)))


def _narrowed(find: Any) -> Any:
    async def narrowed(collection: Any, filters: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        for name in ("session_id", "id"):
            if (wanted := filters.get(name, {}).get("$eq")) is not None:
                collection = copy.copy(collection)
                collection.documents = [document for document in collection.documents if document.get(name) == wanted]
        return await find(collection, filters, *args, **options)

    return narrowed


def session_store_in_memory() -> Any:
    """A session store in memory, as an async context manager.

    Parlant's own store looks through all events of all sessions for each long poll, four times a second. Some hundred
    waiting sessions keep a processor busy with that. Here the documents of each session are a collection of their own.
    """
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
        """What the base class searches if a filter does not name the key."""
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
