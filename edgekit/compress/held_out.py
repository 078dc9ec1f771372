"""Training data kept apart: what trained weights are judged by, and never trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from edgekit.compress.train import Batch

EVERY = 10
MAX_EXAMPLES = 1000


@dataclass(frozen=True)
class HeldOut:
    """``batches`` of examples kept apart, and the digests that they are known by wherever they
    come again: a shuffled epoch has them in other places. Empty where targets cannot be told
    apart by example.
    """

    batches: tuple[Batch, ...]
    digests: frozenset[bytes]

    def without(self, batches: Iterable[Batch], rows: int) -> Iterator[Batch]:
        """The batches without these examples; one that has no others is left out."""
        for batch in batches:
            kept = [i for i, d in enumerate(_digests(batch, rows)) if d not in self.digests]
            count = _count(batch, rows)
            if len(kept) == count or not self.digests:
                yield batch
            elif kept:
                yield _chosen(batch, kept, rows)

    def mean(self, loss: Callable[[Batch], torch.Tensor], rows: int) -> float:
        """The mean loss of an example."""
        total = count = 0.0
        with torch.no_grad():
            for batch in self.batches:
                size = _count(batch, rows)
                total += float(loss(batch)) * size
                count += size
        return total / count


def hold_out(epoch: Iterable[Batch], rows: int) -> HeldOut:
    """Every tenth example of an epoch, as many as MAX_EXAMPLES. An example is ``rows`` of the
    inputs' first dimension.
    """
    batches: list[Batch] = []
    digests: set[bytes] = set()
    seen = 0
    for batch in epoch:
        count = _count(batch, rows)
        if not _is_by_example(batch, count):
            return HeldOut((), frozenset())
        chosen = [i for i in range(count) if (seen + i) % EVERY == 0]
        seen += count
        if chosen:
            found = _digests(batch, rows)
            digests |= {found[i] for i in chosen}
            batches.append(_chosen(batch, chosen, rows))
        if len(digests) >= MAX_EXAMPLES:
            break
    # what is all that there is cannot be kept apart
    return HeldOut(tuple(batches), frozenset(digests)) if seen > 1 else HeldOut((), frozenset())


def _count(batch: Batch, rows: int) -> int:
    return max(1, len(batch[0][0]) // max(1, rows))


def _is_by_example(batch: Batch, count: int) -> bool:
    return all(
        torch.is_tensor(leaf) and leaf.dim() > 0 and len(leaf) % count == 0 and len(leaf) > 0
        for leaf in pytree.tree_leaves(batch[1])
    )


def _chosen(batch: Batch, examples: list[int], rows: int) -> Batch:
    count = _count(batch, rows)

    def choose(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.reshape(count, -1, *tensor.shape[1:])[examples].flatten(0, 1)

    inputs, target = batch
    chosen: Any = pytree.tree_map(choose, target)
    return tuple(choose(tensor) for tensor in inputs), chosen


def _digests(batch: Batch, rows: int) -> list[bytes]:
    count = _count(batch, rows)
    parts = [tensor.reshape(count, -1).contiguous().view(torch.uint8) for tensor in batch[0]]
    return [
        hashlib.blake2b(b"".join(part[i].numpy().tobytes() for part in parts)).digest()
        for i in range(count)
    ]
