"""The recipe's training data by epoch, and what of them is held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from edgekit.compress.batches import rows_of
from edgekit.compress.training.held_out import hold_out
from edgekit.compress.training.loop import Batch
from edgekit.pipeline.model.context import Tools
from edgekit.pipeline.model.subject import Subject

Batches = Callable[[int], Iterator[Batch]]


def by_training(
    subject: Subject, tools: Tools, loss: Callable[[Batch], torch.Tensor]
) -> tuple[Batches, Callable[[], float] | None]:
    """The recipe's training() by epoch, and the mean of ``loss`` on what is kept apart of it."""
    rows = rows_of(subject.example)
    with tools.progress.stage("keeping training data apart"):
        apart = hold_out(subject.training(0), rows)
    if not apart.batches:
        tools.progress.note("no training data could be kept apart: the last step is taken")

    def batches(epoch: int) -> Iterator[Batch]:
        return apart.without(subject.training(epoch), rows)

    return batches, partial(apart.mean, loss, rows) if apart.batches else None
