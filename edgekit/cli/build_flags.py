"""Flags generated from the declaration of a build's options (edgekit/build_options.py)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.build_options import FLAGS, OPTIONS, BuildOptions, choices_in, parts_of

Command = Callable[..., None]
TEXT_OF = {float: "<float>", int: "<int>"}


def with_options(names: Sequence[str] = tuple(OPTIONS)) -> Callable[[Command], Command]:
    """Replace a command's parameter ``options`` by a flag for each of ``names``.

    The command receives the given flags as a dict of texts. settings.py parses them in the same
    way as values from files and the environment.
    """

    def decorate(command: Command) -> Command:
        def run(**values: Any) -> None:
            flags = {name: values.pop(name) for name in names}
            given = {name: value for name, value in flags.items() if value is not None}
            command(**values, options=given)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            list(_parameters(command, names))
        )
        return run

    return decorate


def _parameters(command: Command, names: Sequence[str]) -> Iterator[inspect.Parameter]:
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if parameter.name == "options":
            yield from (_flag(name) for name in names)
        else:
            yield parameter


def _flag(name: str) -> inspect.Parameter:
    option, flag = OPTIONS[name], FLAGS.spell(name)
    parts = list(parts_of(BuildOptions.__annotations__[name]))
    kind: Any = Path if Path in parts else str
    if name == "recipe":
        info: Any = typer.Argument(metavar=option.metavar, help=option.help)
    elif bool in parts:
        kind, no = bool, flag.replace("--", "--no-")
        info = typer.Option(f"{flag}/{no}", help=option.help)
    else:
        info = typer.Option(flag, metavar=option.metavar or _metavar(parts), help=option.help)
    return inspect.Parameter(
        name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=None,
        annotation=Annotated[kind | None, info],
    )


def _metavar(parts: list[Any]) -> str | None:
    """The metavar of a flag whose value is parsed from text."""
    if names := choices_in(parts):
        return f"<{'|'.join(names)}>"
    return next((TEXT_OF[part] for part in parts if part in TEXT_OF), None)
