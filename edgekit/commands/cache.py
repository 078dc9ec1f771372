"""cache: shows and clears the cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgekit.cache import POINTS, cache_folder, clear, usage
from edgekit.documents.host import CacheDocument, CachePart
from edgekit.errors import OutputError
from edgekit.search import points


def describe_cache(freed_bytes: int | None = None) -> CacheDocument:
    """The content of the cache. Raises OutputError if it exists and cannot be read."""
    folder = cache_folder()
    with _explaining("read"):
        if folder.exists():  # usage() reports an unreadable folder as empty
            next(folder.iterdir(), None)
        parts = [
            CachePart(
                name=name,
                entries=points.count(folder / name) if name == POINTS else entries,
                size_mb=size / 1e6,
            )
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
    """Remove all that builds can make again. Raises OutputError if that is not possible."""
    with _explaining("cleared"):
        freed_bytes = clear()
    return describe_cache(freed_bytes)


@contextmanager
def _explaining(verb: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"the cache {cache_folder()} cannot be {verb}: {error.strerror or error}",
            "it must belong to your account; XDG_CACHE_HOME sets another folder",
        ) from None
