"""What runs in a worker's process. It imports torch only when the first question comes."""

from __future__ import annotations

import platform
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from threading import Lock
from typing import Any

from edgekit.cache import PACKAGES, content_key, versions
from edgekit.errors import WorkerError
from edgekit.version import __version__

# A worker has the models and data of so many builds at once.
LOADED = 2
_loaded: OrderedDict[str, Callable[[str], Any]] = OrderedDict()
# An answer changes weights in place and restores them, and a worker may have several threads.
_lock = Lock()


@cache
def identity() -> str:
    """What a worker must have in common with the process that asks: edgekit, and all versions that
    decide the bytes of an artifact.
    """
    python, *others = versions()
    packages, files = others[: len(PACKAGES)], others[len(PACKAGES) :]
    source = content_key(file.encode() for file in files)[:12]
    edgekit = (f"edgekit {__version__}", f"edgekit's files {source}")
    return "\n".join((*edgekit, f"Python {python}", *packages, platform.machine()))


def perform(question: str, wanted: str, load: str, digest: str, parts: Sequence[bytes]) -> Any:
    """Answer one question. ``digest``: of the parts. Raises WorkerError for another version."""
    if wanted != identity():
        raise WorkerError(differences("the worker", identity(), wanted))
    with _lock:
        if digest not in _loaded:
            module, _, name = load.partition(":")
            _loaded[digest] = getattr(import_module(module), name)(parts)
        _loaded.move_to_end(digest)
        while len(_loaded) > LOADED:
            _loaded.popitem(last=False)
        return _loaded[digest](question)


def differences(who: str, found: str, wanted: str) -> str:
    """What a worker has in place of what this process has, in words."""
    both = zip(found.splitlines(), wanted.splitlines(), strict=False)
    pairs = [f"{a} (here: {b})" for a, b in both if a != b]
    return f"{who} cannot compute what this process would: it has {', '.join(pairs)}"
