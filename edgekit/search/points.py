"""Measured points of searches, in an SQLite database of the cache that all builds share.

A point is a value under a digest of everything that it depends on. A search that was interrupted
finds the points that it had; one that depends on anything else finds none. The database is a
convenience: if it cannot be used, the search goes on without it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from edgekit.cache import POINTS, cache_folder, content_key

FILE = "points.sqlite"
SCHEMA = 1
# Another build may write at the same time: so long is waited for it.
BUSY_S = 30.0
# What was measured on a device is used for so long: a board may change from one day to the next.
DEVICE_POINTS_S = 24 * 3600
# Some hundred bytes each; the oldest are removed.
MOST_POINTS = 500_000
TABLE = """
CREATE TABLE IF NOT EXISTS points (
    key TEXT PRIMARY KEY, kind TEXT NOT NULL, value TEXT NOT NULL, digest TEXT NOT NULL,
    search TEXT, created REAL NOT NULL
) WITHOUT ROWID
"""


class Points:
    """The database. ``note``: called once if it is set aside, or cannot be used.

    ``kind`` is for people who look into it. ``search``: the search that a point of a device belongs
    to; None: the point may be used at any time.
    """

    def __init__(self, note: Callable[[str], None], folder: Path | None = None) -> None:
        self._note = note
        self._path = (folder or cache_folder() / POINTS) / FILE
        self._database: sqlite3.Connection | None = None
        self._inode: int | None = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._disable(error.strerror or str(error))
            return
        self._try(self._open)

    def get(self, key: str) -> str | None:
        """The value; None if there is none, it is damaged, or it is a device's and too old."""
        rows = self._query(
            "SELECT value, digest FROM points WHERE key = ? AND (search IS NULL OR created > ?)",
            key,
            time.time() - DEVICE_POINTS_S,
        )
        return next((value for value, digest in rows if digest == _digest(key, value)), None)

    def put(self, key: str, kind: str, value: str, search: str | None = None) -> None:
        """Store a value. It is safe from a kill of the process when this returns."""
        row = (key, kind, value, _digest(key, value), search, time.time())
        self._query("INSERT OR REPLACE INTO points VALUES (?, ?, ?, ?, ?, ?)", *row)

    def forget(self, search: str) -> None:
        """Remove the points of a device that belong to a search, which is finished."""
        self._query("DELETE FROM points WHERE search = ?", search)

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _query(self, statement: str, *values: object) -> list[tuple[str, ...]]:
        def run() -> list[tuple[str, ...]]:
            if self._database is None:
                return []
            return self._database.execute(statement, values).fetchall()

        return self._try(run) or []

    def _try(self, work: Callable[[], list[tuple[str, ...]]]) -> list[tuple[str, ...]]:
        """Set a damaged database aside and start a new one; give up if it cannot be written."""
        for is_last in (False, True):
            try:
                return work()
            except sqlite3.OperationalError as error:  # a full disk, a read-only folder
                self._disable(str(error))
                break
            except sqlite3.DatabaseError as error:
                if is_last or not self._set_aside(str(error)):
                    self._disable(str(error))
                    break
                if work != self._open:
                    self._try(self._open)
        return []

    def _open(self) -> list[tuple[str, ...]]:
        database = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)
        self._inode = self._path.stat().st_ino
        try:
            (schema,) = database.execute("PRAGMA user_version").fetchone()
            if schema > SCHEMA:
                raise sqlite3.DatabaseError("it is of a newer version of edgekit")
            # A writer blocks no readers; a killed process loses no committed point.
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            database.execute(TABLE)
            database.execute(f"PRAGMA user_version={SCHEMA}")
            _make_room(database)
        except BaseException:
            database.close()
            raise
        self._database = database
        return []

    def _set_aside(self, why: str) -> bool:
        self.close()
        aside = self._path.with_suffix(".set-aside")
        try:
            if self._path.stat().st_ino != self._inode:
                return True  # another build has set it aside
            self._path.replace(aside)
            for suffix in ("-wal", "-shm"):  # a newer edgekit may still write to them
                with suppress(FileNotFoundError):
                    self._path.with_name(FILE + suffix).replace(
                        aside.with_name(aside.name + suffix)
                    )
        except OSError:
            return False
        self._note(f"the points of earlier searches are not used: {why}; now {aside}")
        return True

    def _disable(self, why: str) -> None:
        with suppress(sqlite3.Error):
            self.close()
        self._database = None
        self._note(
            f"the points of this search are not stored ({self._path.parent}: {why}): an "
            "interrupted search would start again"
        )


def count(folder: Path) -> int:
    """The number of points in a folder of the cache; 0 if it cannot be read."""
    with suppress(sqlite3.Error):
        address = f"{(folder / FILE).absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, timeout=1, uri=True)) as database:
            return int(database.execute("SELECT COUNT(*) FROM points").fetchone()[0])
    return 0


def _make_room(database: sqlite3.Connection) -> None:
    """Remove a device's points that are too old, and the oldest of too many."""
    too_old = time.time() - DEVICE_POINTS_S
    database.execute("DELETE FROM points WHERE search IS NOT NULL AND created <= ?", (too_old,))
    (stored,) = database.execute("SELECT COUNT(*) FROM points").fetchone()
    if stored > MOST_POINTS:
        database.execute(
            "DELETE FROM points WHERE key IN (SELECT key FROM points ORDER BY created LIMIT ?)",
            (stored - MOST_POINTS // 2,),
        )


def _digest(key: str, value: str) -> str:
    """SQLite has no checksums of its own: a damaged value must not be used."""
    return content_key([key.encode(), value.encode()])[:16]
