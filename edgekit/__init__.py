"""edgekit takes a PyTorch model to a real edge device and proves that it fits.

The names below are the public library; a test pins them. They are imported when first used,
so that ``import edgekit`` costs nothing and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgekit.documents import (
        BenchDocument,
        DeployDocument,
        EvalDocument,
        LsDocument,
        RunDocument,
        VerdictDocument,
    )
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
    from edgekit.pipeline.bench import bench
    from edgekit.pipeline.build import build
    from edgekit.pipeline.check import check
    from edgekit.pipeline.deploy import deploy, ls, rm, rollback
    from edgekit.pipeline.evaluate import evaluate
    from edgekit.pipeline.explain import explain
    from edgekit.pipeline.init import init
    from edgekit.pipeline.run import run
    from edgekit.target import Target, load_target

_HOME = {
    "BenchDocument": "documents",
    "DeployDocument": "documents",
    "EvalDocument": "documents",
    "LsDocument": "documents",
    "RunDocument": "documents",
    "VerdictDocument": "documents",
    "bench": "pipeline.bench",
    "build": "pipeline.build",
    "check": "pipeline.check",
    "deploy": "pipeline.deploy",
    "evaluate": "pipeline.evaluate",
    "explain": "pipeline.explain",
    "init": "pipeline.init",
    "ls": "pipeline.deploy",
    "rm": "pipeline.deploy",
    "rollback": "pipeline.deploy",
    "run": "pipeline.run",
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
