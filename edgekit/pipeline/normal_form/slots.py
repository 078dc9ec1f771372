"""Slots: the parameters, buffers and plain attributes of a model's modules, and which of them a run
writes.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from edgekit.compress.copying import copy_of

# Attributes that torch gives every module.
BARE = frozenset(vars(nn.Module()))
NUMBERS = (bool, int, float, complex, np.generic)
PLAIN = (*NUMBERS, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
# Two runs of one model on one input: threads may add in another order.
SAME_TOLERANCE = 1e-5
# How deep containers and plain objects are searched.
DEPTH = 4


class Slot(NamedTuple):
    """An attribute of a module; ``module`` is the module's name in the model, '' the model."""

    module: str
    attribute: str

    def __str__(self) -> str:
        return f"{self.module}.{self.attribute}" if self.module else self.attribute


Values = dict[Slot, Any]


def own_copy(model: nn.Module) -> nn.Module:
    """A deep copy. Tensors computed from weights, which deepcopy rejects, are copied by value."""
    memo: dict[int, Any] = {}
    for value in slots_of(model).values():
        for tensor in tensors_in(value):
            if not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
    return copy_of(model, memo)


def slots_of(model: nn.Module) -> Values:
    """All slots of the model with their values, by reference; those of a shared module once."""
    slots: Values = {}
    for name, module in model.named_modules():
        attributes = {key: value for key, value in vars(module).items() if key not in BARE}
        for group in (module._parameters, module._buffers, attributes):
            slots |= {Slot(name, key): value for key, value in group.items()}
    return slots


def read(model: nn.Module, slot: Slot) -> Any:
    """The slot's value; None if there is no such attribute."""
    return getattr(model.get_submodule(slot.module), slot.attribute, None)


def write(model: nn.Module, slot: Slot, value: Any) -> None:
    """Replace the slot's value among buffers, parameters or plain attributes."""
    module = model.get_submodule(slot.module)
    group = next(
        group for group in _groups(module) if slot.attribute in group or group is vars(module)
    )
    group[slot.attribute] = value


def remove(model: nn.Module, slot: Slot) -> None:
    for group in _groups(model.get_submodule(slot.module)):
        group.pop(slot.attribute, None)


@contextmanager
def placed(model: nn.Module, values: Mapping[Slot, Any]) -> Iterator[None]:
    """Set ``values`` as plain attributes, and restore the model afterwards.

    Plain attributes, because torch.export turns an assignment to a buffer into a buffer mutation.
    """
    before = {slot: _holding(model, slot) for slot in values}
    try:
        for slot, value in values.items():
            remove(model, slot)
            vars(model.get_submodule(slot.module))[slot.attribute] = value
        yield
    finally:
        for slot, held in before.items():
            remove(model, slot)
            if held is not None:
                group, value = held
                group[slot.attribute] = value


@dataclass(frozen=True)
class Marks:
    """The slots before a run: tensors with their versions, and an outline of everything else."""

    tensors: dict[Slot, list[tuple[torch.Tensor, int]]]
    outlines: dict[Slot, Any]

    @classmethod
    def of(cls, model: nn.Module) -> Marks:
        slots = slots_of(model)
        tensors = {slot: [(t, _version(t)) for t in tensors_in(v)] for slot, v in slots.items()}
        return cls(tensors, {slot: outline(value) for slot, value in slots.items()})

    def written(self, model: nn.Module) -> set[Slot]:
        """Slots written since, even with the same value; includes new and removed ones."""
        slots = slots_of(model)
        changed = {slot for slot, value in slots.items() if self._differs(slot, value)}
        return changed | (self.tensors.keys() - slots.keys())

    def _differs(self, slot: Slot, value: Any) -> bool:
        if slot not in self.tensors or outline(value) != self.outlines[slot]:
            return True
        pairs = zip(tensors_in(value), self.tensors[slot], strict=True)
        return any(new is not old or _version(new) != version for new, (old, version) in pairs)


def kept(model: nn.Module, slots: set[Slot]) -> Values:
    """Copies of the slots' values."""
    return {slot: duplicate(read(model, slot)) for slot in slots}


def duplicate(value: Any) -> Any:
    """A deep copy; a value that cannot be copied is returned itself."""
    if torch.is_tensor(value):
        return value.detach().clone()
    with suppress(Exception):
        return copy.deepcopy(value)
    return value


def tensors_in(value: Any, depth: int = DEPTH) -> Iterator[torch.Tensor]:
    """The tensors in a value, its containers and plain objects, but not in modules."""
    if torch.is_tensor(value):
        yield value
    elif depth:
        for item in _items(value):
            yield from tensors_in(item, depth - 1)


def same(a: Any, b: Any) -> bool:
    """Whether contents are equal; NaN equals NaN. Values without content are compared by type."""
    if a is b:
        return True
    pairs = zip(tensors_in(a), tensors_in(b), strict=False)
    return outline(a) == outline(b) and all(equal(x, y) for x, y in pairs)


def outline(value: Any, depth: int = DEPTH) -> Any:
    """A comparable form of a value without the contents of its tensors."""
    if torch.is_tensor(value):
        return "tensor"
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes()
    keys = tuple(sorted(map(repr, value))) if isinstance(value, (dict, set, frozenset)) else ()
    items = tuple(outline(item, depth - 1) for item in _items(value)) if depth else ()
    return type(value).__qualname__, keys, items


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype or a.layout != b.layout:
        return False
    if a.layout != torch.strided or a.is_quantized or a.is_meta:
        return True
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())


def near(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether tensors are equal, or floats that differ by SAME_TOLERANCE of the largest at most."""
    if equal(a, b):
        return True
    if a.shape != b.shape or a.dtype != b.dtype or not a.is_floating_point():
        return False
    finite = a.isfinite() & b.isfinite()
    if not equal(a[~finite], b[~finite]):
        return False
    x, y = a[finite].double(), b[finite].double()
    return bool((x - y).abs().max() <= SAME_TOLERANCE * y.abs().max())


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, (list, tuple, deque)):
        yield from value
    elif hasattr(value, "__dict__") and not is_foreign(value):
        yield from vars(value).values()


def is_foreign(value: Any) -> bool:
    """Whether a value is not searched: modules have slots of their own, and the attributes of
    torch's objects, functions and classes mean nothing.
    """
    origin = type(value).__module__.partition(".")[0]
    return isinstance(value, nn.Module) or origin in ("torch", "builtins", "types", "functools")


def _groups(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return module._buffers, module._parameters, vars(module)


def _holding(model: nn.Module, slot: Slot) -> tuple[dict[str, Any], Any] | None:
    for group in _groups(model.get_submodule(slot.module)):
        if slot.attribute in group:
            return group, group[slot.attribute]
    return None


def _version(tensor: torch.Tensor) -> int:
    return 0 if is_lazy(tensor) or tensor.is_inference() else tensor._version
