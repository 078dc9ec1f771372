"""Points of a search: found again under their key only, and never a reason to stop."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgekit.cache import cache_folder, clear
from edgekit.commands.cache import describe_cache
from edgekit.search import points
from edgekit.search.points import FILE, Points

KILLED = """
import os, signal, sys
from pathlib import Path
from edgekit.search.points import Points
points = Points(print, Path(sys.argv[1]))
points.put("a", "width", "1")
os.kill(os.getpid(), signal.SIGKILL)
"""


def opened(folder: Path) -> tuple[Points, list[str]]:
    notes: list[str] = []
    return Points(notes.append, folder), notes


def test_a_point_is_found_by_its_key_also_by_a_later_build(tmp_path: Path) -> None:
    first, _ = opened(tmp_path)
    assert first.get("a") is None
    first.put("a", "width", '{"loss": 0.1}')
    first.close()
    second, notes = opened(tmp_path)
    assert second.get("a") == '{"loss": 0.1}' and second.get("b") is None
    assert not notes


def test_a_killed_process_loses_no_stored_point(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    found, notes = opened(tmp_path)
    assert found.get("a") == "1" and not notes


def test_builds_may_write_at_the_same_time(tmp_path: Path) -> None:
    def write(build: int) -> list[str]:
        store, notes = opened(tmp_path)
        for number in range(30):
            store.put(f"{build} {number}", "width", str(number))
        store.close()
        return notes

    with ThreadPoolExecutor(4) as pool:
        notes = list(pool.map(write, range(4)))
    assert notes == [[]] * 4
    assert points.count(tmp_path) == 120


def test_a_damaged_database_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    store, notes = opened(tmp_path)
    assert store.get("a") is None and len(notes) == 1
    store.put("a", "width", "1")
    store.close()
    again, more = opened(tmp_path)
    assert again.get("a") == "1" and not more
    assert (tmp_path / FILE).with_suffix(".set-aside").read_bytes().startswith(b"no database")


def test_damage_that_is_found_late_is_set_aside_too(tmp_path: Path) -> None:
    store, notes = opened(tmp_path)
    for number in range(2000):
        store.put(str(number), "width", "x" * 50)
    store.close()
    with (tmp_path / FILE).open("r+b") as file:
        file.seek(3 * 4096)
        file.write(os.urandom(20 * 4096))
    store, notes = opened(tmp_path)
    for number in range(2000):
        assert store.get(str(number)) in (None, "x" * 50)
    assert len(notes) == 1 and str(tmp_path) in notes[0]
    store.put("a", "width", "1")
    assert store.get("a") == "1"


def test_a_changed_value_is_not_used(tmp_path: Path) -> None:
    store, notes = opened(tmp_path)
    store.put("a", "width", "1")
    with sqlite3.connect(tmp_path / FILE) as other:
        other.execute("UPDATE points SET value = '2'")
    other.close()
    assert store.get("a") is None and not notes


def test_a_newer_schema_is_set_aside_as_it_is(tmp_path: Path) -> None:
    newer = sqlite3.connect(tmp_path / FILE)
    newer.execute("CREATE TABLE points (other TEXT)")
    newer.execute(f"PRAGMA user_version={points.SCHEMA + 1}")
    newer.close()
    store, notes = opened(tmp_path)
    store.put("a", "width", "1")
    assert store.get("a") == "1" and "newer" in notes[0]
    aside = sqlite3.connect((tmp_path / FILE).with_suffix(".set-aside"))
    assert aside.execute("SELECT * FROM points").fetchall() == []
    aside.close()


def test_a_full_disk_only_ends_the_storing(tmp_path: Path) -> None:
    store, notes = opened(tmp_path)
    assert store._database is not None
    store._database.execute("PRAGMA max_page_count=3")
    for number in range(50):
        store.put(str(number), "width", "x" * 1000)
    assert len(notes) == 1 and "full" in notes[0]
    assert store.get("0") is None


def test_a_folder_that_cannot_be_used_only_ends_the_storing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store, notes = opened(tmp_path / "file")
    store.put("a", "width", "1")
    assert store.get("a") is None and len(notes) == 1


def test_what_a_device_measured_is_used_until_its_search_ends(tmp_path, monkeypatch) -> None:
    store, _ = opened(tmp_path)
    store.put("a", "cost", "1", "search 1")
    store.put("b", "cost", "2", "search 2")
    store.put("c", "width", "3")
    store.forget("search 1")
    assert [store.get(key) for key in "abc"] == [None, "2", "3"]
    now = points.time.time()
    monkeypatch.setattr(points.time, "time", lambda: now + points.DEVICE_POINTS_S + 1)
    assert [store.get(key) for key in "abc"] == [None, None, "3"]
    store.close()
    opened(tmp_path)
    assert points.count(tmp_path) == 1


def test_too_many_points_lose_the_oldest(tmp_path, monkeypatch) -> None:
    store, _ = opened(tmp_path)
    for number in range(10):
        store.put(str(number), "width", str(number))
    store.close()
    monkeypatch.setattr(points, "MOST_POINTS", 6)
    store, _ = opened(tmp_path)
    assert [store.get(str(number)) for number in (0, 9)] == [None, "9"]


@pytest.mark.usefixtures("fresh_cache")
def test_the_cache_commands_know_them() -> None:
    store = Points(print)
    store.put("a", "width", "1")
    store.put("b", "width", "2")
    parts = {part.name: part for part in describe_cache().parts}
    assert parts["points"].entries == 2
    for name in ("runners", "zig"):  # links to this machine's own
        (cache_folder() / name).unlink()
    clear()
    assert "points" not in {part.name for part in describe_cache().parts}
    store.put("c", "width", "3")
    assert store.get("c") in (None, "3"), "a build at the same time goes on"
