"""What is about to be posted, written down before it is: where a crashed batch looks for its rows in flight."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parlant_sync import ConfigurationError
from parlant_sync.batch.files import LineFile
from parlant_sync.batch.results import Result, TurnResult
from parlant_sync.batch.rows import Row

_VERSION = 1


@dataclass(frozen=True)
class Entry:
    """One message of a row that may be posted from now on.

    ``started`` names the attempt (its result has the same), ``at`` is the wall clock's time in seconds, since another
    process may have to count from it. ``turns`` are the earlier messages of the row, each over.
    """

    row: str
    started: str
    session: str
    turn: int
    key: str
    at: float
    digest: str
    turns: tuple[TurnResult, ...] = ()

    def to_json(self) -> dict[str, Any]:
        # The turns before the last are in earlier lines.
        value = asdict(self)
        del value["turns"]
        return {**value, "before": asdict(self.turns[-1]) if self.turns else None}

    @staticmethod
    def read(value: Mapping[str, Any], earlier: Entry | None) -> Entry:
        """Raises KeyError, TypeError, ValueError for what is no entry."""
        turn, before = int(value["turn"]), value["before"]
        known = earlier.turns if earlier is not None and earlier.started == value["started"] else ()
        turns = known[: max(0, turn - 1)] + ((TurnResult.read(before),) if before is not None else ())
        if len(turns) != turn:
            raise ValueError("an entry whose earlier turns are missing")
        return Entry(
            row=str(value["row"]),
            started=str(value["started"]),
            session=str(value["session"]),
            turn=turn,
            key=str(value["key"]),
            at=float(value["at"]),
            digest=str(value["digest"]),
            turns=turns,
        )


class Journal:
    """The journal of one file of results, next to it. For one thread at a time; locked for as long as it is open."""

    def __init__(self, path: Path, *, look_only: bool = False) -> None:
        self._file = LineFile(path, "row", look_only=look_only)
        self.server: str | None = None
        self.last: dict[str, Entry] = {}
        try:
            self._file.lock()
            self._file.read(self._take)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def beside(results: Path) -> Path:
        return results.with_name(results.name + ".journal")

    def _take(self, value: Mapping[str, Any]) -> None:
        if value["row"] is None:
            self.server = str(value["server"])
            if value["version"] > _VERSION:
                raise ConfigurationError(f"{self._file.path} is from a newer version of parlant-sync; use that one")
        else:
            entry = Entry.read(value, self.last.get(value["row"]))
            self.last[entry.row] = entry

    def in_flight(self, rows: Iterable[Row], results: Iterable[Result]) -> dict[str, Entry]:
        """The entries of those rows whose last attempt has no result.

        Raises ConfigurationError where a row is not the question any more that its id stood for.
        """
        found: dict[str, Entry] = {}
        over_with = {(result.id, result.started): result for result in results}
        for row in rows:
            entry = self.last.get(row.id)
            if entry is None:
                continue
            result = over_with.get((row.id, entry.started))
            # A row that failed may be put right and asked again.
            if entry.digest != row.digest and (result is None or result.ok):
                raise ConfigurationError(
                    f"row {row.id!r} is not what it was in an earlier run on these results; "
                    "put back the old text, give changed rows an id of their own, or take another file for the results"
                )
            if result is None:
                found[row.id] = entry
        return found

    def begin(self, server: str, *, in_flight: bool) -> None:
        """A run with this server. Raises ConfigurationError where rows in flight were asked of another one."""
        if self.server == server:
            return
        if in_flight and self.server is not None:
            raise ConfigurationError(
                f"rows of this batch are in flight at {self.server}, not at {server}; finish it with that address"
            )
        self._file.append([{"row": None, "version": _VERSION, "server": server}])
        self.server = server

    def write(self, entries: Iterable[Entry]) -> None:
        """On the disk when this returns: only then may they be posted. Raises OSError, having written nothing."""
        self._file.append(entry.to_json() for entry in entries)

    def discard(self) -> None:
        """For a run that sends nothing: take away what it has made."""
        self._file.discard()

    def close(self) -> None:
        self._file.close()
