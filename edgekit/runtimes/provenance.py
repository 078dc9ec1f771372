"""Where each node of a graph came from, shared instead of copied.

torch copies the whole history of a node deeply, for every node at every pass; lowering has some
hundred passes, and a fifth of its time is these copies. A record is never changed once it is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def sharing_provenance() -> Iterator[None]:
    from torch.fx.traceback import NodeSource

    def itself(record: Any, _memo: Any) -> Any:
        return record

    kind: Any = NodeSource
    had = kind.__dict__.get("__deepcopy__")
    kind.__deepcopy__ = itself
    try:
        yield
    finally:
        if had is None:
            del kind.__deepcopy__
        else:
            kind.__deepcopy__ = had
