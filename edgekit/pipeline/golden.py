"""The golden case: does a device compute what the host did? Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.bundle.manifest import Manifest
from edgekit.documents import Parity
from edgekit.errors import ParityError
from edgekit.measurement.agreement import OutputsAgreement, device_passes
from edgekit.program import TensorSpec
from edgekit.runner.client import Installed, Serving
from edgekit.runner.tensors import decode, every, expand

DEFAULT_RUNS = 60
DEFAULT_WARMUP = 5


@dataclass(frozen=True)
class Load:
    """How a bench loads a device. ``timeout_s`` is for each process of the runner."""

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
    """What a sequence starts from; empty of a model without state."""
    return [(folder / one.initial).read_bytes() for one in manifest.state]


def require_golden(
    folder: Path, manifest: Manifest, installed: Installed, inputs: list[bytes], load: Load
) -> Parity:
    """Run the golden inputs on the device. Raises ParityError unless the outputs agree."""
    with Serving(installed, load.threads, load.timeout_s) as serving:
        results = serving.infer(inputs)
    specs, golden = manifest.program.outputs, manifest.golden
    agreement = OutputsAgreement(len(specs))
    expected = [(folder / path).read_bytes() for path in golden.outputs]
    agreement.add(
        [
            decode(every(data, spec.dtype, stride), spec.dtype)
            for data, spec, stride in zip(results, specs, golden.output_strides, strict=True)
        ],
        [decode(data, spec.dtype) for data, spec in zip(expected, specs, strict=True)],
    )
    finished = manifest.plan.precision == "as_is"
    int8 = manifest.plan.is_quantized or (finished and manifest.program.quantized_operators)
    steps = [
        _step(spec, data) if int8 else None for spec, data in zip(specs, expected, strict=True)
    ]
    parity = Parity(
        **agreement.worst().model_dump(),
        passed=device_passes(agreement, steps),
        reference="the bundle's golden outputs",
        rule="within 2 steps of the output's scale" if int8 else "max|a-b| / max|b| <= 1e-4",
        compared=1,
    )
    if not parity.passed:
        raise ParityError(
            f"the device computes something else than the host did: the outputs differ from "
            f"{parity.reference} by up to {parity.max_abs_diff:.3g}; required is {parity.rule}",
            "no measurement was taken: a wrong result's latency is worth nothing",
        )
    return parity


def _step(spec: TensorSpec, expected: bytes) -> float:
    """One int8 step of an output; where its last operator is float, a 255th of its range."""
    if spec.quantization is not None:
        return spec.quantization.scale
    values = decode(expected, spec.dtype).astype("float64")
    return float(values.max() - values.min()) / 255 if values.size else 0.0
