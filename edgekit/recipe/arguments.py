"""How a model is called: its arguments as one flat list of named tensors, and the way back."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.errors import RecipeError

Path = tuple[Any, ...]
# Inputs as a recipe gives them: nested tuples, lists and dicts of tensors.
Nested = Any


@dataclass(frozen=True)
class Arguments:
    """``tree`` has forward's arguments by name, nested as the recipe's example is, with the place
    in the flat list where a tensor stands. The first ``positional`` of them go by position.
    ``names`` are those of the flat tensors, ``parameters`` those that forward takes by position.
    """

    names: tuple[str, ...]
    tree: Mapping[str, Nested]
    positional: int
    parameters: tuple[str, ...]

    def flatten(self, value: Nested, where: str) -> list[Any]:
        """The leaves of one set of inputs as the recipe gives it: a tuple, or a dict of keywords.

        Raises RecipeError: it is nested otherwise than the example.
        """
        args, keywords = _call_of(value, where)
        return self.flatten_call(args, keywords, where)

    def flatten_call(
        self, args: Sequence[Nested], keywords: Mapping[str, Nested], where: str
    ) -> list[Any]:
        """The leaves of one call. Arguments may go by position or by name, as forward has them.

        Raises RecipeError.
        """
        given = _by_name(args, keywords, self.parameters, where)
        return list(_leaves(given, self.tree, (), where))

    def rebuild(self, flat: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The model's own arguments, by position and by keyword."""
        filled = _mapped(self.tree, lambda _, index: flat[index])
        values = list(filled.values())[: self.positional]
        return values, dict(list(filled.items())[self.positional :])

    @property
    def are_plain(self) -> bool:
        """Whether the flat list is how the model is called anyway."""
        return self.positional == len(self.tree) and all(
            isinstance(value, int) for value in self.tree.values()
        )


def read_arguments(value: Nested, parameters: Sequence[str], where: str) -> Arguments:
    """How ``value``, the recipe's example, is arranged. Raises RecipeError: not as inputs are."""
    args, keywords = _call_of(value, where)
    names: list[str] = []

    def numbered(path: Path, _: Any) -> int:
        names.append(_name(path, names))
        return len(names) - 1

    tree = _mapped(_by_name(args, keywords, parameters, where), numbered)
    return Arguments(tuple(names), tree, len(args), tuple(parameters))


def parameters_of(forward: Callable[..., Any]) -> tuple[str, ...]:
    """The names of what a function takes by position, as far as they are known."""
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
                f"{where} is a dict whose keys are no names of forward's arguments",
                "one dict as the only argument is a tuple of one: (inputs,)",
            )
        return (), value
    kind = type(value).__name__
    hint = "a single input is a tuple of one: (x,)" if hasattr(value, "shape") else None
    raise RecipeError(f"{where} must be a tuple of tensors or a dict of them, not {kind}", hint)


def _by_name(
    args: Sequence[Nested], keywords: Mapping[str, Nested], parameters: Sequence[str], where: str
) -> dict[str, Nested]:
    known = dict(enumerate(parameters))
    named = {known.get(index, f"input_{index}"): value for index, value in enumerate(args)}
    if twice := named.keys() & keywords.keys():
        raise RecipeError(f"{where}: {', '.join(sorted(twice))} is given twice")
    return named | dict(keywords)


def _mapped(value: Nested, function: Callable[[Path, Any], Any], path: Path = ()) -> Any:
    """``value`` with each leaf replaced by what ``function`` gives for its path and itself."""
    if isinstance(value, Mapping):
        return {key: _mapped(item, function, (*path, key)) for key, item in value.items()}
    if not isinstance(value, (tuple, list)):
        return function(path, value)
    items = [_mapped(item, function, (*path, index)) for index, item in enumerate(value)]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def _leaves(value: Nested, tree: Nested, path: Path, where: str) -> Iterator[Any]:
    """The leaves of ``value`` in the order of ``tree``, which it must resemble."""
    if isinstance(tree, int):
        yield value
        return
    found, wanted = _children(value), _children(tree) or {}
    if found is None or found.keys() != wanted.keys():
        place = f"{where}: {_name(path)}" if path else where
        raise RecipeError(
            f"{place} has {_listed(found, value)}, but example_inputs() has {_listed(wanted, tree)}"
        )
    for key, item in wanted.items():
        yield from _leaves(found[key], item, (*path, key), where)


def _children(value: Nested) -> Mapping[Any, Nested] | None:
    if isinstance(value, Mapping):
        return value
    return dict(enumerate(value)) if isinstance(value, (tuple, list)) else None


def _listed(children: Mapping[Any, Nested] | None, value: Nested) -> str:
    if children is None:
        return type(value).__name__
    if isinstance(value, (tuple, list)):
        return f"{len(children)} elements"
    return ", ".join(map(str, children)) or "nothing"


def _name(path: Path, taken: Sequence[str] = ()) -> str:
    """The path's parts joined, as a name that no other tensor has."""
    name = re.sub(r"\W", "_", "_".join(map(str, path))) or "input"
    count = 1
    unique = name
    while unique in taken:
        count += 1
        unique = f"{name}_{count}"
    return unique
