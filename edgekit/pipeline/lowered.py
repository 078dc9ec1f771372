"""The stages of a build that take long, each kept by the content of all that went into it.

    program   the float model's or the quantized one's exported graph (int8: after calibration)
    artifact  the runtime's file, and what its reference in torch makes of the parity inputs

A stage that is found is not done again; an interrupted build goes on after its last one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from edgekit.cache import content_key, load_stage, store_stage
from edgekit.measurement.agreement import OutputsAgreement
from edgekit.pipeline.fingerprint import Fingerprint
from edgekit.pipeline.payoff import Arena
from edgekit.pipeline.predict import Outputs, run_eager, to_arrays, to_bytes
from edgekit.pipeline.quantized import quantized
from edgekit.pipeline.subject import Subject
from edgekit.plan import Plan
from edgekit.program import Program
from edgekit.progress import Progress
from edgekit.runtimes.base import Artifact, RunnerFiles, Runtime
from edgekit.runtimes.export import export
from edgekit.runtimes.quiet import quiet

PROGRAM_FILE, DESCRIPTION = "program.pt2", "program.json"
REFERENCE, FLOATS = "reference.pt", "floats.pt"
# Between two runs of one float model: threads add in another order.
SAME_TOLERANCE = 1e-5


Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Tools:
    """What every rung is built with: the runtime, its runner for this host, and the device that
    was named, where one was.
    """

    runtime: Runtime
    host_files: RunnerFiles
    seed: int
    progress: Progress
    fingerprint: Fingerprint
    arena: Arena | None = None


@dataclass(frozen=True)
class Lowered:
    """``reference`` and ``floats``: outputs in torch for each of the parity inputs, of what the
    artifact must agree with (int8: the quantized model) and of the float model.
    """

    artifact: Artifact
    reference: list[Outputs]
    floats: list[Outputs]


def lower(subject: Subject, tools: Tools, plan: Plan) -> Lowered:
    """Raises ExportError, RuntimeFailure."""
    eager = run_eager(subject.model)
    floats = [eager(inputs) for inputs in subject.parity_inputs]
    key = tools.fingerprint.key(tools.runtime, plan)
    kept = found_stage("artifact", key, floats, lambda folder: _read(folder, floats))
    if kept is not None:
        tools.progress.note(f"{plan.precision} is unchanged: taken from the cache")
        return kept
    exported = _exported(subject, tools, plan, key, floats)
    with tools.progress.stage(f"lowering {plan.precision}"):
        artifact = tools.runtime.lower(exported)
    reference = floats
    if plan.is_quantized:
        quantized = run_eager(exported.module())
        reference = [quantized(inputs) for inputs in subject.parity_inputs]
    lowered = Lowered(artifact, reference, floats)
    keep_stage(tools, "artifact", key, floats, lambda draft: _write(draft, lowered))
    return lowered


def _exported(
    subject: Subject, tools: Tools, plan: Plan, key: str | None, floats: list[Outputs]
) -> torch.export.ExportedProgram:
    """The graph to lower; a quantized one is kept, for calibration may take long."""
    if plan.precision == "fp32":
        with quiet(), tools.progress.stage("exporting"):
            return export(subject.model, subject.example)
    kept = found_stage("program", key, floats, _load_program)
    if kept is not None:
        tools.progress.note("quantized already: taken from the cache")
        return kept
    exported = quantized(subject, tools.runtime, plan, tools.progress)

    def write(draft: Path) -> None:
        with quiet():
            torch.export.save(exported, draft / PROGRAM_FILE)

    keep_stage(tools, "program", key, floats, write)
    return exported


def _load_program(folder: Path) -> torch.export.ExportedProgram:
    with quiet():
        # importing it registers the quantized operators that the file names
        import torchao.quantization.pt2e  # noqa: F401

        return torch.export.load(folder / PROGRAM_FILE)


def found_stage(
    kind: str, key: str | None, floats: list[Outputs], read: Callable[[Path], Kept]
) -> Kept | None:
    """What is kept of this very model. Whatever goes wrong with it, it is built anew."""
    for name in _names(key, floats):
        folder = load_stage(kind, name)
        with suppress(Exception):  # cleared meanwhile by another process, or not readable
            if folder is not None and _same(folder, floats):
                return read(folder)
    return None


def keep_stage(
    tools: Tools,
    kind: str,
    key: str | None,
    floats: list[Outputs],
    fill: Callable[[Path], None],
) -> None:
    """Under the first name that is free: one that is taken is of a model that only looks equal."""

    def fill_with_floats(draft: Path) -> None:
        torch.save(floats, draft / FLOATS)
        fill(draft)

    name = next((name for name in _names(key, floats) if load_stage(kind, name) is None), None)
    if name is not None and not store_stage(kind, name, fill_with_floats):
        tools.progress.note("this stage cannot be kept: the next build does it again")


def _names(key: str | None, floats: list[Outputs]) -> list[str]:
    """Where a stage may lie: by the key, and beside it by what the float model computes.

    The key has all that can be known of a model without running it. What its forward reads
    elsewhere (the environment, a file, an object that cannot be looked into) shows only in its
    outputs. No key, no names.
    """
    return [] if key is None else [key, f"{key}-{_digest(floats)}"]


def _write(draft: Path, lowered: Lowered) -> None:
    (draft / lowered.artifact.file_name).write_bytes(lowered.artifact.data)
    description = lowered.artifact.program.model_dump_json()
    (draft / DESCRIPTION).write_text(description, encoding="utf-8")
    torch.save(lowered.reference, draft / REFERENCE)


def _same(folder: Path, floats: list[Outputs]) -> bool:
    """Did the float model compute the same then?"""
    agreement = OutputsAgreement(len(floats[0]))
    for now, then in zip(floats, _load_outputs(folder / FLOATS), strict=True):
        if len(now) != len(then):
            return False
        agreement.add(to_arrays(now), to_arrays(then))
    return agreement.worst_relative_diff <= SAME_TOLERANCE


def _read(folder: Path, floats: list[Outputs]) -> Lowered:
    (model,) = folder.glob("model.*")
    program = Program.model_validate_json((folder / DESCRIPTION).read_bytes())
    artifact = Artifact(model.read_bytes(), model.name, program)
    return Lowered(artifact, _load_outputs(folder / REFERENCE), floats)


def _load_outputs(path: Path) -> list[Outputs]:
    return list(torch.load(path, weights_only=True))


def _digest(outputs: list[Outputs]) -> str:
    return content_key(to_bytes(tensor) for tensors in outputs for tensor in tensors)[:8]
