"""The golden test case: whether a device computes the same as the host. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.bundle.manifest import Manifest
from edgekit.documents.measure import Parity
from edgekit.errors import ParityError
from edgekit.fidelity.agreement import (
    DEVICE_STEPS,
    OTHER_KERNELS_STEPS,
    OutputsAgreement,
    device_passes,
    group_steps,
    half_passes,
    last_steps,
)
from edgekit.fidelity.groups import Array, Floats
from edgekit.program import TensorSpec
from edgekit.runner.client import Installed, Serving
from edgekit.runner.tensors import decode, expand, take_every

DEFAULT_RUNS = 60
DEFAULT_WARMUP = 5
STEPS_RULE, FLOAT_RULE = "within 2 steps of the output's scale", "max|a-b| / max|b| <= 1e-4"
HALF_RULE = "SQNR >= 25 dB for each output"
# The golden outputs are those of another runner, whose kernels round differently.
OTHER_KERNELS_RULE = f"within {OTHER_KERNELS_STEPS} steps of the output's scale"


@dataclass(frozen=True)
class Load:
    """The load of a benchmark. ``timeout_s``: for each process of the runner."""

    threads: int
    runs: int = DEFAULT_RUNS
    warmup: int = DEFAULT_WARMUP
    timeout_s: float | None = None


def golden_inputs(folder: Path, manifest: Manifest) -> list[bytes]:
    return [
        expand((folder / path).read_bytes(), spec.byte_count)
        for path, spec in zip(manifest.golden.inputs, manifest.program.inputs, strict=True)
    ]


def initial_state(folder: Path, manifest: Manifest) -> list[bytes]:
    """The states at the start of a sequence; empty for a model without state."""
    return [(folder / one.initial).read_bytes() for one in manifest.state]


def require_golden(
    folder: Path, manifest: Manifest, installed: Installed, inputs: list[bytes], load: Load
) -> Parity:
    """Run the golden inputs on the device. Raises ParityError unless the outputs agree."""
    with Serving(installed, load.threads, load.timeout_s) as serving:
        results = serving.infer(inputs)
    specs, golden = manifest.program.outputs, manifest.golden
    strides = golden.output_strides
    actual = [
        decode(take_every(data, spec.dtype, stride), spec.dtype)
        for data, spec, stride in zip(results, specs, strides, strict=True)
    ]
    expected = [
        decode((folder / path).read_bytes(), spec.dtype)
        for path, spec in zip(golden.outputs, specs, strict=True)
    ]
    agreement = OutputsAgreement(len(specs))
    agreement.add(actual, expected)
    half = manifest.plan.precision == "fp16"
    finished = manifest.plan.precision == "as_is"
    int8 = manifest.plan.is_quantized or (finished and manifest.program.quantized_operators)
    more = OTHER_KERNELS_STEPS / DEVICE_STEPS if manifest.needs.pythons else 1
    steps = [
        more * _step(spec, values, stride) if int8 else None
        for spec, values, stride in zip(specs, expected, strides, strict=True)
    ]
    passed, rule = device_passes(actual, expected, steps), STEPS_RULE if int8 else FLOAT_RULE
    if half:
        passed, rule = half_passes(agreement), HALF_RULE
    elif int8 and more > 1:
        rule = OTHER_KERNELS_RULE
    parity = Parity(
        **agreement.worst().model_dump(),
        passed=passed,
        reference="the bundle's golden outputs",
        rule=rule,
        compared=1,
    )
    if not parity.passed:
        raise ParityError(
            f"the device's outputs differ from {parity.reference} by up to "
            f"{parity.max_abs_diff:.3g}; required: {parity.rule}",
            "nothing was measured, because the latency of wrong results is meaningless",
        )
    return parity


def _step(spec: TensorSpec, golden: Array, stride: int) -> Floats | float:
    """One int8 step of an output, or of each of its elements.

    ``golden`` has every ``stride``-th element of the output. With a stride above 1 the groups of
    the elements are unknown.
    """
    if spec.quantization is not None and spec.dtype == spec.quantization.dtype:
        return 1.0  # the values are the stored integers
    if spec.quantization is not None:
        return max(spec.quantization.scale, spec.moved.whole if spec.moved is not None else 0.0)
    if spec.moved is not None:
        return last_steps(golden, spec.shape, stride, spec.moved)
    return group_steps(golden, spec.shape if stride == 1 else golden.shape)
