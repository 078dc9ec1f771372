"""torch.export, with errors that name the user's line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import IO, TYPE_CHECKING, Any, cast

from edgekit.compress.copying import copy_of
from edgekit.compress.graph import module_of
from edgekit.errors import ExportError, chain_of
from edgekit.recipe.tensors import Inputs
from edgekit.recipe.user_code import user_line
from edgekit.runtimes.cause import find_cause, frames_of, line_of, location_text, name_of
from edgekit.runtimes.provenance import sharing_provenance

if TYPE_CHECKING:
    import torch

ONE_GRAPH = (
    "replace the branch by torch.where, and .item() by tensor operations: a device runs one fixed "
    "graph"
)
FIXED_SHAPES = (
    "multiply by a mask or use torch.where instead of x[x > 0], nonzero or unique, and topk with a "
    "fixed k instead of a slice up to .item(): a device plans its memory before it runs"
)
# Hints for data-dependent sizes, by a word of the operator's name or of the user's line.
DEPENDENT = {
    "one_hot": "give F.one_hot its number of classes: F.one_hot(x, n)",
    "bincount": "count with a fixed number of classes: F.one_hot(x, n).sum(0)",
    "repeat_interleave": "repeat by a number, or by an index that is a buffer: x[:, index]",
}
# Hints by pattern in the error messages; the first match counts.
HINTS = {
    r"(?s)fake tensor in the exported program.*vmap": "remove out_dims of torch.vmap, and move the "
    "dimension afterwards: torch.vmap(f)(x).movedim(0, 1)",
    r"numpy\(\)|data pointer|data_ptr|__array__": "NumPy cannot be traced: compute with torch's "
    "own functions in forward, or before the model",
    r"fake tensor in the exported program|functorch|does not require grad": "gradients and "
    "torch.func inside forward cannot be exported: write out the derivative, or remove it",
    r"__obj_flatten__|PackedParams": "the model is already quantized by torch: return the float "
    "model and add calibration(), and edgekit quantizes it",
    r"_apply\(\): Couldn't swap": "move .half(), .bfloat16() and .to() of layers from forward to "
    "model()",
    r"failed to unpack the object|PackedSequence": "remove pack_padded_sequence: a device runs "
    "sequences of one length",
    r"ScriptModule|State dict entry": "return the torch.nn.Module that was scripted, or convert "
    "the TorchScript with torch._export.converter.TS2EPConverter",
}
TRY_ALONE = (
    "torch.export.export(model.eval(), inputs) must pass: write that line in another form, or move "
    "it before or after the model"
)


def export(module: torch.nn.Module, example: Inputs) -> torch.export.ExportedProgram:
    """Export a copy of ``module`` with the example's static shapes.

    Raises ExportError: torch cannot export it, or a shape depends on its data.
    """
    import torch

    copied = _contiguous_copy(module)
    try:
        with torch.no_grad(), _without_graphs(), sharing_provenance():
            exported = _functional(torch.export.export(copied, example))
    except Exception as error:
        raise _explain(error, copied) from error
    _refuse_data_dependent(exported)
    for node in exported.graph.nodes:
        # torch's notes on a traced program's inputs become inconsistent when they are renamed
        node.meta.pop("custom", None)
    return exported


def _functional(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program with plain operator calls only, decomposed if necessary.

    torch.vmap stays in a graph as calls of its inner functions, which lowerings get wrong. x[:, 0]
    *= 2 stays as a write to a view, which no longer changes x if an observer is between the two.
    """
    nodes = exported.graph.nodes
    has_vmap = any(
        getattr(node.target, "__module__", "") == "torch._functorch.predispatch" for node in nodes
    )
    plain = not has_vmap and not any(_writes_to_a_view(node) for node in nodes)
    return exported if plain else exported.run_decompositions({})


def _writes_to_a_view(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return False
    changed = node.all_input_nodes[0]
    return any(_is_view(other) for other in (changed, *changed.users))


def _is_view(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    aliases = [one.alias_info for one in schema.returns] if schema is not None else []
    return any(alias is not None and not alias.is_write for alias in aliases)


def _refuse_data_dependent(exported: torch.export.ExportedProgram) -> None:
    """Raise ExportError for a data-dependent size, such as of x[x > 0], which torch exports as a
    symbol.
    """
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    for node in exported.graph.nodes:
        shape = getattr(node.meta.get("val"), "shape", None)
        if shape is not None and free_unbacked_symbols(shape):
            raise ExportError(
                "the shape of a tensor depends on the values of the model's data"
                + location_text(name_of(node), module_of(node), line_of(node)),
                _dependent(f"{name_of(node)} {line_of(node)}") or FIXED_SHAPES,
            )


def _dependent(text: str) -> str | None:
    return next((hint for word, hint in DEPENDENT.items() if word in text), None)


class _WithoutGraphs:
    """stderr without the pages of graph that torch.export prints on failure."""

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


def _contiguous_copy(model: torch.nn.Module) -> torch.nn.Module:
    """A deep copy with contiguous parameters.

    A copy, because quantization edits the model. Contiguous, because channels-last strides would be
    exported, and the program would then refuse contiguous inputs.
    """
    import torch

    duplicate = copy_of(model)
    for tensor in (*duplicate.parameters(), *duplicate.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
        tensor.requires_grad_(False)
    return duplicate


def _explain(error: Exception, model: torch.nn.Module) -> ExportError:
    cause = find_cause(error)
    layer = cause.layer if cause.layer is not None else _layer(cause.error, model)
    line = user_line(cause.error) or user_line(error) or cause.line
    text = "\n".join(str(each) for each in chain_of(error))
    if "data-dependent" in text or type(cause.error).__name__ == "DataDependentOutputException":
        return ExportError(
            "the model's control flow depends on the values of its data"
            + location_text(None, layer, line),
            _dependent(str(line)) or ONE_GRAPH,
        )
    text += f"\n{line}"
    hint = next((hint for pattern, hint in HINTS.items() if re.search(pattern, text)), TRY_ALONE)
    where = location_text(cause.operator, layer, line)
    return ExportError(f"torch.export cannot export the model{where}: {cause.summary}", hint)


def _layer(error: BaseException, model: torch.nn.Module) -> str | None:
    """The innermost module that was running, by its name in the model."""
    names: dict[int, str] = {id(module): name for name, module in model.named_modules()}
    for frame in frames_of(error):
        name = names.get(id(frame.f_locals.get("self")))
        if name is not None:
            return name
    return None
