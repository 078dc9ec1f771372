"""What the cache holds, and clearing it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgekit.cache import cache_folder, clear, usage
from edgekit.documents.host import CacheDocument, CachePart
from edgekit.errors import OutputError


def describe_cache(freed_bytes: int | None = None) -> CacheDocument:
    """Raises OutputError where there is a cache that cannot be read."""
    folder = cache_folder()
    with _explained("read"):
        if folder.exists():  # one that cannot be listed looks empty to usage()
            next(folder.iterdir(), None)
        parts = [
            CachePart(name=name, entries=entries, size_mb=size / 1e6)
            for name, entries, size in usage()
        ]
    return CacheDocument(
        schema_="edgekit.cache/1",
        folder=str(folder),
        parts=tuple(parts),
        size_mb=sum(part.size_mb for part in parts),
        freed_mb=None if freed_bytes is None else freed_bytes / 1e6,
    )


def clear_cache() -> CacheDocument:
    """Remove what builds make again by themselves. Raises OutputError: it cannot be written."""
    with _explained("cleared"):
        freed_bytes = clear()
    return describe_cache(freed_bytes)


@contextmanager
def _explained(verb: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"the cache {cache_folder()} cannot be {verb}: {error.strerror or error}",
            "it needs your own account's rights; XDG_CACHE_HOME names another place for it",
        ) from None
