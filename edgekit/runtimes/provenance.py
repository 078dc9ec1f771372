"""Shares the provenance records of graph nodes instead of copying them.

torch deep-copies the whole history of every node in every pass. Lowering has some hundred passes,
and these copies take a fifth of its time. Records are immutable, so sharing is safe.
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
