"""edgekit takes a PyTorch model to a real edge device and proves that it fits.

The names below are the public library; a test pins them. They are imported when first used,
so that ``import edgekit`` costs nothing and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgekit.documents import BenchDocument, VerdictDocument
    from edgekit.errors import (
        BundleError,
        DeviceError,
        EdgekitError,
        ExportError,
        MissingExtraError,
        OutputError,
        ParityError,
        RecipeError,
        RunnerError,
        RuntimeFailure,
        SettingError,
        TargetError,
        UsageError,
    )
    from edgekit.pipeline.bench import bench
    from edgekit.pipeline.build import build
    from edgekit.pipeline.check import check
    from edgekit.pipeline.init import init
    from edgekit.target import Target, load_target

_HOME = {
    "BenchDocument": "documents",
    "VerdictDocument": "documents",
    "bench": "pipeline.bench",
    "build": "pipeline.build",
    "check": "pipeline.check",
    "init": "pipeline.init",
    "Target": "target",
    "load_target": "target",
} | dict.fromkeys(
    (
        "BundleError", "DeviceError", "EdgekitError", "ExportError", "MissingExtraError",
        "OutputError", "ParityError", "RecipeError", "RunnerError", "RuntimeFailure",
        "SettingError", "TargetError", "UsageError",
    ),
    "errors",
)  # fmt: skip

__all__ = [
    "BenchDocument",
    "BundleError",
    "DeviceError",
    "EdgekitError",
    "ExportError",
    "MissingExtraError",
    "OutputError",
    "ParityError",
    "RecipeError",
    "RunnerError",
    "RuntimeFailure",
    "SettingError",
    "Target",
    "TargetError",
    "UsageError",
    "VerdictDocument",
    "__version__",
    "bench",
    "build",
    "check",
    "init",
    "load_target",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'edgekit' has no attribute '{name}'")
    return getattr(import_module(f"edgekit.{_HOME[name]}"), name)
