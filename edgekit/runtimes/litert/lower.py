"""From an exported program to a .tflite, by LiteRT's converter for torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import RunnerError, RuntimeFailure
from edgekit.program import Artifact
from edgekit.progress import Silent
from edgekit.runner.client import RunReport, measure
from edgekit.runner.staging import staged_file
from edgekit.runtimes.litert.describe import describe
from edgekit.runtimes.litert.edits.corrections import in_order
from edgekit.runtimes.litert.flatbuffer import read_graph
from edgekit.runtimes.litert.interpreter import silence
from edgekit.runtimes.litert.native import LIBRARY, runner_files
from edgekit.runtimes.quiet import first_line, quiet
from edgekit.target import host_architecture

if TYPE_CHECKING:
    import torch

FILE_NAME = "model.tflite"
# A profile of one run, to learn what the delegate takes.
LOOK_TIMEOUT_S = 600.0
# In place of the dots in a layer's path.
JOINED = "~"
WIDE = {"torch.int64", "torch.float64"}


def lower(exported: torch.export.ExportedProgram) -> Artifact:
    """Convert a float program. Raises RuntimeFailure."""
    return described(convert(exported), scopes_of(exported))


def read(data: bytes) -> Artifact:
    """Describe a finished file. Raises RuntimeFailure."""
    return described(data, {})


def described(data: bytes, scopes: Mapping[str, str]) -> Artifact:
    """An artifact with what the native runner tells of it. Raises RuntimeFailure."""
    graph = read_graph(data)
    return Artifact(data, FILE_NAME, describe(graph, _look(data), scopes))


def _look(data: bytes) -> RunReport:
    """What the runner reports of one run. The file may be damaged, so another process loads it."""
    files = runner_files(host_architecture(), Silent())
    with staged_file(data, FILE_NAME, [LIBRARY], files) as here:
        try:
            return measure(
                here, runs=1, warmup=0, threads=1, timeout_s=LOOK_TIMEOUT_S, profile=True
            )
        except RunnerError as error:
            raise RuntimeFailure(
                f"the file does not run on this host: {error.message}",
                "a recipe: build it with --runtime executorch; a finished file: convert it with "
                "fixed shapes, for LiteRT's built-in operators",
            ) from error


def convert(exported: torch.export.ExportedProgram) -> bytes:
    """The program as a .tflite, with its inputs in the recipe's order and layout.

    Raises RuntimeFailure.
    """
    assert exported.example_inputs is not None
    args, kwargs = exported.example_inputs
    _name_layers(exported)
    # the converter makes 64-bit inputs and outputs narrower unless it is told not to
    wide = not WIDE.isdisjoint(str(dtype) for dtype in _dtypes(exported))
    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            litert = _converter()
            model = litert.convert(exported.module(), args, kwargs or None, enable_x64=wide)
            path = Path(folder) / FILE_NAME
            model.export(str(path))
            return in_order(path.read_bytes())
    except RuntimeFailure:
        raise
    except Exception as error:  # the converter raises errors of any kind
        raise RuntimeFailure(
            f"LiteRT's converter does not take the model: {first_line(error)}",
            "build it with --runtime executorch, or replace the operator",
        ) from error


def _converter() -> Any:
    silence()
    import litert_torch
    from litert_torch import _config

    _config.config.show_progress = False
    return litert_torch


def _dtypes(exported: torch.export.ExportedProgram) -> list[torch.dtype]:
    """The types of all inputs and outputs."""
    signature = exported.graph_signature
    names = {*map(str, signature.user_inputs), *map(str, signature.user_outputs)}
    values = [node.meta.get("val") for node in exported.graph.nodes if node.name in names]
    return [value.dtype for value in values if hasattr(value, "dtype")]


def scopes_of(exported: torch.export.ExportedProgram) -> dict[str, str]:
    """The layers by the converter's names for them: the classes and paths of the modules around a
    node.
    """
    scopes = {}
    for node in exported.graph.nodes:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        if node.op == "call_function" and stack:
            names = [_class(kind) + f"_{path}" * bool(path) for path, kind in _joined(stack)]
            scopes["/".join(names)] = str(stack[-1][0]).replace(JOINED, ".")
    return scopes


def _name_layers(exported: torch.export.ExportedProgram) -> None:
    """Make the converter use whole paths: it takes the part behind the last dot, and heads of a
    detector such as cls.0 and reg.0 would have one name.
    """
    for node in exported.graph.nodes:
        stack = node.meta.get("nn_module_stack") or {}
        if stack:
            pairs = zip(stack, _joined(stack.values()), strict=True)
            node.meta["nn_module_stack"] = dict(pairs)


def _joined(stack: Iterable[tuple[Any, Any]]) -> list[tuple[str, Any]]:
    return [(str(path).replace(".", JOINED), kind) for path, kind in stack]


def _class(kind: object) -> str:
    if isinstance(kind, str):
        return kind
    module, name = getattr(kind, "__module__", ""), getattr(kind, "__qualname__", str(kind))
    return name if module == "builtins" else f"{module}.{name}"
