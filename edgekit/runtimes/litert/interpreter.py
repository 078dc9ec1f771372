"""LiteRT's interpreter for Python: it calibrates, and its own kernels are the reference of int8.

Only for files that this process converted: a damaged file could end the process.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from edgekit.recipe.tensors import Inputs
from edgekit.runtimes.litert.flatbuffer import Graph, read_graph

if TYPE_CHECKING:
    import numpy as np
    import torch

# The runtime's kernels without delegate.
BUILT_IN = "BUILTIN_WITHOUT_DEFAULT_DELEGATES"


class Interpreter:
    """One file by the runtime's own kernels, with one thread. ``graph``: the file's. ``keep_all``:
    values between operators can be read too.
    """

    def __init__(self, data: bytes, graph: Graph, keep_all: bool = False) -> None:
        silence()
        with _silent():
            from ai_edge_litert import interpreter as litert

            self._own = litert.Interpreter(
                model_content=data,
                num_threads=1,
                experimental_op_resolver_type=litert.OpResolverType[BUILT_IN],
                experimental_preserve_all_tensors=keep_all,
            )
            self._own.allocate_tensors()
        self._graph = graph

    def run(self, inputs: Inputs) -> list[torch.Tensor]:
        import torch

        for number, tensor in zip(self._graph.inputs, inputs, strict=True):
            self._own.set_tensor(number, tensor.contiguous().numpy())
        self._own.invoke()
        return [torch.from_numpy(self._own.get_tensor(number)) for number in self._graph.outputs]

    def value(self, number: int) -> np.ndarray[Any, Any] | None:
        """The value of a tensor after a run; None if it has none."""
        try:
            return self._own.get_tensor(number)  # type: ignore[no-any-return]
        except ValueError:
            return None


def reference(data: bytes) -> Callable[[Inputs], list[torch.Tensor]]:
    """Runs a file by the runtime's own kernels."""
    return Interpreter(data, read_graph(data)).run


def silence() -> None:
    """Before LiteRT is imported: its C++ libraries write notes to stderr, below Python's."""
    for name, value in {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without what the library writes to stderr while it starts."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
