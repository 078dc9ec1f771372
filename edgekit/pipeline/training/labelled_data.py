"""The recipe's training data by epoch, without the held-out examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from edgekit.compress.batches import rows_of
from edgekit.compress.training.held_out import hold_out
from edgekit.compress.training.loop import Batch
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.subject import Subject

Batches = Callable[[int], Iterator[Batch]]


def by_training(
    subject: Subject, context: BuildContext, loss: Callable[[Batch], torch.Tensor]
) -> tuple[Batches, Callable[[], float] | None]:
    """The recipe's training() by epoch, and the mean ``loss`` of its held-out examples, if any."""
    rows = rows_of(subject.example)
    with context.progress.stage("holding out training data"):
        held_out = hold_out(subject.training(0), rows)
    if not held_out.batches:
        context.progress.note("no training data to hold out: the last step's weights are used")

    def batches(epoch: int) -> Iterator[Batch]:
        return held_out.without(subject.training(epoch), rows)

    return batches, partial(held_out.mean, loss, rows) if held_out.batches else None
