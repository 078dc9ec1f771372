"""The arguments of a model: nested values to a flat list of named tensors, and back."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.errors import RecipeError

Path = tuple[Any, ...]
# Inputs in a recipe's form: nested tuples, lists and dicts of tensors.
Nested = Any


@dataclass(frozen=True)
class Arguments:
    """The structure of a model's arguments.

    ``names``: of the flat tensors. ``tree``: forward's arguments by name, nested as in the
    recipe's example, with each tensor's index in the flat list. The first ``positional`` arguments
    are passed by position. ``parameters``: the names of forward's positional parameters.
    """

    names: tuple[str, ...]
    tree: Mapping[str, Nested]
    positional: int
    parameters: tuple[str, ...]

    def flatten(self, value: Nested, where: str) -> list[Any]:
        """The leaves of one set of inputs of the recipe: a tuple, or a dict of keywords.

        Raises RecipeError if its nesting differs from the example's.
        """
        args, keywords = _call_of(value, where)
        return self.flatten_call(args, keywords, where)

    def flatten_call(
        self, args: Sequence[Nested], keywords: Mapping[str, Nested], where: str
    ) -> list[Any]:
        """The leaves of one call of forward, with arguments by position or by name.

        Raises RecipeError.
        """
        given = _by_name(args, keywords, self.parameters, where)
        return list(_leaves(given, self.tree, (), where))

    def rebuild(self, flat: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The model's arguments from a flat list: by position, and by keyword."""
        filled = _map_leaves(self.tree, lambda _, index: flat[index])
        values = list(filled.values())[: self.positional]
        return values, dict(list(filled.items())[self.positional :])

    @property
    def are_plain(self) -> bool:
        """Whether the model's positional arguments are just the flat list."""
        return self.positional == len(self.tree) and all(
            isinstance(value, int) for value in self.tree.values()
        )


def read_arguments(value: Nested, parameters: Sequence[str], where: str) -> Arguments:
    """The structure of ``value``, the recipe's example. Raises RecipeError if it is no inputs."""
    args, keywords = _call_of(value, where)
    names: list[str] = []

    def numbered(path: Path, _: Any) -> int:
        names.append(_name(path, names))
        return len(names) - 1

    tree = _map_leaves(_by_name(args, keywords, parameters, where), numbered)
    return Arguments(tuple(names), tree, len(args), tuple(parameters))


def parameters_of(forward: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a function's positional parameters; empty if unknown."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):
        return ()
    return tuple(parameter.name for parameter in parameters if parameter.kind in kinds)


def _call_of(value: Nested, where: str) -> tuple[Sequence[Nested], Mapping[str, Nested]]:
    if isinstance(value, (tuple, list)):
        return value, {}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise RecipeError(
                f"{where} is a dict, but its keys are not names of forward's arguments",
                "to pass a dict as the only argument, return a tuple: (inputs,)",
            )
        return (), value
    kind = type(value).__name__
    hint = "return a single input as a tuple: (x,)" if hasattr(value, "shape") else None
    raise RecipeError(f"{where} must be a tuple of tensors or a dict of them, not {kind}", hint)


def _by_name(
    args: Sequence[Nested], keywords: Mapping[str, Nested], parameters: Sequence[str], where: str
) -> dict[str, Nested]:
    known = dict(enumerate(parameters))
    by_name = {known.get(index, f"input_{index}"): value for index, value in enumerate(args)}
    if twice := by_name.keys() & keywords.keys():
        raise RecipeError(f"{where}: {', '.join(sorted(twice))} is given twice")
    return by_name | dict(keywords)


def _map_leaves(value: Nested, function: Callable[[Path, Any], Any], path: Path = ()) -> Any:
    """``value`` with each leaf replaced by ``function(path, leaf)``."""
    if isinstance(value, Mapping):
        return {key: _map_leaves(item, function, (*path, key)) for key, item in value.items()}
    if not isinstance(value, (tuple, list)):
        return function(path, value)
    items = [_map_leaves(item, function, (*path, index)) for index, item in enumerate(value)]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def _leaves(value: Nested, tree: Nested, path: Path, where: str) -> Iterator[Any]:
    """The leaves of ``value`` in the order of ``tree``. Raises RecipeError if they differ."""
    if isinstance(tree, int):
        yield value
        return
    children, expected = _children(value), _children(tree) or {}
    if children is None or children.keys() != expected.keys():
        place = f"{where}: {_name(path)}" if path else where
        raise RecipeError(
            f"{place} has {_describe(children, value)}, but example_inputs() has "
            f"{_describe(expected, tree)}"
        )
    for key, item in expected.items():
        yield from _leaves(children[key], item, (*path, key), where)


def _children(value: Nested) -> Mapping[Any, Nested] | None:
    if isinstance(value, Mapping):
        return value
    return dict(enumerate(value)) if isinstance(value, (tuple, list)) else None


def _describe(children: Mapping[Any, Nested] | None, value: Nested) -> str:
    if children is None:
        return type(value).__name__
    if isinstance(value, (tuple, list)):
        return f"{len(children)} elements"
    return ", ".join(map(str, children)) or "nothing"


def _name(path: Path, others: Sequence[str] = ()) -> str:
    """A name from the path's parts, different from all ``others``."""
    name = re.sub(r"\W", "_", "_".join(map(str, path))) or "input"
    count = 1
    unique = name
    while unique in others:
        count += 1
        unique = f"{name}_{count}"
    return unique
