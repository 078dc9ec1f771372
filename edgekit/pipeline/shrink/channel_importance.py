"""The plan's importance of channels, with the data that it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import nn

from edgekit.compress.pruning.channel_groups import Group
from edgekit.compress.pruning.importance import (
    Importance,
    by_batch_norm,
    by_fisher,
    by_size,
    by_taylor,
)
from edgekit.compress.pruning.trials import by_trial
from edgekit.pipeline.model.subject import Subject, some_inputs
from edgekit.plan import Prune

# The number of inputs that determine importance: fewest, most, and the multiply-accumulates that
# limit it between the two.
WEIGHED = (64, 256, 20e9)

WEIGHED_BATCHES, BATCH = 16, 16


def importance_of(
    subject: Subject, wanted: Prune, seed: int, advance: Callable[[int, int], None]
) -> Callable[[nn.Module, Sequence[Group]], Importance]:
    kind = wanted.importance
    if kind in ("l1", "l2"):
        return by_size(int(kind[1]))
    if kind == "batch_norm":
        return by_batch_norm
    if kind == "taylor":
        return by_taylor(partial(_losses, subject))
    inputs = some_inputs(subject, subject.fitted, *WEIGHED)
    if kind == "fisher":
        return by_fisher(inputs, seed, subject.fidelity.by_classes)
    return by_trial(by_size(1), inputs, wanted.step, advance, subject.fidelity.hints)


def _losses(subject: Subject, model: nn.Module) -> Iterator[Callable[[], torch.Tensor]]:
    batches = subject.training(0)
    for _, (inputs, target) in zip(range(WEIGHED_BATCHES), batches, strict=False):
        yield lambda i=inputs, t=target: subject.recipe.loss(model(*i), t)  # type: ignore[misc]
