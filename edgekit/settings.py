"""Settings: flag, environment, ./edgekit.toml, the user's configuration; the strongest wins."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from edgekit.budget import BudgetLimits, Limits, merge_limits
from edgekit.errors import SettingError
from edgekit.options import BUDGETS, ENVIRONMENT, FLAGS, clashes, file_side, validated

PROJECT_FILE = "edgekit.toml"
# Variables of edgekit that are no options of a build.
OTHER_VARIABLES = {"EDGEKIT_COMMAND", "EDGEKIT_DATA", "EDGEKIT_ROOT"}

# Who set them, and the values by the names of BuildOptions' fields.
Layer = tuple[str, dict[str, Any]]


def read_layers(flags: Mapping[str, Any]) -> list[Layer]:
    """All layers of settings, strongest first. A flag that is None was not given.

    Raises UsageError for flags, SettingError for a variable or a file: an unknown name, a value
    that is not allowed, or options that exclude each other.
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
    """The strongest layer's value of each option but the budgets (``limits``).

    What a stronger layer excludes is left out: --plan replaces a precision in edgekit.toml.
    """
    merged: dict[str, Any] = {}
    for _, values in layers:
        excluded = set().union(*(names for names, _ in clashes(values | merged)))
        merged = {key: values[key] for key in values.keys() - excluded - set(BUDGETS)} | merged
    return merged


def limits(layers: list[Layer]) -> Limits:
    """The budgets asked for, with who asked."""
    return merge_limits(
        (asked_by, BudgetLimits(**{key: values[key] for key in BUDGETS if key in values}))
        for asked_by, values in layers
    )


def _from_environment() -> dict[str, Any]:
    found = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("EDGEKIT_") and name not in OTHER_VARIABLES
    }
    return validated(ENVIRONMENT.fields_of(found), ENVIRONMENT)


def _from_file(path: Path) -> dict[str, Any]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingError(f"{path} cannot be read: {error}") from None
    side = file_side(path)
    return validated(side.fields_of(data), side)
