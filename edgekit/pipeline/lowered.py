"""The stages of a build that take long, each kept by the content of all that went into it.

    program   the float model's or the quantized one's exported graph (int8: after calibration)
    artifact  the runtime's file, and what its reference in torch makes of the parity inputs

A stage that is found is not done again; an interrupted build goes on after its last one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from edgekit.cache import content_key, load_stage, store_stage
from edgekit.measurement.agreement import OutputsAgreement
from edgekit.pipeline.fingerprint import Fingerprint
from edgekit.pipeline.predict import Outputs, run_eager, to_arrays, to_bytes
from edgekit.pipeline.subject import Subject
from edgekit.plan import Plan
from edgekit.program import Program
from edgekit.progress import Progress
from edgekit.runtimes.base import Artifact, RunnerFiles, Runtime
from edgekit.runtimes.export import export
from edgekit.runtimes.quiet import quiet

PROGRAM_FILE, DESCRIPTION, OUTPUTS = "program.pt2", "program.json", "outputs.pt"
# Between two runs of one float model: threads add in another order.
SAME_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Tools:
    """What every rung is built with: the runtime, and its runner for this host."""

    runtime: Runtime
    host_files: RunnerFiles
    seed: int
    progress: Progress
    fingerprint: Fingerprint


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
    found = load_stage("artifact", key)
    if found is not None and not _same(found, floats):
        # a model that computes something else, though all that we know of it is equal
        key = f"{key}-{_digest(floats)}"
        found = load_stage("artifact", key)
    if found is not None:
        tools.progress.note(f"{plan.precision} is unchanged: taken from the cache")
        return _read(found, floats)
    exported = _exported(subject, tools, plan, key)
    with tools.progress.stage(f"lowering {plan.precision}"):
        artifact = tools.runtime.lower(exported)
    reference = floats
    if plan.precision == "int8":
        quantized = run_eager(exported.module())
        reference = [quantized(inputs) for inputs in subject.parity_inputs]
    lowered = Lowered(artifact, reference, floats)
    _keep(tools, "artifact", key, lambda draft: _write(draft, lowered))
    return lowered


def _exported(subject: Subject, tools: Tools, plan: Plan, key: str) -> torch.export.ExportedProgram:
    """The graph to lower; a quantized one is kept, for calibration may take long."""
    if plan.precision == "fp32":
        with quiet(), tools.progress.stage("exporting"):
            return export(subject.model, subject.example)
    found = load_stage("program", key)
    if found is not None:
        with quiet():
            # importing it registers the quantized operators that the file names
            import torchao.quantization.pt2e  # noqa: F401

            tools.progress.note("quantized already: taken from the cache")
            return torch.export.load(found / PROGRAM_FILE)
    exported = tools.runtime.quantize(
        subject.model, subject.example, subject.calibration, plan, tools.progress
    )

    def write(draft: Path) -> None:
        with quiet():
            torch.export.save(exported, draft / PROGRAM_FILE)

    _keep(tools, "program", key, write)
    return exported


def _keep(tools: Tools, kind: str, key: str, fill: Callable[[Path], None]) -> None:
    if not store_stage(kind, key, fill):
        tools.progress.note("the cache cannot be written: the next build starts from the beginning")


def _write(draft: Path, lowered: Lowered) -> None:
    (draft / lowered.artifact.file_name).write_bytes(lowered.artifact.data)
    description = lowered.artifact.program.model_dump_json()
    (draft / DESCRIPTION).write_text(description, encoding="utf-8")
    torch.save({"reference": lowered.reference, "floats": lowered.floats}, draft / OUTPUTS)


def _same(folder: Path, floats: list[Outputs]) -> bool:
    """Did the float model compute the same then?

    The key has all that can be known of a model without running it. What its forward reads
    elsewhere (the environment, a file) shows only in its outputs.
    """
    agreement = OutputsAgreement(len(floats[0]))
    for now, then in zip(floats, _outputs(folder)["floats"], strict=True):
        if len(now) != len(then):
            return False
        agreement.add(to_arrays(now), to_arrays(then))
    return agreement.worst_relative_diff <= SAME_TOLERANCE


def _read(folder: Path, floats: list[Outputs]) -> Lowered:
    (model,) = folder.glob("model.*")
    program = Program.model_validate_json((folder / DESCRIPTION).read_bytes())
    artifact = Artifact(model.read_bytes(), model.name, program)
    return Lowered(artifact, _outputs(folder)["reference"], floats)


def _outputs(folder: Path) -> dict[str, list[Outputs]]:
    return dict(torch.load(folder / OUTPUTS, weights_only=True))


def _digest(outputs: list[Outputs]) -> str:
    return content_key(to_bytes(tensor) for tensors in outputs for tensor in tensors)[:8]
