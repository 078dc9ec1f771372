"""Settings from flags, environment, ./edgekit.toml and the user's configuration, in this order."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from edgekit.budget import BudgetLimits, Limits, merge_limits
from edgekit.build_options import BUDGETS, ENVIRONMENT, FLAGS, clashes, file_side, validated
from edgekit.errors import SettingError
from edgekit.search.constraints import read_constraints

PROJECT_FILE = "edgekit.toml"
# Variables of edgekit that are not options of a build.
OTHER_VARIABLES = {"EDGEKIT_COMMAND", "EDGEKIT_DATA", "EDGEKIT_ROOT"}

# A table of edgekit.toml; all other keys are options.
CONSTRAINTS = "constraints"

# The layer's name, and field of BuildOptions -> value.
Layer = tuple[str, dict[str, Any]]


def read_layers(flags: Mapping[str, Any]) -> list[Layer]:
    """All layers of settings, strongest first. Flags that are None are ignored.

    Raises UsageError for flags and SettingError for variables and files, if a name is unknown, a
    value is not allowed, or options exclude each other.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    return [
        ("flag", validated(given, FLAGS)),
        ("environment", _from_environment()),
        (PROJECT_FILE, _from_file(Path(PROJECT_FILE))),
        ("user configuration", _from_file(user_file())),
    ]


def user_file() -> Path:
    return Path(platformdirs.user_config_dir("edgekit", appauthor=False)) / PROJECT_FILE


def merge(layers: list[Layer]) -> dict[str, Any]:
    """Each option's value from the strongest layer, except for the budgets (``limits``). So is each
    constraint.

    Options that a stronger layer excludes are dropped: --plan replaces a precision in edgekit.toml.
    """
    merged: dict[str, Any] = {}
    for _, values in layers:
        excluded = set().union(*(names for names, _ in clashes(values | merged)))
        if CONSTRAINTS in merged and CONSTRAINTS in values:
            merged[CONSTRAINTS] = merged[CONSTRAINTS].over(values[CONSTRAINTS])
        merged = {key: values[key] for key in values.keys() - excluded - set(BUDGETS)} | merged
    return merged


def limits(layers: list[Layer]) -> Limits:
    """The limits of the budgets, each with the layer that set it."""
    return merge_limits(
        (asked_by, BudgetLimits(**{key: values[key] for key in BUDGETS if key in values}))
        for asked_by, values in layers
    )


def _from_environment() -> dict[str, Any]:
    variables = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("EDGEKIT_") and name not in OTHER_VARIABLES
    }
    return validated(ENVIRONMENT.fields_of(variables), ENVIRONMENT)


def _from_file(path: Path) -> dict[str, Any]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingError(f"{path} cannot be read: {error}") from None
    side, table = file_side(path), data.pop(CONSTRAINTS, None)
    values = validated(side.fields_of(data), side)
    if table is not None:
        values[CONSTRAINTS] = read_constraints(table, side.prefix)
    return values
