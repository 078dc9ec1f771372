"""A smaller model in the stage cache: its weights, and what was done to it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from edgekit.compress.copying import copy_of
from edgekit.compress.pruning.channels import without_channels
from edgekit.documents.verdict import CompressionStep
from edgekit.frozen import Frozen
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.shrink.step_report import Ledger, arena_of
from edgekit.plan import Prune, Sparsity, Training

KIND, WEIGHTS, FOUND = "smaller", "weights.safetensors", "found.json"


def measured_here(kept: tuple[nn.Module, KeptModel], ledger: Ledger) -> tuple[nn.Module, KeptModel]:
    """What was measured elsewhere, or in another precision, says nothing here: the last step is
    measured anew, the models between are gone.
    """
    model, found = kept
    here = (arena_of(ledger.tools).transport.name, ledger.asked)
    if (found.device, found.precision) == here or not found.steps:
        return kept
    unknown = {"latency_ratio": None, "peak_memory_mb": None, "peak_memory_before_mb": None}
    steps = [step.replaced(**unknown) for step in found.steps]
    last = found.steps[-1]
    told = {"training": last.training, "widths": last.widths}
    steps[-1] = ledger.step(last.name, model, last.refused, **told)
    return model, found.replaced(steps=tuple(steps))


class KeptModel(Frozen):
    """What was done, as it is kept beside the weights. ``gone``: the channels, round by round;
    ``interrupted``: a training was ended before its end.
    """

    gone: list[dict[str, list[int]]]
    prune: Prune | None
    sparsity: Sparsity | None
    recover: Training | None
    steps: tuple[CompressionStep, ...]
    device: str
    precision: str
    interrupted: bool


def read_model(subject: Subject, folder: Path) -> tuple[nn.Module, KeptModel]:
    found = KeptModel.model_validate_json((folder / FOUND).read_bytes())
    model = copy_of(subject.model)
    for gone in found.gone:
        model = without_channels(model, subject.example, dict(gone))
    _load(model, load_file(folder / WEIGHTS))
    return model, found


def write_model(model: nn.Module, found: KeptModel, draft: Path) -> None:
    save_file(_state(model), draft / WEIGHTS)
    (draft / FOUND).write_text(json.dumps(found.model_dump(mode="json")))


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors}


def _load(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    own = dict((*model.named_parameters(), *model.named_buffers()))
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
