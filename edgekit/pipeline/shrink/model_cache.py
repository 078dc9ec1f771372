"""A pruned model in the stage cache: its weights, and a record of its compression."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from edgekit.compress.depth.blocks import without_blocks
from edgekit.compress.low_rank.choice import with_factors
from edgekit.compress.pruning.channel_groups import without_channels
from edgekit.documents.verdict import CompressionStep
from edgekit.frozen import Frozen
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.shrink.step_report import Ledger, measuring_device
from edgekit.plan import DropBlocks, LowRank, Prune, Resize, Sparsity, Training

# What a step reports beside its measurements.
DETAILS = ("training", "widths", "input_size", "dropped", "factors")
KIND, WEIGHTS, FOUND = "smaller", "weights.safetensors", "found.json"


def measured_here(
    cached: tuple[nn.Module, CompressionRecord], ledger: Ledger
) -> tuple[nn.Module, CompressionRecord]:
    """The cached model with measurements of this device and precision.

    If the cached ones are of others, the last step is measured again. Those of earlier steps become
    unknown, because their models are not stored.
    """
    model, record = cached
    current = (measuring_device(ledger.context).transport.name, ledger.requested_precision)
    if (record.device, record.precision) == current or not record.steps:
        return cached
    unknown = {"latency_ratio": None, "peak_memory_mb": None, "peak_memory_before_mb": None}
    steps = [step.replaced(**unknown) for step in record.steps]
    last = record.steps[-1]
    details = {name: getattr(last, name) for name in DETAILS}
    steps[-1] = ledger.step(last.name, model, last.refused, **details)
    return model, record.replaced(steps=tuple(steps))


class CompressionRecord(Frozen):
    """The record beside the cached weights. ``gone``: the removed channels of each round.
    ``interrupted``: the user ended a training early.
    """

    gone: list[dict[str, list[int]]]
    resize: Resize | None = None
    drop_blocks: DropBlocks | None = None
    prune: Prune | None
    low_rank: LowRank | None = None
    sparsity: Sparsity | None
    recover: Training | None
    steps: tuple[CompressionStep, ...]
    device: str
    precision: str
    interrupted: bool


def read_model(subject: Subject, folder: Path) -> tuple[nn.Module, CompressionRecord]:
    record = CompressionRecord.model_validate_json((folder / FOUND).read_bytes())
    dropped = record.drop_blocks.blocks if record.drop_blocks is not None else None
    model = without_blocks(subject.model, subject.example, dropped or ())
    for removed in record.gone:
        model = without_channels(model, subject.example, dict(removed))
    if record.low_rank is not None and record.low_rank.factors is not None:
        model = with_factors(model, record.low_rank.factors, {})
    _load(model, load_file(folder / WEIGHTS))
    return model, record


def write_model(model: nn.Module, record: CompressionRecord, draft: Path) -> None:
    save_file(_state(model), draft / WEIGHTS)
    (draft / FOUND).write_text(json.dumps(record.model_dump(mode="json")))


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors}


def _load(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    targets = dict((*model.named_parameters(), *model.named_buffers()))
    with torch.no_grad():
        for name, tensor in tensors.items():
            targets[name].copy_(tensor)
