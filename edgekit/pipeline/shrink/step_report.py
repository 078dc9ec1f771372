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
from edgekit.measure.paired_latency import MeasuringDevice
from edgekit.pipeline.model.batched import Batched
from edgekit.pipeline.model.cache_key import Fingerprint
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.predict import run_eager, to_bytes
from edgekit.pipeline.model.subject import Subject, some_inputs
from edgekit.pipeline.precision.lower import lower
from edgekit.plan import Plan
from edgekit.program import Artifact
from edgekit.recipe.tensors import Inputs

# Zeros are worth it if they reduce the compressed file below this share.
WORTH_PACKING = 0.98
# The number of calibration inputs for comparing a step with the original (subject.some_inputs).
COMPARED, BATCH = (64, 256, 100e9), 32
JUDGED = {"prune": "pruned", "sparsify": "sparse", "recover": "trained"}


@dataclass
class Ledger:
    """Compares models with the original. ``precision``: a plan with the precision of the compared
    artifacts only; fp32 if int8 cannot be built. ``requested_precision``: the requested precision.
    """

    subject: Subject
    context: BuildContext
    precision: Plan
    requested_precision: str = field(init=False)
    _originals: dict[str, Artifact] = field(default_factory=dict)

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
            accuracy = subject.evaluate(Batched(model))
            inputs, floats = self._compared
            outputs = [run_eager(model)(one) for one in inputs]
            comparison = compare_outputs(subject.fidelity, outputs, floats)
        before, after = self._pair(model)
        device = measuring_device(self.context)
        example = [to_bytes(tensor) for tensor in subject.example]
        latency = device.compare_latency(after, before, example, progress)
        if name == "prune" and latency.ratio is not None and latency.ratio[2] >= 1:
            middle, low, high = latency.ratio
            progress.note(
                f"pruning does not measurably reduce latency: {middle:.2f}x the original "
                f"(95 % CI {low:.2f}-{high:.2f})"
            )
        return CompressionStep(
            name=name,
            accuracy=accuracy,
            agreement=comparison.agreement if subject.calibration else None,
            sqnr_db=comparison.sqnr_db,
            macs=macs_of(model, subject.example),
            macs_before=macs_of(subject.model, subject.example),
            parameters=parameters_of(model),
            parameters_before=parameters_of(subject.model),
            zeros=zeros_of(model),
            precision=self.precision.precision,
            model_mb=len(after.data) / 1e6,
            model_before_mb=len(before.data) / 1e6,
            compressed_mb=packed_mb(after),
            compressed_before_mb=packed_mb(before),
            latency_ratio=latency.ratio,
            peak_memory_mb=latency.first_memory_mb,
            peak_memory_before_mb=latency.second_memory_mb,
            device=device.transport.name,
            refused=refused,
            **details,
        )

    def _pair(self, model: nn.Module) -> tuple[Artifact, Artifact]:
        """The artifacts of the original and of ``model``, in the same precision."""
        try:
            before = self._originals.get(self.precision.precision)
            before = before or self._lower(self.subject.model)
            self._originals[self.precision.precision] = before
            return before, self._lower(model)
        except ExportError:
            raise  # fp32 fails in the same way
        except RuntimeFailure:
            if not self.precision.is_quantized:
                raise
            self.precision = self.precision.replaced(precision="fp32")
            return self._pair(model)

    def _lower(self, model: nn.Module) -> Artifact:
        small = replace(self.subject, model=model)
        context = replace(self.context, fingerprint=Fingerprint(small))
        return lower(small, context, self.precision).artifact


def measuring_device(context: BuildContext) -> MeasuringDevice:
    """The named device, else this host."""
    return context.device or MeasuringDevice(
        context.runtime.name, LocalTransport(), context.host_files, threads=1
    )


def packed_mb(artifact: Artifact) -> float:
    """The size of the model's file compressed by gzip, in MB."""
    return len(zlib.compress(artifact.data, 6)) / 1e6
