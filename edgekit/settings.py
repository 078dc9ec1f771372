"""Settings: flag, environment, ./edgekit.toml, the user's configuration; the strongest wins."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import Field, ValidationError

from edgekit.budget import BudgetLimits, Limits, merge_limits
from edgekit.errors import SettingError
from edgekit.target import Target, explain_validation
from edgekit.values import Effort, PrecisionChoice, RuntimeChoice

PROJECT_FILE = "edgekit.toml"


class Settings(BudgetLimits):
    """Everything that a flag of ``edgekit build``, a variable or a file may set."""

    recipe: str | None = None
    target: str | None = None
    runtime: RuntimeChoice | None = None
    precision: PrecisionChoice | None = None
    effort: Effort | None = None
    qat: bool | None = None
    prune: float | None = Field(default=None, gt=0, lt=1)
    sparsity: float | None = Field(default=None, gt=0, lt=1)
    distill: bool | None = None
    time_limit: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    plan: str | None = None
    calibration: str | None = None
    seed: int | None = None
    device: str | None = None
    name: str | None = None
    output: str | None = None


Layers = list[tuple[str, Settings]]


def read_layers(flags: Mapping[str, Any]) -> Layers:
    """All layers of settings, strongest first, each with who set it.

    Raises SettingError: a variable or a file with an unknown key or a value that is not allowed.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    return [
        ("flag", _validated(given, "the command line")),
        ("environment", _from_environment()),
        (PROJECT_FILE, _from_file(Path(PROJECT_FILE))),
        ("user configuration", _from_file(user_file())),
    ]


def user_file() -> Path:
    return Path(platformdirs.user_config_dir("edgekit", appauthor=False)) / PROJECT_FILE


def pick(layers: Layers, key: str, default: Any = None) -> Any:
    """The strongest layer's value of ``key``."""
    values = (getattr(settings, key) for _, settings in layers)
    return next((value for value in values if value is not None), default)


def limits(layers: Layers, target: Target) -> Limits:
    """The budgets asked for; the target's own come last."""
    return merge_limits([*layers, ("target", target.budgets)])


def _from_environment() -> Settings:
    found = {
        key: os.environ[variable]
        for key in Settings.model_fields
        if (variable := f"EDGEKIT_{key.upper()}") in os.environ
    }
    return _validated(found, "the environment (EDGEKIT_...)")


def _from_file(path: Path) -> Settings:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return Settings()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingError(f"{path} cannot be read: {error}") from None
    return _validated(data, str(path))


def _validated(data: Mapping[str, Any], where: str) -> Settings:
    try:
        return Settings.model_validate(dict(data))
    except ValidationError as error:
        raise SettingError(
            f"{where} holds a setting that is not valid:\n" + explain_validation(error, Settings)
        ) from None
