"""Whether anything depends on Python numbers that a model changes from call to call.

A number is replaced by an object that computes like it and records its use. Every branch that it
decides is tried both ways. The number matters if a branch changes something, or if its value is
used in any other way.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

from edgekit.pipeline.normal_form.slots import DEPTH, NUMBERS, is_foreign

# The most paths through a model to try, and decisions on one path; beyond, a number matters.
MOST_WAYS, MOST_DECISIONS = 32, 256
# No element of a larger numpy array, such as an image, is assumed to decide a branch.
MOST_ELEMENTS = 4096


class Asked:
    """The decisions of one run: first the given ones, then those of the numbers' values.

    ``used``: a value was used outside a decision, such as in a tensor or an index.
    """

    def __init__(self, decided: tuple[bool, ...] = ()) -> None:
        self._decided = decided
        self.taken: list[bool] = []
        self.used = False

    def decide(self, answer: bool) -> bool:
        place = len(self.taken)
        if place == MOST_DECISIONS:
            raise RuntimeError(
                f"a replaced number was asked for {MOST_DECISIONS} decisions: a loop?"
            )
        self.taken.append(self._decided[place] if place < len(self._decided) else answer)
        return self.taken[-1]

    def others(self) -> Iterator[tuple[bool, ...]]:
        """The decisions of all paths that branch off from this run."""
        for place in range(len(self._decided), len(self.taken)):
            yield (*self.taken[:place], not self.taken[place])


class Number:
    """A stand-in for ``value`` that records its use; repr() is not recorded."""

    def __init__(self, value: Any, asked: Asked) -> None:
        self._value, self._asked = value, asked

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The class of the value, for isinstance()."""
        return type(self._value)

    def __repr__(self) -> str:
        return repr(self._value)

    def __bool__(self) -> bool:
        return self._asked.decide(bool(self._value))

    def __str__(self) -> str:
        """A decision: a printed number changes nothing, a number in a name does."""
        return str(self._value) if self._asked.decide(True) else "?"

    def __format__(self, _: str) -> str:
        return str(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # numpy checks whether this is an array
            raise AttributeError(name)
        self._asked.used = True
        return getattr(self._value, name)


def _computed(function: Callable[..., Any]) -> Callable[..., Any]:
    """A method that returns a ``Number`` if all operands are numbers; else the value is used."""

    def compute(self: Number, *others: Any) -> Any:
        values = [other._value if type(other) is Number else other for other in others]
        if not all(isinstance(value, (*NUMBERS, type(None))) for value in values):
            self._asked.used = True
        result = function(self._value, *values)
        return mapped(result, lambda _, number: Number(number, self._asked))

    return compute


def _compared(function: Callable[..., Any]) -> Callable[..., Any]:
    def compare(self: Number, other: Any) -> Any:
        answer = function(self._value, other._value if type(other) is Number else other)
        if isinstance(answer, (bool, np.bool_)):
            return self._asked.decide(bool(answer))
        self._asked.used = True
        return answer

    return compare


def _used(function: Callable[[Any], Any]) -> Callable[[Number], Any]:
    def use(self: Number) -> Any:
        self._asked.used = True
        return function(self._value)

    return use


def _reflected(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda value, other: function(other, value)


_BINARY = "add sub mul truediv floordiv mod pow lshift rshift and or xor"
for _name in _BINARY.split():
    _function = getattr(operator, f"__{_name}__")
    setattr(Number, f"__{_name}__", _computed(_function))
    setattr(Number, f"__r{_name}__", _computed(_reflected(_function)))
_OTHERS: dict[str, Callable[..., Any]] = {
    "neg": operator.neg, "pos": operator.pos, "abs": abs, "invert": operator.invert,
    "round": round, "trunc": math.trunc, "floor": math.floor, "ceil": math.ceil, "divmod": divmod,
}  # fmt: skip
for _name, _function in _OTHERS.items():
    setattr(Number, f"__{_name}__", _computed(_function))
for _name in ("lt", "le", "eq", "ne", "gt", "ge"):
    setattr(Number, f"__{_name}__", _compared(getattr(operator, _name)))
_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "int": int, "float": float, "index": operator.index, "hash": hash,
}  # fmt: skip
for _name, _conversion in _CONVERSIONS.items():
    setattr(Number, f"__{_name}__", _used(_conversion))


def mapped(
    value: Any, change: Callable[[str, Any], Any], path: str = "", depth: int = DEPTH
) -> Any:
    """``value`` with every number replaced by ``change(path, number)``; plain objects are changed
    in place.
    """

    def changed(keys: Any, leaf: Any) -> Any:
        place = path + pytree.keystr(keys)
        if type(leaf) is not Number and isinstance(leaf, NUMBERS):
            return change(place, leaf)
        if isinstance(leaf, np.ndarray) and leaf.size <= MOST_ELEMENTS:
            return _mapped_array(leaf, lambda index, number: change(f"{place}[{index}]", number))
        if depth and hasattr(leaf, "__dict__") and not is_foreign(leaf):
            for name, held in vars(leaf).items():
                vars(leaf)[name] = mapped(held, change, f"{place}.{name}", depth - 1)
        return leaf

    return pytree.tree_map_with_path(changed, value)


def _mapped_array(array: NDArray[Any], change: Callable[[int, Any], Any]) -> NDArray[Any]:
    """An array of objects if a number was replaced; else ``array``."""
    changed = np.empty(array.size, dtype=object)
    changed[:] = [change(index, number) for index, number in enumerate(array.flat)]
    return changed.reshape(array.shape) if any(type(n) is Number for n in changed) else array


def changing(values: Iterable[Any]) -> set[str]:
    """The paths of the numbers that differ between any of these values."""
    numbers: list[dict[str, Any]] = []
    for value in values:
        numbers.append({})
        mapped(value, numbers[-1].setdefault)
    return {
        path
        for one in numbers
        for path in one
        if any(one[path] != other.get(path) for other in numbers)
    }


def matters(run: Callable[[Asked], Any], alike: Callable[[Any, Any], bool]) -> bool:
    """Whether any decision changes the results, or a number is used. ``run`` runs the model with
    numbers that record into ``Asked``, and returns the results.
    """
    paths: list[tuple[bool, ...]] = [()]
    results: list[Any] = []
    while paths:
        asked = Asked(paths.pop())
        try:
            results.append(run(asked))
        except Exception:  # a model may fail after a wrong decision
            return True
        if asked.used or len(results) > MOST_WAYS or not alike(results[0], results[-1]):
            return True
        paths += asked.others()
    return False
