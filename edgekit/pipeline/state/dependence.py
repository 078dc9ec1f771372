"""What outputs are computed from: tensors are followed through operators, not tried by values.

A value that is tried says nothing of the next one: a flag may be set at the hundredth call.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from edgekit.pipeline.normal_form.slots import Slot, tensors_in

Sources = frozenset[Slot]
# These write over the values of ``self`` without reading them; copy and so on give what they would.
OVERWRITING = ("copy_", "fill_", "zero_")
# Python methods that read a tensor's values without an operator.
READING = ("numpy", "tolist", "data_ptr", "__array__", "__dlpack__")
# Operators by whose results Python goes on.
ASKING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class Origins(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, knows for every tensor which marked slots it was computed from.

    By storage, so that views are known too. ``read`` are slots whose values reached Python, where
    they cannot be followed: anything may depend on them.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.read: Sources = frozenset()
        self._known: dict[StorageWeakRef, Sources] = {}
        self._fresh: dict[StorageWeakRef, torch.Tensor] = {}  # the parts written over since
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
        found = (self._known.get(place) for place in places if place is not None)
        return frozenset[Slot]().union(*filter(None, found))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = _by_name(func, args, kwargs or {})
        unread = _unread(func, given)
        sources = self.of([value for name, value in given.items() if name not in unread])
        result = func(*args, **(kwargs or {}))
        leaves = pytree.tree_leaves(result)
        if ASKING & set(func.tags) or any(isinstance(leaf, (bool, int, float)) for leaf in leaves):
            self.read |= sources
        if _name(func) in OVERWRITING:
            self._overwrite(args[0])
        made = [t for t in tensors_in(leaves) if _storage(t) not in self._known]  # no views
        written = [given[a.name] for a in func._schema.arguments if _is_written(a, given)]
        for tensor in tensors_in([made, written]):
            self._add(tensor, sources)
        return result

    def _add(self, tensor: torch.Tensor, sources: Sources) -> None:
        place = _storage(tensor)
        if place is None:
            self.read |= sources
        elif sources:
            self._known[place] = self._known.get(place, frozenset()) | sources
            self._fresh.pop(place, None)

    def _overwrite(self, tensor: torch.Tensor) -> None:
        """A storage of which every part was written over holds nothing of what it held."""
        place = _storage(tensor)
        if place is None or place not in self._known:
            return
        length = tensor.untyped_storage().nbytes() // tensor.element_size()
        fresh = self._fresh.setdefault(place, torch.zeros(length, dtype=torch.bool))
        fresh.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).fill_(True)
        if fresh.all():
            del self._known[place], self._fresh[place]


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


class Work(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the elements that operators take and give."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.elements += sum(tensor.numel() for tensor in tensors_in([args, kwargs, result]))
        return result


def _by_name(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    names = [argument.name for argument in func._schema.arguments]
    return dict(zip(names, args, strict=False)) | kwargs


def _is_written(argument: Any, given: dict[str, Any]) -> bool:
    info = argument.alias_info
    return info is not None and info.is_write and argument.name in given


def _unread(func: Any, given: dict[str, Any]) -> tuple[str, ...]:
    """The arguments whose values make no difference."""
    name = _name(func)
    if f"{name.rstrip('_')}_" in OVERWRITING or name.startswith("new_") or name.endswith("_like"):
        return ("self",)
    return ("running_mean", "running_var") if given.get("training") is True else ()


def _storage(tensor: torch.Tensor) -> StorageWeakRef | None:
    """None of a sparse tensor, which has none."""
    try:
        return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
    except NotImplementedError:
        return None


def _name(func: Any) -> str:
    return str(func._schema.name).removeprefix("aten::")
