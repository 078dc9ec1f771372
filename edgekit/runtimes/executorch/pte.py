"""The flatbuffer of a .pte, by ExecuTorch's own reader."""

from __future__ import annotations

from typing import Any

from edgekit.runtimes.quiet import quiet


def read_program(data: bytes) -> Any:
    """ExecuTorch's ``Program``. Raises what its reader raises, if the file cannot be read."""
    with quiet():  # the import prints messages of torchao
        from executorch.exir._serialize._program import deserialize_pte_binary

        return deserialize_pte_binary(data).program
