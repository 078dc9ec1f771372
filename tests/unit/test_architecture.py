"""The rules of docs/architecture.md: imports point down, and some rooms know no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import edgekit

PACKAGE = Path(edgekit.__file__).parent
# From the top of the house to its foundations; a room imports itself and what is below it.
ROOMS = [
    "cli", "report", "pipeline", "search", "exported", "runtimes", "compress", "data", "metrics",
    "calibration", "recipe", "arguments", "cost", "store", "measurement", "runner", "bundle",
    "device", "cache", "settings", "target", "budget", "plan", "program", "documents", "progress",
    "interrupt", "waiting", "errors", "portable",
]  # fmt: skip
# Frozen data at the foundations: these may know each other in any direction but a circle.
LEAVES = {
    "settings", "target", "budget", "plan", "program", "documents", "progress", "interrupt",
    "waiting", "errors", "cache",
}  # fmt: skip
NO_TORCH = ["device", "runner", "measurement", "store", "bundle", "cost", "report", "cli", *LEAVES]


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


def test_every_room_is_in_the_list() -> None:
    assert {room_of(path) for path in sources()} <= set(ROOMS)


def test_imports_point_down() -> None:
    wrong = []
    for path in sources():
        room = room_of(path)
        for name in imports_of(path):
            parts = name.split(".")
            if parts[0] != "edgekit" or len(parts) < 2 or parts[1] not in ROOMS:
                continue
            if room in LEAVES and parts[1] in LEAVES:
                continue
            if ROOMS.index(parts[1]) < ROOMS.index(room):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong, wrong


def test_no_circles_between_the_leaves() -> None:
    graph = {
        leaf: {
            name.split(".")[1]
            for name in imports_of(PACKAGE / f"{leaf}.py")
            if name.startswith("edgekit.") and name.split(".")[1] in LEAVES - {leaf}
        }
        for leaf in LEAVES
    }
    done: set[str] = set()
    while ready := {leaf for leaf, needs in graph.items() if leaf not in done and needs <= done}:
        done |= ready
    assert done == LEAVES, f"a circle among {LEAVES - done}"


def test_rooms_without_torch() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in sources()
        if room_of(path) in NO_TORCH
        for name in imports_of(path)
        if name.split(".")[0] in ("torch", "executorch", "torchao")
    ]
    assert not wrong, wrong


def test_check_and_bench_import_no_torch() -> None:
    code = (
        "import sys, edgekit; edgekit.check; edgekit.bench; edgekit.deploy; edgekit.run;"
        "import edgekit.cli.commands, edgekit.cli.device_commands, edgekit.cli.host_commands;"
        "import edgekit.pipeline.doctor, edgekit.pipeline.housekeeping;"
        "import edgekit.report.text; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_helpers_of_recipes_import_torch_and_pillow_late() -> None:
    code = (
        "import sys, edgekit.data, edgekit.metrics; assert not {'torch', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_imports_neither_pydantic_nor_rich() -> None:
    code = (
        "import sys, edgekit.cli.commands, edgekit.cli.device_commands, edgekit.cli.host_commands;"
        "assert not {'torch', 'pydantic', 'rich', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
