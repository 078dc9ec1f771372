"""Data dependence of outputs on slots, traced through operators.

Trying values is not enough: a model may use a slot only from its hundredth call on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from edgekit.pipeline.normal_form.operator_mode import OperatorMode
from edgekit.pipeline.normal_form.slots import Slot, tensors_in

Sources = frozenset[Slot]
# These overwrite ``self`` without reading it; so do ``copy`` and so on for their results.
OVERWRITING = ("copy_", "fill_", "zero_")
# Python methods that read a tensor's values without an operator.
READING = ("numpy", "tolist", "data_ptr", "__array__", "__dlpack__")
# Operators whose results reach Python.
ASKING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class Origins(OperatorMode):
    """Records for every tensor which marked slots it was computed from, while entered.

    Tensors are identified by storage, so that views are included. ``read``: slots whose values
    reached Python, where they cannot be traced; anything may depend on them.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.read: Sources = frozenset()
        self._sources: dict[StorageWeakRef, Sources] = {}
        self._overwritten: dict[StorageWeakRef, torch.Tensor] = {}  # masks of overwritten elements
        self._methods = _Methods(self)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # see randomness.py

    def __enter__(self) -> Origins:
        self._methods.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._methods.__exit__(*error)  # type: ignore[no-untyped-call]

    def mark(self, tensors: Iterable[torch.Tensor], slot: Slot) -> None:
        for tensor in tensors:
            self._add(tensor, frozenset([slot]))

    def of(self, value: Any) -> Sources:
        tensors = (tensor for leaf in pytree.tree_leaves(value) for tensor in tensors_in(leaf))
        places = map(_storage, tensors)
        sources = (self._sources.get(place) for place in places if place is not None)
        return frozenset[Slot]().union(*filter(None, sources))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        arguments = _by_name(func, args, kwargs or {})
        unread = _unread(func, arguments)
        sources = self.of([value for name, value in arguments.items() if name not in unread])
        result = func(*args, **(kwargs or {}))
        leaves = pytree.tree_leaves(result)
        if ASKING & set(func.tags) or any(isinstance(leaf, (bool, int, float)) for leaf in leaves):
            self.read |= sources
        if _name(func) in OVERWRITING:
            self._overwrite(args[0])
        created = [t for t in tensors_in(leaves) if _storage(t) not in self._sources]  # no views
        written = [arguments[a.name] for a in func._schema.arguments if _is_written(a, arguments)]
        for tensor in tensors_in([created, written]):
            self._add(tensor, sources)
        return result

    def _add(self, tensor: torch.Tensor, sources: Sources) -> None:
        place = _storage(tensor)
        if place is None:
            self.read |= sources
        elif sources:
            self._sources[place] = self._sources.get(place, frozenset()) | sources
            self._overwritten.pop(place, None)

    def _overwrite(self, tensor: torch.Tensor) -> None:
        """Forget the sources of a storage once every element was overwritten."""
        place = _storage(tensor)
        if place is None or place not in self._sources:
            return
        length = tensor.untyped_storage().nbytes() // tensor.element_size()
        mask = self._overwritten.setdefault(place, torch.zeros(length, dtype=torch.bool))
        mask.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).fill_(True)
        if mask.all():
            del self._sources[place], self._overwritten[place]


class _Methods(TorchFunctionMode):
    def __init__(self, origins: Origins) -> None:
        super().__init__()
        self._origins = origins

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") in READING:
            self._origins.read |= self._origins.of(args[0])
        return func(*args, **(kwargs or {}))


class Work(OperatorMode):
    """Counts the elements that operators read and write, while entered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.elements += sum(tensor.numel() for tensor in tensors_in([args, kwargs, result]))
        return result


def _by_name(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    names = [argument.name for argument in func._schema.arguments]
    return dict(zip(names, args, strict=False)) | kwargs


def _is_written(argument: Any, arguments: dict[str, Any]) -> bool:
    info = argument.alias_info
    return info is not None and info.is_write and argument.name in arguments


def _unread(func: Any, arguments: dict[str, Any]) -> tuple[str, ...]:
    """The arguments whose values do not influence the result."""
    name = _name(func)
    if f"{name.rstrip('_')}_" in OVERWRITING or name.startswith("new_") or name.endswith("_like"):
        return ("self",)
    return ("running_mean", "running_var") if arguments.get("training") is True else ()


def _storage(tensor: torch.Tensor) -> StorageWeakRef | None:
    """The storage of a tensor; None for a sparse tensor, which has none."""
    try:
        return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
    except NotImplementedError:
        return None


def _name(func: Any) -> str:
    return str(func._schema.name).removeprefix("aten::")
