"""The recipe's model without wrappers and TorchScript, which torch.export does not accept."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils import _pytree as pytree

from edgekit.errors import RecipeError
from edgekit.runtimes.cause import summary
from edgekit.runtimes.quiet import quiet

# Modules that only wrap another one, and its attribute.
WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
}
FROM_PYTHON = (
    "return from model() the torch.nn.Module that was scripted, with its weights: "
    "net.load_state_dict(torch.jit.load(file).state_dict())"
)


def unwrapped(model: nn.Module, notes: list[str]) -> nn.Module:
    """The model without torch.compile and DataParallel, also inside it. Adds to ``notes``."""
    model = _inside(model, "the model", notes)
    for name, module in list(model.named_modules()):
        if name and type(module).__name__ in WRAPPERS:
            model.set_submodule(name, _inside(module, name, notes))
    return model


def plain(
    model: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], notes: list[str]
) -> nn.Module:
    """The model with TorchScript converted to torch's graphs, and tensors detached.

    The model is changed in place if possible. Raises RecipeError (torch cannot convert the
    TorchScript), and whatever the model raises when it is run.
    """
    if isinstance(model, torch.jit.ScriptModule):
        model = _converted(model, "the model", _Call(args, keywords))
        notes.append("the model is TorchScript: converted to a graph that gives the same outputs")
    else:
        _convert_inner(model, _Call(args, keywords), notes)
    _detach(model)
    return model


class _Call(NamedTuple):
    args: tuple[Any, ...]
    keywords: dict[str, Any]


def _inside(module: nn.Module, name: str, notes: list[str]) -> nn.Module:
    while type(module).__name__ in WRAPPERS:
        notes.append(f"{name} is wrapped in {type(module).__name__}: built without the wrapper")
        module = getattr(module, WRAPPERS[type(module).__name__])
    return module


def _convert_inner(model: nn.Module, example: _Call, notes: list[str]) -> None:
    """Convert scripted and traced submodules, using the inputs that they get for ``example``."""
    scripted = _outermost_scripted(model)
    if not scripted:
        return
    for name, recorder in _recorded(scripted, model, example).items():
        calls = recorder.calls
        if not calls:
            continue  # never called
        if len({_shapes(call) for call in calls}) > 1:
            raise RecipeError(
                f"the model's {name} is TorchScript and is called with inputs of different shapes",
                FROM_PYTHON,
            )
        converted = _converted(scripted[name], f"the model's {name}", calls[0])
        vars(converted).update(recorder.constants)
        model.set_submodule(name, converted)
        notes.append(f"{name} is TorchScript: converted to a graph that gives the same outputs")


def _outermost_scripted(model: nn.Module) -> dict[str, nn.Module]:
    scripted: dict[str, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        inside = any(name.startswith(f"{outer}.") for outer in scripted)
        if isinstance(module, torch.jit.ScriptModule) and not inside:
            scripted[name] = module
    return scripted


def _recorded(
    modules: dict[str, nn.Module], model: nn.Module, example: _Call
) -> dict[str, _Recorder]:
    """Record the calls and attribute reads of each module; scripted modules take no hooks."""
    recorders = {name: _Recorder(module) for name, module in modules.items()}
    for name, recorder in recorders.items():
        model.set_submodule(name, recorder)
    try:
        with torch.no_grad():
            model(*_copied(example.args), **_copied(example.keywords))
    finally:
        for name, module in modules.items():
            model.set_submodule(name, module)
    return recorders


class _Recorder(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.calls: list[_Call] = []
        self.constants: dict[str, Any] = {}  # numbers and strings, which the graph does not store

    def forward(self, *args: Any, **keywords: Any) -> Any:
        self.calls.append(_Call(_copied(args), _copied(keywords)))
        return self.inner(*args, **keywords)

    def __getattr__(self, name: str) -> Any:
        """Pass on attributes of the inner module, and record constants among them."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            value = getattr(super().__getattr__("inner"), name)
        if isinstance(value, (bool, int, float, str)):
            self.constants[name] = value
        return value


def _copied(values: Any) -> Any:
    """Copies of all tensors, because a model may change its inputs in place."""
    return pytree.tree_map_only(torch.Tensor, torch.Tensor.clone, values)


def _shapes(call: _Call) -> tuple[Any, ...]:
    leaves = pytree.tree_leaves(call)
    return tuple((leaf.shape, leaf.dtype) if torch.is_tensor(leaf) else leaf for leaf in leaves)


def _converted(module: Any, what: str, call: _Call) -> nn.Module:
    """A module of torch's own graphs with the same outputs. Raises RecipeError."""
    from torch._export.converter import TS2EPConverter

    try:
        with quiet(), torch.no_grad():
            expected = module(*_copied(call.args), **_copied(call.keywords))
            program = TS2EPConverter(module, _copied(call.args), _copied(call.keywords)).convert()
            converted = program.module(check_guards=False)
            actual = converted(*_copied(call.args), **_copied(call.keywords))
            same = _are_close(actual, expected)
    except Exception as error:
        raise RecipeError(
            f"{what} is TorchScript that torch cannot convert: {summary(error)}", FROM_PYTHON
        ) from error
    if not same:
        raise RecipeError(f"{what} is TorchScript that torch converts wrongly", FROM_PYTHON)
    for fixed in ("train", "eval"):  # torch replaces them by functions that raise
        converted.__dict__.pop(fixed, None)
    return converted


def _are_close(one: Any, other: Any) -> bool:
    actual, expected = pytree.tree_leaves(one), pytree.tree_leaves(other)
    return len(actual) == len(expected) and all(map(_is_close, actual, expected))


def _is_close(one: Any, other: Any) -> bool:
    """Compare leaves: TorchScript may return None, numbers and flags beside tensors."""
    if not (torch.is_tensor(one) and torch.is_tensor(other)):
        return bool(one == other)
    if one.shape != other.shape or not one.is_floating_point():
        return torch.equal(one, other)
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)


def _detach(model: nn.Module) -> None:
    """Detach computed tensors in the attributes, which otherwise cannot be copied."""
    for module in model.modules():
        held = vars(module)
        for name, value in held.items():
            if name not in ("_modules", "_parameters") and _has_computed(value):
                held[name] = pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, value)


def _has_computed(value: Any) -> bool:
    tensors = (leaf for leaf in pytree.tree_leaves(value) if torch.is_tensor(leaf))
    return any(not tensor.is_leaf for tensor in tensors)
