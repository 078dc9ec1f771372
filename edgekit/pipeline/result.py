"""The result of a build before packaging, from the ladder or from a finished file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekit.documents.measure import Parity
from edgekit.documents.verdict import Accuracy, Blame, CompressionStep, Judge, Rung
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.precision.ladder import LadderResult
from edgekit.pipeline.state.explicit import State
from edgekit.plan import Plan
from edgekit.program import Artifact, TensorSpec
from edgekit.recipe.image_size import Resizing
from edgekit.recipe.tensors import Inputs


@dataclass(frozen=True)
class BuildResult:
    """``source``: the argument RECIPE. ``why_no_drop``: the reason if ``accuracy_drop`` is None."""

    source: Path
    source_sha256: str
    plan: Plan
    artifact: Artifact
    example: Inputs
    ladder: tuple[Rung, ...]
    why_no_drop: str
    accuracy: Accuracy = field(default_factory=Accuracy)
    fp32_judged_by: Judge = "torch"
    parity: Parity | None = None
    accuracy_drop: float | None = None
    inferences: int = 0
    blame: tuple[Blame, ...] = ()
    compression: tuple[CompressionStep, ...] = ()
    states: tuple[State, ...] = ()


def build_result(
    subject: Subject, ladder: LadderResult, compression: tuple[CompressionStep, ...] = ()
) -> BuildResult:
    candidate = ladder.candidate
    return BuildResult(
        source=subject.recipe.path,
        source_sha256=subject.recipe.digest,
        plan=candidate.plan,
        artifact=_named(candidate.artifact, subject),
        example=subject.example,
        ladder=ladder.ladder,
        blame=ladder.blame,
        compression=compression,
        why_no_drop=f"{subject.recipe.path.name} has no evaluate()",
        accuracy=candidate.accuracy,
        fp32_judged_by=subject.fp32_judged_by,
        parity=candidate.parity,
        accuracy_drop=candidate.accuracy_drop,
        inferences=candidate.inferences,
        states=subject.states,
    )


def unjudged(subject: Subject, artifact: Artifact, plan: Plan) -> BuildResult:
    """An artifact of the subject's model to package for its costs only."""
    return BuildResult(
        source=subject.recipe.path,
        source_sha256=subject.recipe.digest,
        plan=plan,
        artifact=_named(artifact, subject),
        example=subject.example,
        ladder=(),
        why_no_drop="not evaluated",
    )


def _named(artifact: Artifact, subject: Subject) -> Artifact:
    """The artifact with the recipe's names for the program's inputs and outputs."""
    program = artifact.program
    names = {
        "inputs": _resized(_renamed(program.inputs, subject.input_names), subject.resizing),
        "outputs": _renamed(program.outputs, subject.structure.names),
    }
    return replace(artifact, program=program.replaced(**names))


def _resized(specs: tuple[TensorSpec, ...], resizing: Resizing | None) -> tuple[TensorSpec, ...]:
    if resizing is None:
        return specs
    return tuple(
        spec.replaced(resized_from=resizing.original) if index in resizing.images else spec
        for index, spec in enumerate(specs)
    )


def _renamed(specs: tuple[TensorSpec, ...], names: tuple[str, ...]) -> tuple[TensorSpec, ...]:
    return tuple(spec.replaced(name=name) for spec, name in zip(specs, names, strict=True))
