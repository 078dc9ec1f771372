"""cache show and clear, as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import documented, run_edgekit


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "edgekit"


def fill(cache: Path) -> None:
    for name, size in (("stages/int8-1", 1_500_000), ("runners/abc", 500_000), ("mine/x", 7)):
        (cache / name).mkdir(parents=True)
        (cache / name / "file").write_bytes(bytes(size))


def test_show_tells_parts_and_folder(cache) -> None:
    fill(cache)
    document = documented("cache", "show")
    assert document["schema"] == "edgekit.cache/1"
    assert document["folder"] == str(cache)
    assert document["freed_mb"] is None
    parts = {part["name"]: part for part in document["parts"]}
    assert parts["stages"]["entries"] == 1
    assert parts["stages"]["size_mb"] == pytest.approx(1.5, abs=0.1)
    assert document["size_mb"] == pytest.approx(2.0, abs=0.1)
    text = run_edgekit("cache", "show").stdout
    assert [line.split()[:2] for line in text.splitlines()[1:4]] == [
        ["mine", "1"],
        ["runners", "1"],
        ["stages", "1"],
    ]
    assert str(cache) in text


def test_clear_frees_what_builds_make_again(cache) -> None:
    fill(cache)
    document = documented("cache", "clear")
    assert document["freed_mb"] == pytest.approx(2.0, abs=0.1)
    assert [part["name"] for part in document["parts"]] == ["mine"]
    assert (cache / "mine" / "x" / "file").exists()
    assert "freed 0.0 MB" in run_edgekit("cache", "clear").stdout


def test_a_cache_that_does_not_exist_is_empty(cache) -> None:
    shown = run_edgekit("cache", "show")
    assert (shown.returncode, shown.stdout) == (0, f"the cache {cache} is empty\n")
    cleared = run_edgekit("cache", "clear")
    assert cleared.returncode == 0
    assert "freed 0.0 MB" in cleared.stdout
    assert not cache.exists()


def test_a_cache_that_cannot_be_read(cache) -> None:
    cache.write_text("a file")
    document = documented("cache", "show", code=1)
    assert document["error"] == "OutputError"
    assert document["message"] == f"the cache {cache} cannot be read: Not a directory"
    assert "XDG_CACHE_HOME" in document["hint"]


def test_a_cache_that_cannot_be_cleared(cache, monkeypatch) -> None:
    from edgekit.commands import cache as housekeeping
    from edgekit.errors import OutputError

    def refuse() -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(housekeeping, "clear", refuse)
    with pytest.raises(OutputError, match="cannot be cleared: Permission denied"):
        housekeeping.clear_cache()
