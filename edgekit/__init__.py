"""edgekit takes a PyTorch model to a real edge device and proves that it fits.

The names below are the public library; a test pins them. They are imported when first used,
so that ``import edgekit`` costs nothing and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgekit.version import __version__

if TYPE_CHECKING:
    from edgekit.commands.bench import bench
    from edgekit.commands.build import build
    from edgekit.commands.check import check
    from edgekit.commands.deploy import deploy, ls, rm, rollback
    from edgekit.commands.evaluate import evaluate
    from edgekit.commands.explain import explain
    from edgekit.commands.init import init
    from edgekit.commands.run import run
    from edgekit.documents.device import DeployDocument, EvalDocument, LsDocument, RunDocument
    from edgekit.documents.measure import BenchDocument
    from edgekit.documents.verdict import VerdictDocument
    from edgekit.errors import (
        BundleError,
        DeviceError,
        EdgekitError,
        ExportError,
        HostKeyError,
        MissingExtraError,
        OutputError,
        ParityError,
        PreflightError,
        RecipeError,
        RunnerError,
        RuntimeFailure,
        SettingError,
        StoreError,
        TargetError,
        TrainingError,
        UsageError,
    )
    from edgekit.target import Target, load_target

_HOME = {
    "BenchDocument": "documents.measure",
    "DeployDocument": "documents.device",
    "EvalDocument": "documents.device",
    "LsDocument": "documents.device",
    "RunDocument": "documents.device",
    "VerdictDocument": "documents.verdict",
    "bench": "commands.bench",
    "build": "commands.build",
    "check": "commands.check",
    "deploy": "commands.deploy",
    "evaluate": "commands.evaluate",
    "explain": "commands.explain",
    "init": "commands.init",
    "ls": "commands.deploy",
    "rm": "commands.deploy",
    "rollback": "commands.deploy",
    "run": "commands.run",
    "Target": "target",
    "load_target": "target",
} | dict.fromkeys(
    (
        "BundleError", "DeviceError", "EdgekitError", "ExportError", "HostKeyError",
        "MissingExtraError", "OutputError", "ParityError", "PreflightError", "RecipeError",
        "RunnerError", "RuntimeFailure", "SettingError", "StoreError", "TargetError",
        "TrainingError", "UsageError",
    ),
    "errors",
)  # fmt: skip

__all__ = [
    "BenchDocument",
    "BundleError",
    "DeployDocument",
    "DeviceError",
    "EdgekitError",
    "EvalDocument",
    "ExportError",
    "HostKeyError",
    "LsDocument",
    "MissingExtraError",
    "OutputError",
    "ParityError",
    "PreflightError",
    "RecipeError",
    "RunDocument",
    "RunnerError",
    "RuntimeFailure",
    "SettingError",
    "StoreError",
    "Target",
    "TargetError",
    "TrainingError",
    "UsageError",
    "VerdictDocument",
    "__version__",
    "bench",
    "build",
    "check",
    "deploy",
    "evaluate",
    "explain",
    "init",
    "load_target",
    "ls",
    "rm",
    "rollback",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'edgekit' has no attribute '{name}'")
    return getattr(import_module(f"edgekit.{_HOME[name]}"), name)
