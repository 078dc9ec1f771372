"""Constraints checked against the model and the options, before anything slow runs."""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch

from edgekit.build_options import BuildOptions
from edgekit.compress.depth.blocks import outermost
from edgekit.compress.graph import within
from edgekit.errors import SettingError, nearest
from edgekit.pipeline.model.names import layer_names, names_of_operators
from edgekit.pipeline.model.subject import Subject
from edgekit.recipe.image_size import image_size_of, size_text
from edgekit.search.constraints import NO_CONSTRAINTS, Constraints
from edgekit.values import image_size

WILD = "*?["


def check_constraints(options: BuildOptions, subject: Subject) -> Constraints:
    """The constraints with names of the model in place of patterns.

    Raises SettingError: an unknown name, or a contradiction to an option or to the model.
    """
    wanted = options.constraints
    if wanted is None:
        return NO_CONSTRAINTS
    assert isinstance(wanted, Constraints)
    layers = layer_names(subject.model)
    operators = [name for name in wanted.keep_float if ":" in name]
    floats = layers + (names_of_operators(subject) if operators else [])
    found = wanted.replaced(
        keep_float=_named("keep_float", wanted.keep_float, floats),
        keep_channels=_named("keep_channels", wanted.keep_channels, layers),
        keep_blocks=_named("keep_blocks", wanted.keep_blocks, layers),
    )
    _check_precision(found, options, subject.model)
    _check_sizes(found, options, subject)
    return found


def _named(constraint: str, patterns: tuple[str, ...], names: list[str]) -> tuple[str, ...]:
    """The outermost of the names that match."""
    found = set[str]()
    for pattern in patterns:
        matching = {pattern} & set(names)
        if not matching and any(sign in pattern for sign in WILD):
            matching = {name for name in names if fnmatchcase(name, pattern)}
        if not matching:
            raise SettingError(
                f"constraints.{constraint}: the model has no layer '{pattern}'",
                nearest(pattern, names),
            )
        found |= matching
    return tuple(outermost(found))


def _check_precision(found: Constraints, options: BuildOptions, model: torch.nn.Module) -> None:
    if not found.keep_float or options.precision == "fp32":
        return
    if options.precision == "int8":
        raise SettingError(
            "constraints.keep_float keeps layers float, but int8 leaves nothing in float that can "
            "be int8",
            "use the precision mixed or auto, or remove keep_float",
        )
    owners = {name.rpartition(".")[0] for name, part in model.named_parameters() if part.dim() > 1}
    if owners and all(any(within(one, kept) for kept in found.keep_float) for one in owners):
        raise SettingError(
            "constraints.keep_float keeps all layers with weights float: nothing is left for int8",
            "use the precision fp32, or keep fewer layers",
        )


def _check_sizes(found: Constraints, options: BuildOptions, subject: Subject) -> None:
    least, wanted = found.least_size, options.input_size
    size = image_size(wanted) if wanted is not None else None
    if least is None:
        return
    if size is not None and not found.allows_size(size):
        raise SettingError(
            f"the input size {size_text(size)} is smaller than constraints.min_input_size, "
            f"{size_text(least)}",
            "choose a larger size, or change the constraint",
        )
    own = image_size_of(subject.example)
    if own is None:
        raise SettingError("constraints.min_input_size: the model has no image as an input")
    if not found.allows_size(own):
        raise SettingError(
            f"constraints.min_input_size {size_text(least)} is larger than the images of "
            f"{subject.recipe.path.name}, {size_text(own)}"
        )
