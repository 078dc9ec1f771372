"""Residual blocks: modules that compute input + f(input), so that a model works without them.

They are found by observing one inference, not by their class: a path of additions, activations and
norms leads from the output of such a module back to its input. Every block is verified on a copy.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from edgekit.compress.copying import copy_of
from edgekit.compress.graph import within
from edgekit.compress.pruning.channel_groups import (
    LAYERS,
    UnprunableLayer,
    outputs_of,
    parameters_of,
    summary,
)
from edgekit.errors import SettingError
from edgekit.recipe.tensors import Inputs

# Operators that may be beside a block's addition on the way from its input to its output, by the
# names of their gradients. A slice of the whole is an alias.
PASSED = {
    f"{name}Backward0"
    for name in (
        "Add", "Alias", "Clone", "View", "UnsafeView", "ReshapeAlias", "Relu", "LeakyRelu",
        "Hardtanh", "Hardswish", "Silu", "Gelu", "Elu", "NativeLayerNorm", "NativeBatchNorm",
    )
}  # fmt: skip
ADDITION = "AddBackward0"
NO_MODULES = "an exported program has no modules that can be left out"
SEVERAL_RUNS = "it runs several times in one inference"
NOT_RESIDUAL = "its output is not the sum of its input and a function of it"


class Skipped(nn.Module):
    """In the place of a removed block: returns the first tensor that it receives."""

    def forward(self, *args: Any, **keywords: Any) -> torch.Tensor:
        return next(v for v in (*args, *keywords.values()) if torch.is_tensor(v))


def find_blocks(model: nn.Module, example: Inputs) -> tuple[list[str], list[UnprunableLayer]]:
    """The names of the blocks that can be removed, in the order in which they end, and the modules
    that look like blocks but cannot be removed, with the reason.

    A block may be inside another one. A module is not listed if all its parameters are in blocks
    inside it. ``model`` is unchanged; verifying takes one inference for each block.
    """
    if isinstance(model, torch.fx.GraphModule):
        return [], [UnprunableLayer("", NO_MODULES)]
    try:
        expected = [tensor.shape for tensor in outputs_of(model, example)]
        candidates = _observe(copy_of(model), example)
    except Exception as error:
        return [], [UnprunableLayer("", f"its blocks cannot be observed: {summary(error)}")]
    blocks: list[str] = []
    refused: list[UnprunableLayer] = []
    for name, reason in candidates.items():
        why = reason or _why_not(model, example, name, expected)
        if why is None:
            blocks.append(name)
        else:
            refused.append(UnprunableLayer(name, why))
    return blocks, refused


def without_blocks(model: nn.Module, example: Inputs, names: Iterable[str]) -> nn.Module:
    """A copy of the model without these blocks; all other layers keep their names.

    Raises SettingError: the model has no such module, or does not run without them.
    """
    smaller = _cut(model, names)
    try:
        outputs_of(smaller, example)
    except Exception as error:
        removed = ", ".join(names)
        raise SettingError(f"the model does not run without {removed}: {summary(error)}") from None
    return smaller


def _cut(model: nn.Module, names: Iterable[str]) -> nn.Module:
    smaller = copy_of(model)
    known = dict(smaller.named_modules())
    for name in outermost(names):
        if name not in known or not name:
            raise SettingError(f"the model has no block '{name}'", "name a module of the model")
        smaller.set_submodule(name, Skipped())
    return smaller.eval()


def is_kept(block: str, keep: Iterable[str]) -> bool:
    """Whether the block lies in one of these modules, or one of them in it."""
    return any(within(block, name) or within(name, block) for name in keep)


def outermost(names: Iterable[str]) -> list[str]:
    """The names that are not inside another one of them."""
    chosen = sorted(set(names))
    return [n for n in chosen if not any(n.startswith(f"{outer}.") for outer in chosen)]


def _why_not(
    model: nn.Module, example: Inputs, name: str, expected: Sequence[torch.Size]
) -> str | None:
    smaller = _cut(model, [name])
    try:
        shapes = [tensor.shape for tensor in outputs_of(smaller, example)]
    except Exception as error:
        return f"the model does not run without it: {summary(error)}"
    if shapes != expected:
        return "without it the model's outputs have another shape"
    if parameters_of(smaller) >= parameters_of(model):
        return "removing it removes no weights: they are shared"
    return None


def _has_own_parameters(module: nn.Module, inside: Sequence[str]) -> bool:
    """Whether some of the module's parameters are not inside these modules of it."""
    names = [name for name, _ in module.named_parameters()]
    return any(not any(name.startswith(f"{one}.") for one in inside) for name in names)


def _are_nested(one: str, other: str) -> bool:
    return one.startswith(f"{other}.") or other.startswith(f"{one}.")


def _observe(model: nn.Module, example: Inputs) -> dict[str, str | None]:
    """Residual modules, in the order in which they end, each with the reason if it cannot be
    removed; also other modules of several layers whose output has the shape of their input.
    """
    inputs: dict[str, list[torch.Tensor]] = defaultdict(list)
    runs: Counter[str] = Counter()
    found: dict[str, str | None] = {}

    def before(name: str, _module: nn.Module, args: Any, keywords: Any) -> Any:
        runs[name] += 1
        leaves, structure = pytree.tree_flatten((args, keywords))
        for index, leaf in enumerate(leaves):
            if _is_float(leaf):
                start = leaf if leaf.requires_grad else leaf.detach().requires_grad_()
                leaves[index] = start.clone()  # an operator of its own, where the path ends
                inputs[name].append(leaves[index])
                break
        return pytree.tree_unflatten(leaves, structure)

    def after(name: str, module: nn.Module, _args: Any, output: Any) -> None:
        read = inputs[name].pop() if inputs[name] else None
        if read is None or not _is_float(output) or output.shape != read.shape:
            return
        residual = [one for one, why in found.items() if why is None]
        inside = [one.removeprefix(f"{name}.") for one in residual if one.startswith(f"{name}.")]
        if _is_residual(output.grad_fn, read.grad_fn):
            if _has_own_parameters(module, inside):
                found[name] = None
        elif sum(isinstance(part, LAYERS) for part in module.modules()) > 1:
            found[name] = NOT_RESIDUAL

    with _hooks(model, before, after), torch.enable_grad():
        model(*example)
    residual = [name for name, why in found.items() if why is None]
    return {
        name: why if runs[name] == 1 else SEVERAL_RUNS
        for name, why in found.items()
        if why is None or not any(_are_nested(name, one) for one in residual)
    }


@contextmanager
def _hooks(model: nn.Module, before: Any, after: Any) -> Iterator[None]:
    handles = []
    for name, module in model.named_modules():
        if name and any(True for _ in module.parameters()):
            hook = partial(before, name)
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            handles.append(module.register_forward_hook(partial(after, name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_float(value: Any) -> bool:
    return torch.is_tensor(value) and value.is_floating_point()


def _is_residual(output: Any, read: Any) -> bool:
    """Whether one side of an addition is ``read``, and the other a function of it. Both are nodes
    of the gradient's graph.
    """
    for node in _sources(output, PASSED):
        sides = [source for source, _ in node.next_functions]
        if node.name() != ADDITION or len(sides) != 2:
            continue
        for skip, branch in (sides, sides[::-1]):
            if read in _sources(skip, PASSED, read) and read in _sources(branch, None, read):
                return True
    return False


def _sources(node: Any, passed: Set[str] | None, end: Any = None) -> list[Any]:
    """The nodes that ``node`` is computed from, itself included, through operators ``passed``
    (None: any); beyond ``end`` none.
    """
    seen: dict[Any, None] = {}
    pending = [node]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen[node] = None
        if node is not end and (passed is None or node.name() in passed):
            pending += [source for source, _ in node.next_functions]
    return list(seen)
