"""torch.export, with errors that point at the user's line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import IO, TYPE_CHECKING, Any, cast

from edgekit.compress.copying import copy_of
from edgekit.compress.graph import module_of
from edgekit.errors import ExportError, chain_of
from edgekit.recipe.blame import user_line
from edgekit.recipe.tensors import Inputs
from edgekit.runtimes.cause import find_cause, frames_of, line_of, name_of, place
from edgekit.runtimes.provenance import sharing_provenance

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
# Instead of what gives sizes by its data, by a word of the operator or of the user's line.
DEPENDENT = {
    "one_hot": "give F.one_hot its number of classes: F.one_hot(x, n)",
    "bincount": "count with a fixed number of classes: F.one_hot(x, n).sum(0)",
    "repeat_interleave": "repeat by a number, or by an index that is a buffer: x[:, index]",
}
# What the deepest cause says, and what to do about it; the first that is found in it counts.
HINTS = {
    r"(?s)fake tensor in the exported program.*vmap": "torch.vmap gives its dimension first: leave "
    "out_dims out, and move it afterwards, torch.vmap(f)(x).movedim(0, 1)",
    r"numpy\(\)|data pointer|data_ptr|__array__": "NumPy cannot be traced: compute with torch's "
    "own functions in forward, or do it before the model",
    r"fake tensor in the exported program|functorch|does not require grad": "gradients and "
    "torch.func inside forward cannot be exported: write the derivative out, or leave it out",
    r"__obj_flatten__|PackedParams": "the model is quantized already in torch: give the float "
    "model and calibration(), and edgekit quantizes it",
    r"_apply\(\): Couldn't swap": "move .half(), .bfloat16() and .to() of layers from forward to "
    "model()",
    r"failed to unpack the object|PackedSequence": "leave pack_padded_sequence out: a device runs "
    "sequences of one length",
    r"ScriptModule|State dict entry": "give the model as the torch.nn.Module that the TorchScript "
    "was made of, or convert it by itself with torch._export.converter.TS2EPConverter",
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

    own = _own_copy(module)
    try:
        with torch.no_grad(), _without_graphs(), sharing_provenance():
            exported = _functional(torch.export.export(own, example))
    except Exception as error:
        raise _explain(error, own) from error
    _refuse_data_dependent(exported)
    for node in exported.graph.nodes:
        # what torch notes of a traced program's inputs contradicts itself once they are renamed
        node.meta.pop("custom", None)
    return exported


def _functional(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without what is not a plain call of an operator: torch.vmap stays in a graph as
    calls of its inner functions, which a lowering gets wrong; and x[:, 0] *= 2 as a change of a
    view, which reaches x no more once something (an observer, a rounding) stands between.
    """
    nodes = exported.graph.nodes
    has_vmap = any(
        getattr(node.target, "__module__", "") == "torch._functorch.predispatch" for node in nodes
    )
    plain = not has_vmap and not any(_changes_by_a_view(node) for node in nodes)
    return exported if plain else exported.run_decompositions({})


def _changes_by_a_view(node: torch.fx.Node) -> bool:
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
    """torch exports x[x > 0] with a symbol for the size that only the data will tell."""
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    for node in exported.graph.nodes:
        shape = getattr(node.meta.get("val"), "shape", None)
        if shape is not None and free_unbacked_symbols(shape):
            raise ExportError(
                "the shape of a tensor depends on the values of the model's data"
                + place(name_of(node), module_of(node), line_of(node)),
                _dependent(f"{name_of(node)} {line_of(node)}") or FIXED_SHAPES,
            )


def _dependent(text: str) -> str | None:
    return next((hint for word, hint in DEPENDENT.items() if word in text), None)


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
            "the model's control flow depends on the values of its data" + place(None, layer, line),
            _dependent(str(line)) or ONE_GRAPH,
        )
    text += f"\n{line}"
    hint = next((hint for said, hint in HINTS.items() if re.search(said, text)), TRY_ALONE)
    where = place(cause.operator, layer, line)
    return ExportError(f"torch.export cannot export the model{where}: {cause.said}", hint)


def _layer(error: BaseException, model: torch.nn.Module) -> str | None:
    """The innermost module that was running, by its name in the model."""
    names: dict[int, str] = {id(module): name for name, module in model.named_modules()}
    for frame in frames_of(error):
        name = names.get(id(frame.f_locals.get("self")))
        if name is not None:
            return name
    return None
