"""A finished .pte or .tflite instead of a recipe: packaged and measured as it is.

Its correct outputs are unknown, so there is neither parity nor accuracy. The golden outputs are
computed on this host, and a device's outputs are compared with them.
"""

from __future__ import annotations

from pathlib import Path

import torch

from edgekit.build_options import BuildOptions
from edgekit.cache import file_digest
from edgekit.documents.verdict import Rung
from edgekit.errors import RecipeError, RunnerError, RuntimeFailure
from edgekit.pipeline.model.predict import to_bytes
from edgekit.pipeline.result import BuildResult
from edgekit.plan import Plan
from edgekit.program import Program, TensorSpec
from edgekit.progress import Progress
from edgekit.recipe.tensors import Inputs
from edgekit.runner.client import RunnerTensor, Serving
from edgekit.runner.files import RunnerFiles
from edgekit.runner.staging import staged, staged_file
from edgekit.runtimes.base import Runtime, Selected

UNCHANGED = "packaged as it is"
NO_REFERENCE = "a finished file has neither a float model nor evaluate()"
# Limit of one inference on this host: a damaged program may never end.
TIMEOUT_S = 120.0
HINT = "check that the file is complete and was lowered for the CPU by this version of the runtime"


def read_finished(
    path: Path, runtime: Runtime, host: RunnerFiles, options: BuildOptions, progress: Progress
) -> BuildResult:
    """Read a finished file and run it once on this host.

    The runner reads it first: it verifies the file, in a separate process. Raises RecipeError: the
    file does not exist, is damaged, needs something that this runtime lacks, or has no such
    signature.
    """
    if not path.is_file():
        raise RecipeError(f"there is no finished program {path}")
    selected = _selected(path, runtime, options.signature)
    data, done = selected.data, selected.note or UNCHANGED
    if selected.note is not None:
        progress.note(f"{path.name}: {selected.note}")
    try:
        reported = _tensors_by_runner(data, host)
        artifact = runtime.read(data)
        _check_tensors(artifact.program, reported)
        example = make_inputs(artifact.program, options.seed)
        with staged(artifact, host) as here, Serving(here, timeout_s=TIMEOUT_S) as serving:
            serving.infer([to_bytes(tensor) for tensor in example])
    except RunnerError as error:
        raise RecipeError(f"{path} does not run on this host: {error.message}", HINT) from error
    except RuntimeFailure as error:
        raise RecipeError(f"{path} cannot be read: {error.message}", error.hint or HINT) from error
    reason = f"lowered elsewhere, {done}; its golden inputs are random"
    return BuildResult(
        source=path.resolve(),
        source_sha256=file_digest(path),
        plan=Plan(precision="as_is", seed=options.seed),
        artifact=artifact,
        example=example,
        ladder=(Rung(precision="as_is", taken=True, reason=reason),),
        why_no_drop=NO_REFERENCE,
    )


def _selected(path: Path, runtime: Runtime, signature: str | None) -> Selected:
    try:
        return runtime.select(path.read_bytes(), signature)
    except RuntimeFailure as error:
        raise RecipeError(f"{path}: {error.message}", error.hint) from error


def make_inputs(program: Program, seed: int) -> Inputs:
    """Random numbers from 0 to 1, or all steps of a quantized input; zeros for other integers,
    because every embedding has a row 0.
    """
    random = torch.Generator().manual_seed(seed)
    return tuple(_input(spec, random) for spec in program.inputs)


def _input(spec: TensorSpec, random: torch.Generator) -> torch.Tensor:
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if dtype in (torch.uint8, torch.int8):  # pixels, or steps of a quantized input
        limits = torch.iinfo(dtype)
        return torch.randint(limits.min, limits.max + 1, spec.shape, generator=random, dtype=dtype)
    if not dtype.is_floating_point:
        return torch.zeros(spec.shape, dtype=dtype)
    return torch.rand(spec.shape, generator=random).to(dtype)


def _tensors_by_runner(
    data: bytes, host: RunnerFiles
) -> tuple[tuple[RunnerTensor, ...], tuple[RunnerTensor, ...]]:
    """The inputs and outputs that the runner reports, with all libraries available to it."""
    libraries = tuple(host.libraries)
    with (
        staged_file(data, "model.pte", libraries, host) as here,
        Serving(here, timeout_s=TIMEOUT_S) as serving,
    ):
        return serving.report.inputs, serving.report.outputs


def _check_tensors(
    program: Program, reported: tuple[tuple[RunnerTensor, ...], tuple[RunnerTensor, ...]]
) -> None:
    for specs, tensors in zip((program.inputs, program.outputs), reported, strict=True):
        read = [(spec.dtype, spec.shape) for spec in specs]
        if read != [(tensor.dtype, tensor.shape) for tensor in tensors]:
            raise RuntimeFailure("its description and its content belong to different programs")
