"""The rules of docs/architecture.md: imports point down, and some rooms know no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edgekit

PACKAGE = Path(edgekit.__file__).parent
# From the top of each house to its foundations; a room imports itself and what is below it.
ROOMS = {
    "": [
        "cli", "commands", "report", "pipeline", "host", "settings", "build_options", "measure",
        "fleet", "search", "exported", "runtimes", "compress", "store", "cost", "data", "metrics",
        "recipe", "runner", "fidelity", "bundle", "device", "target", "documents", "plan",
        "program", "budget", "cache", "progress", "process", "frozen", "errors", "values",
        "version", "portable",
    ],
    "pipeline": [
        "choose_runtime", "tried", "contest", "searched", "bundle_build", "finished_file", "fit",
        "package", "result", "shrink", "plans", "constraints", "precision", "training",
        "calibration", "model", "state", "normal_form",
    ],
    "device": ["connect", "ssh", "shell", "qemu", "debian", "local", "scratch", "facts", "base"],
    "compress": [
        "training", "depth", "low_rank", "pruning", "last_steps", "divergence", "quantization",
        "reference", "half_precision", "masks", "graph", "batches", "moments", "norms", "copying",
    ],
}  # fmt: skip
NO_TORCH = [
    "cli", "commands", "report", "host", "measure", "fleet", "store", "cost", "runner", "fidelity",
    "bundle", "device", "settings", "build_options", "target", "plan", "program", "documents",
    "budget", "cache", "progress", "process", "frozen", "errors", "values", "version",
]  # fmt: skip
# Commands that build or judge need torch, and import it when they are called.
LATE_TORCH = {"commands/build.py", "commands/evaluate.py"}
MOST_FILES = 14


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def sources() -> list[Path]:
    skipped = {"__init__", "__main__", "templates"}
    return [path for path in PACKAGE.rglob("*.py") if room_of(path) not in skipped]


def rooms_in(house: str) -> dict[Path, str]:
    """Every file of a house, with the room that it is in."""
    folder = PACKAGE / house
    inside = [path for path in sources() if path.is_relative_to(folder)]
    named = {path: path.relative_to(folder).parts[0].removesuffix(".py") for path in inside}
    return {path: room for path, room in named.items() if room != "__init__"}


@pytest.mark.parametrize("house", ROOMS)
def test_every_room_is_in_the_list(house: str) -> None:
    assert set(rooms_in(house).values()) <= set(ROOMS[house])


@pytest.mark.parametrize("house", ROOMS)
def test_imports_point_down(house: str) -> None:
    order, prefix = ROOMS[house], ["edgekit", *([house] if house else [])]
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path, room in rooms_in(house).items()
        for name in imports_of(path)
        if (parts := name.split("."))[: len(prefix)] == prefix and len(parts) > len(prefix)
        if (below := parts[len(prefix)]) in order and order.index(below) < order.index(room)
    ]
    assert not wrong, wrong


def test_only_the_ssh_transport_knows_paramiko() -> None:
    """What device/shell/ holds serves every transport."""
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in PACKAGE.rglob("*.py")
        if not path.is_relative_to(PACKAGE / "device" / "ssh")
        for name in imports_of(path)
        if name.split(".")[0] == "paramiko"
    ]
    assert not wrong, wrong


# A runtime that runs another one's files, converted and quantized by it.
SHARES = {"tflite": "litert"}


def test_only_the_registry_knows_a_runtime() -> None:
    """A second runtime then needs an entry, and no change elsewhere."""
    runtimes = PACKAGE / "runtimes"
    folders = [path for path in runtimes.iterdir() if (path / "runtime.py").is_file()]
    assert folders
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for folder in folders
        for path in PACKAGE.rglob("*.py")
        if not path.is_relative_to(folder) and path != runtimes / "registry.py"
        if folder.name not in [SHARES.get(part) for part in path.relative_to(PACKAGE).parts]
        for name in imports_of(path)
        if name.startswith(f"edgekit.runtimes.{folder.name}")
    ]
    assert not wrong, wrong


def test_no_folder_holds_more_files_than_one_overlooks() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    counts = {
        str(folder.relative_to(PACKAGE)): len([*folder.glob("[!_]*.py")]) for folder in folders
    }
    assert not {name: count for name, count in counts.items() if count > MOST_FILES}


def test_rooms_without_torch() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in sources()
        if room_of(path) in NO_TORCH and str(path.relative_to(PACKAGE)) not in LATE_TORCH
        for name in imports_of(path)
        if name.split(".")[0] in ("torch", "executorch", "torchao")
    ]
    assert not wrong, wrong


def test_check_and_bench_import_no_torch() -> None:
    code = (
        "import sys, edgekit; edgekit.check; edgekit.bench; edgekit.deploy; edgekit.run;"
        "import edgekit.cli.bundle_commands, edgekit.cli.device_commands;"
        "import edgekit.cli.host_commands;"
        "import edgekit.commands.doctor, edgekit.commands.cache;"
        "import edgekit.report.verdict; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_helpers_of_recipes_import_torch_and_pillow_late() -> None:
    code = (
        "import sys, edgekit.data, edgekit.metrics; assert not {'torch', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_imports_neither_pydantic_nor_rich() -> None:
    code = (
        "import sys, edgekit.cli.bundle_commands, edgekit.cli.device_commands;"
        "import edgekit.cli.host_commands;"
        "assert not {'torch', 'pydantic', 'rich', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_modes_do_not_import_the_compiler() -> None:
    """It takes over a second, of the two that an unchanged build may take."""
    wrong = [
        str(path.relative_to(PACKAGE))
        for path in sources()
        if "torch.utils._python_dispatch.TorchDispatchMode" in imports_of(path)
    ]
    assert wrong == ["pipeline/normal_form/operator_mode.py"]


def test_exported_names_are_pinned() -> None:
    assert edgekit.__all__ == [
        "BenchDocument", "BundleError", "DeployDocument", "DeviceError", "EdgekitError",
        "EvalDocument", "ExportError", "HostKeyError", "LsDocument", "MissingExtraError",
        "OutputError", "ParityError", "PreflightError", "RecipeError", "RunDocument",
        "RunnerError", "RuntimeFailure", "SettingError", "StoreError", "Target", "TargetError",
        "TrainingError",
        "UsageError", "VerdictDocument", "__version__", "bench", "build", "check", "deploy",
        "evaluate", "explain", "init", "load_target", "ls", "rm", "rollback", "run",
    ]  # fmt: skip
    for name in edgekit.__all__:
        assert getattr(edgekit, name) is not None


def test_no_exported_name_is_a_room() -> None:
    """Importing edgekit.NAME would put the module in the function's place."""
    assert not {room_of(path) for path in PACKAGE.rglob("*.py")} & set(edgekit.__all__)
