"""Costs and gains of each compression step, measured on the artifact that would ship after it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import nn

from edgekit.compress.batches import in_batches
from edgekit.compress.divergence import compare_outputs
from edgekit.compress.pruning.channel_choice import macs_of
from edgekit.compress.pruning.channel_groups import parameters_of
from edgekit.compress.pruning.sparsity import zeros_of
from edgekit.compress.quantization.simulate import Outputs
from edgekit.device.local import LocalTransport
from edgekit.documents.verdict import CompressionStep, RefusedLayer
from edgekit.errors import ExportError, RuntimeFailure
from edgekit.fidelity.comparison import Comparison
from edgekit.measure.paired_latency import MeasuringDevice, Timed
from edgekit.pipeline.model.batched import Batched
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.predict import run_eager, to_bytes
from edgekit.pipeline.model.subject import Subject, some_inputs
from edgekit.pipeline.precision.lower import lower
from edgekit.pipeline.shrink.input_size import has_same_outputs
from edgekit.plan import Plan
from edgekit.program import Artifact
from edgekit.recipe.tensors import Inputs

# Zeros are worth it if they reduce the compressed file below this share.
WORTH_PACKING = 0.98
# The number of calibration inputs for comparing a step with the original (subject.some_inputs).
COMPARED, BATCH = (64, 256, 100e9), 32
SPEEDING = {"prune": "pruning", "low_rank": "low rank"}
JUDGED = {
    "resize": "resized",
    "drop_blocks": "shallower",
    "prune": "pruned",
    "low_rank": "factorized",
    "sparsify": "sparse",
    "recover": "trained",
}


@dataclass
class Ledger:
    """Compares models with the original. ``small``: the subject at their input size. ``precision``:
    a plan with the precision of the compared artifacts only; fp32 if int8 cannot be built.
    ``requested_precision``: the requested precision.
    """

    subject: Subject
    small: Subject
    context: BuildContext
    precision: Plan
    requested_precision: str = field(init=False)
    _originals: dict[str, Timed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.requested_precision = self.precision.precision

    @cached_property
    def _compared(self) -> tuple[list[Inputs], list[Outputs]]:
        """Inputs, and the original's outputs for them."""
        original = run_eager(self.subject.model)
        data = some_inputs(self.subject, self.subject.judged, *COMPARED) or [self.subject.example]
        inputs = in_batches(original, data, BATCH)
        return inputs, [original(one) for one in inputs]

    def step(
        self,
        name: str,
        model: nn.Module,
        refused: tuple[RefusedLayer, ...] = (),
        **details: Any,
    ) -> CompressionStep:
        """The report of a step: ``model`` compared with the recipe's own. ``details``: further
        fields.
        """
        subject, progress = self.subject, self.context.progress
        with progress.stage(f"evaluating the {JUDGED.get(name, name)} model"):
            accuracy = self.small.evaluate(Batched(model))
            comparison = self._comparison(model)
        before, after = self._pair(model)
        device = measuring_device(self.context)
        latency = device.compare_latency(after, before, progress)
        if name in SPEEDING and latency.ratio is not None and latency.ratio[2] >= 1:
            middle, low, high = latency.ratio
            progress.note(
                f"{SPEEDING[name]} does not measurably reduce latency: {middle:.2f}x the original "
                f"(95 % CI {low:.2f}-{high:.2f})"
            )
        return CompressionStep(
            name=name,
            accuracy=accuracy,
            agreement=comparison.agreement if comparison and subject.calibration else None,
            sqnr_db=comparison.sqnr_db if comparison else None,
            macs=macs_of(model, self.small.example),
            macs_before=macs_of(subject.model, subject.example),
            parameters=parameters_of(model),
            parameters_before=parameters_of(subject.model),
            zeros=zeros_of(model),
            precision=self.precision.precision,
            model_mb=len(after.artifact.data) / 1e6,
            model_before_mb=len(before.artifact.data) / 1e6,
            compressed_mb=packed_mb(after.artifact),
            compressed_before_mb=packed_mb(before.artifact),
            latency_ratio=latency.ratio,
            peak_memory_mb=latency.first_memory_mb,
            peak_memory_before_mb=latency.second_memory_mb,
            device=device.transport.name,
            refused=refused,
            **details,
        )

    def _comparison(self, model: nn.Module) -> Comparison | None:
        """The outputs compared; None if those at another input size have other shapes."""
        if not has_same_outputs(self.subject, self.small):
            return None
        inputs, floats = self._compared
        resizing = self.small.resizing
        smaller = [resizing(one) for one in inputs] if resizing else inputs
        outputs = [run_eager(model)(one) for one in smaller]
        return compare_outputs(self.subject.fidelity, outputs, floats)

    def _pair(self, model: nn.Module) -> tuple[Timed, Timed]:
        """The artifacts of the original and of ``model``, in the same precision."""
        try:
            before = self._originals.get(self.precision.precision)
            before = before or self._lower(self.subject)
            self._originals[self.precision.precision] = before
            return before, self._lower(replace(self.small, model=model))
        except ExportError:
            raise  # fp32 fails in the same way
        except RuntimeFailure:
            if not self.precision.is_quantized:
                raise
            self.precision = self.precision.replaced(precision="fp32")
            return self._pair(model)

    def _lower(self, subject: Subject) -> Timed:
        artifact = lower(subject, self.context.of(subject), self.precision).artifact
        return Timed(artifact, [to_bytes(tensor) for tensor in subject.example])


def measuring_device(context: BuildContext) -> MeasuringDevice:
    """The named device, else this host."""
    return context.device or MeasuringDevice(
        context.runtime.name, LocalTransport(), context.host_files, threads=1
    )


def packed_mb(artifact: Artifact) -> float:
    """The size of the model's file compressed by gzip, in MB."""
    return len(zlib.compress(artifact.data, 6)) / 1e6
