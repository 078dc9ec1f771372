"""The slow stages of a build, each cached under a digest of all its inputs.

program   the exported graph of the quantized model, after calibration
artifact  the runtime's file, and the outputs of its reference in torch for the parity inputs
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from edgekit.compress.last_steps import moved_by_flips, moved_by_steps
from edgekit.compress.reference import fast_reference
from edgekit.errors import RuntimeFailure
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.predict import CountedRun, Outputs, Run, run_eager
from edgekit.pipeline.model.stage_cache import cache_stage, load_cached_stage
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.precision.quantize import quantized
from edgekit.plan import Plan
from edgekit.program import Artifact, Program
from edgekit.runtimes.base import Half
from edgekit.runtimes.export import export
from edgekit.runtimes.quiet import quiet

# What an artifact is compared with.
EAGER, QUANTIZED = "the eager model in torch", "the quantized model in torch"
OWN_KERNELS = "the same file by the runtime's own kernels"
PROGRAM_FILE, DESCRIPTION = "program.pt2", "program.json"
REFERENCE = "reference.pt"
# Inputs that calibrate an artifact of which only the costs are wanted.
FEW = 4


@dataclass(frozen=True)
class LoweredModel:
    """A lowered plan. ``floats``: the float model's outputs in torch for each parity input.
    ``quantized``: those of the quantized model, or of the model in half precision, in torch; or of
    the artifact by the runtime's own kernels (Runtime.reference). None for fp32, or if there are
    none.
    """

    artifact: Artifact
    quantized: list[Outputs] | None
    floats: list[Outputs]
    by_own_kernels: bool = False

    @property
    def reference_name(self) -> str:
        if self.quantized is None:
            return EAGER
        return OWN_KERNELS if self.by_own_kernels else QUANTIZED

    @property
    def reference(self) -> list[Outputs]:
        """The outputs that the artifact must agree with."""
        return self.floats if self.quantized is None else self.quantized


def lower(subject: Subject, context: BuildContext, plan: Plan) -> LoweredModel:
    """Lower a plan, or load the result from the cache. Raises ExportError, RuntimeFailure."""
    floats = outputs_of(run_eager(subject.model), subject, context, "running the float model")
    key = context.fingerprint.key(context.runtime, plan.of_this_model)
    own = context.runtime.pt2e is None
    cached = load_cached_stage("artifact", key, floats, lambda folder: _read(folder, floats, own))
    if cached is not None:
        context.progress.note(f"the {plan.precision} artifact is loaded from the cache")
        return cached
    lowered = _lower(subject, context, plan, _program(subject, context, plan, key, floats), floats)
    cache_stage(context, "artifact", key, floats, lambda draft: _write(draft, lowered))
    return lowered


def lower_for_costs(subject: Subject, context: BuildContext, plan: Plan) -> Artifact:
    """A plan's artifact as far as its latency and sizes depend on it: few inputs calibrate it, and
    no reference is computed. Raises ExportError, RuntimeFailure.
    """
    few = replace(subject, calibration=tuple(subject.fitted[:FEW]))
    program = _program(few, context, plan, None, [])
    if isinstance(program, Artifact):
        return program
    with context.progress.stage(f"lowering {plan.precision}"):
        return context.runtime.lower(program)


def _lower(
    subject: Subject,
    context: BuildContext,
    plan: Plan,
    program: torch.export.ExportedProgram | Artifact,
    floats: list[Outputs],
) -> LoweredModel:
    if isinstance(program, Artifact):
        own = context.runtime.reference(program)
        if own is None:
            return LoweredModel(program, None, floats)
        title = f"running {plan.precision} by the runtime's own kernels"
        outputs = outputs_of(own, subject, context, title)
        return LoweredModel(program, outputs, floats, by_own_kernels=True)
    with context.progress.stage(f"lowering {plan.precision}"):
        artifact = context.runtime.lower(program)
        if plan.precision == "fp32":
            return LoweredModel(artifact, None, floats)
        if plan.is_quantized:
            artifact = _with_last_steps(artifact, program, subject)
    with quiet():
        run = run_eager(fast_reference(program))
    title = f"running {plan.precision} in torch"
    return LoweredModel(artifact, outputs_of(run, subject, context, title), floats)


def _with_last_steps(
    artifact: Artifact, exported: torch.export.ExportedProgram, subject: Subject
) -> Artifact:
    """Add how far devices may differ in the outputs that end in float operators, or come after
    some.
    """
    program = artifact.program
    mixes = program.float_operators + program.outside_operators > 0
    with quiet():
        last = moved_by_steps(exported, subject.example)
        inner = [
            steps is None and spec.quantization is not None
            for spec, steps in zip(program.outputs, last, strict=True)
        ]
        flips = moved_by_flips(exported, subject.example) if mixes and any(inner) else last
    outputs = tuple(
        spec.replaced(moved=flip if is_inner else steps)
        for spec, steps, flip, is_inner in zip(program.outputs, last, flips, inner, strict=True)
    )
    return replace(artifact, program=program.replaced(outputs=outputs))


def outputs_of(run: Run, subject: Subject, context: BuildContext, title: str) -> list[Outputs]:
    """The outputs of ``run`` for each parity input."""
    inputs = subject.parity_inputs
    with context.progress.stage(title) as stage:
        return list(map(CountedRun(run, stage, len(inputs)), inputs))


def _program(
    subject: Subject, context: BuildContext, plan: Plan, key: str | None, floats: list[Outputs]
) -> torch.export.ExportedProgram | Artifact:
    """The graph to lower, or the artifact of a runtime that quantizes after conversion.

    A quantized graph is cached, because calibration may be slow.
    """
    if plan.precision == "fp32":
        with quiet(), context.progress.stage("exporting"):
            return export(subject.model, subject.example)
    if plan.precision == "fp16":
        return _half_program(subject, context, plan)
    cached = load_cached_stage("program", key, floats, _load_program)
    if cached is not None:
        context.progress.note("the quantized model is loaded from the cache")
        return cached
    program = quantized(subject, context, plan)
    if isinstance(program, Artifact):
        return program
    if plan.float_as == "fp16":
        program = _half(context).with_half_floats(program, subject.float_model)

    def write(draft: Path) -> None:
        with quiet():
            torch.export.save(program, draft / PROGRAM_FILE)

    cache_stage(context, "program", key, floats, write)
    return program


def _half_program(
    subject: Subject, context: BuildContext, plan: Plan
) -> torch.export.ExportedProgram:
    half = _half(context)
    with context.progress.stage("converting to half precision"):
        return half.program(subject.float_model, plan)


def _half(context: BuildContext) -> Half:
    half = context.runtime.half
    if half is None:
        raise RuntimeFailure(
            f"{context.runtime.name} does not compute in half precision",
            'build with --precision fp32 or int8, or remove "float_as" from the plan',
        )
    return half


def _load_program(folder: Path) -> torch.export.ExportedProgram:
    with quiet():
        # the import registers the quantized operators in the file
        import torchao.quantization.pt2e  # noqa: F401

        return torch.export.load(folder / PROGRAM_FILE)


def _write(draft: Path, lowered: LoweredModel) -> None:
    (draft / lowered.artifact.file_name).write_bytes(lowered.artifact.data)
    description = lowered.artifact.program.model_dump_json()
    (draft / DESCRIPTION).write_text(description, encoding="utf-8")
    torch.save(lowered.quantized, draft / REFERENCE)


def _read(folder: Path, floats: list[Outputs], by_own_kernels: bool) -> LoweredModel:
    (model,) = folder.glob("model.*")
    program = Program.model_validate_json((folder / DESCRIPTION).read_bytes())
    artifact = Artifact(model.read_bytes(), model.name, program)
    reference = torch.load(folder / REFERENCE, weights_only=True)
    return LoweredModel(artifact, reference, floats, by_own_kernels)
