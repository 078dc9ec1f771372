"""torch.export, with errors that point at the user's line."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import IO, TYPE_CHECKING, Any, cast

from edgekit.errors import ExportError
from edgekit.recipe import Inputs, user_line
from edgekit.runtimes.quiet import first_line

if TYPE_CHECKING:
    import torch

ONE_GRAPH = (
    "a device runs one fixed graph: replace the branch by torch.where (or torch.cond), "
    "and .item() by tensor operations"
)
FIXED_SHAPES = (
    "a device plans its memory before it runs: multiply by a mask or use torch.where instead of "
    "x[x > 0], nonzero or unique, and topk with a fixed k instead of a slice up to .item()"
)
FRAME = re.compile(r'File "(?P<file>.+?)", line (?P<line>\d+), in .+\n\s*(?P<code>.+)')


def export(module: torch.nn.Module, example: Inputs) -> torch.export.ExportedProgram:
    """Export a copy of ``module`` with the example's static shapes.

    Raises ExportError: torch cannot export it, or a shape depends on its data.
    """
    import torch

    try:
        with torch.no_grad(), _without_graphs():
            exported = _without_vmap(torch.export.export(_own_copy(module), example))
    except Exception as error:
        raise _explain(error) from error
    _refuse_data_dependent(exported)
    return exported


def _without_vmap(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """torch.vmap stays in a graph as calls of its inner functions, which a lowering gets wrong."""
    targets = (getattr(node.target, "__module__", "") for node in exported.graph.nodes)
    if "torch._functorch.predispatch" in targets:
        return exported.run_decompositions({})
    return exported


def _refuse_data_dependent(exported: torch.export.ExportedProgram) -> None:
    """torch exports x[x > 0] with a symbol for the size that only the data will tell."""
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    for node in exported.graph.nodes:
        shape = getattr(node.meta.get("val"), "shape", None)
        if shape is not None and free_unbacked_symbols(shape):
            raise ExportError(
                "the shape of a tensor depends on the values of the model's data"
                + _place(str(node.meta.get("stack_trace"))),
                FIXED_SHAPES,
            )


def _place(stack_trace: str) -> str:
    """The last line of the trace that is not torch's own."""
    own = [match for match in FRAME.finditer(stack_trace) if "/torch/" not in match["file"]]
    return f" at {own[-1]['file']}:{own[-1]['line']}: {own[-1]['code']}" if own else ""


class _WithoutGraphs:
    """stderr, but for the graph that torch.export prints when it fails: pages of it."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if "def forward(" in text else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _without_graphs() -> Iterator[None]:
    with redirect_stderr(cast("IO[str]", _WithoutGraphs(sys.stderr))):
        yield


def _own_copy(model: torch.nn.Module) -> torch.nn.Module:
    """A deep copy with contiguous parameters.

    A copy, because quantization edits what it is given; contiguous, because channels-last
    strides would be exported and the program would then refuse ordinary inputs.
    """
    import torch

    duplicate = copy.deepcopy(model)
    for tensor in (*duplicate.parameters(), *duplicate.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
        tensor.requires_grad_(False)
    return duplicate


def _explain(error: Exception) -> ExportError:
    place = user_line(error)
    at = f" at {place}" if place else ""
    if "data-dependent" in str(error) or type(error).__name__ == "DataDependentOutputException":
        return ExportError(
            f"the model's control flow depends on the values of its data{at}", ONE_GRAPH
        )
    return ExportError(
        f"torch.export cannot export the model{at}: {first_line(error)}",
        "edgekit build -v shows torch's whole message",
    )
