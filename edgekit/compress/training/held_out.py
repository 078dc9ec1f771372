"""Held-out training data: they judge the trained weights and are never trained on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from edgekit.compress.training.loop import Batch
from edgekit.errors import TrainingError

# One in SHARE of the different examples is held out.
SHARE = 10
MOST_EXAMPLES = 10_000
BATCH = 64


@dataclass(frozen=True)
class HeldOut:
    """``batches`` of held-out examples, and the digests of their inputs, which identify them in
    later epochs. Empty if there are too few examples, or a batch cannot be split into examples.
    """

    batches: tuple[Batch, ...]
    digests: frozenset[bytes]

    def without(self, batches: Iterable[Batch], rows: int) -> Iterator[Batch]:
        """The batches without the held-out examples; a batch without others is dropped."""
        for batch in batches:
            if not self.digests or not _is_by_example(batch, rows):
                yield batch
                continue
            rest = [
                i for i, digest in enumerate(_digests(batch, rows)) if digest not in self.digests
            ]
            if len(rest) == _count(batch, rows):
                yield batch
            elif rest:
                yield _select(batch, rest, rows)

    def mean(self, loss: Callable[[Batch], torch.Tensor], rows: int) -> float:
        """The mean loss of an example. Batches whose loss is not finite (all labels are ignored) do
        not count.

        Raises TrainingError: no batch has a finite loss.
        """
        total = count = 0.0
        with torch.no_grad():
            for batch in self.batches:
                value = float(loss(batch))
                if math.isfinite(value):
                    total += value * _count(batch, rows)
                    count += _count(batch, rows)
        if not count:
            raise TrainingError("the loss of the held-out training data is not finite")
        return total / count


def hold_out(epoch: Iterable[Batch], rows: int) -> HeldOut:
    """A tenth of the different examples among the first MOST_EXAMPLES of an epoch. An example is
    ``rows`` rows of the inputs' first dimension. The choice depends on the inputs only.
    """
    held: dict[bytes, Batch] = {}
    others: set[bytes] = set()
    least: tuple[bytes, Batch] | None = None
    count = 0
    for batch in epoch:
        if not _is_by_example(batch, rows):
            return HeldOut((), frozenset())
        for index, digest in enumerate(_digests(batch, rows)):
            if _is_held(digest):
                held.setdefault(digest, _select(batch, [index], rows))
            else:
                others.add(digest)
                if least is None or digest < least[0]:
                    least = digest, _select(batch, [index], rows)
        count += _count(batch, rows)
        if count >= MOST_EXAMPLES:
            break
    if not held and least is not None and len(others) > 1:  # hold out at least one
        held = dict([least])
    elif not others:
        held = {}
    return HeldOut(tuple(_joined(list(held.values()))), frozenset(held))


def _is_held(digest: bytes) -> bool:
    return int.from_bytes(digest[:8], "little") < 2**64 // SHARE


def _joined(examples: Sequence[Batch]) -> Iterator[Batch]:
    """Batches of BATCH examples."""
    for start in range(0, len(examples), BATCH):
        part = examples[start : start + BATCH]
        inputs = tuple(torch.cat(tensors) for tensors in zip(*(i for i, _ in part), strict=True))
        yield inputs, pytree.tree_map(lambda *leaves: torch.cat(leaves), *(t for _, t in part))


def digest_of(epoch: Iterable[Batch]) -> bytes:
    """A digest of the inputs and targets of the first MOST_EXAMPLES."""
    digest, count = hashlib.blake2b(), 0
    for inputs, target in epoch:
        for leaf in (*inputs, *pytree.tree_leaves(target)):
            digest.update(_bytes(leaf) if torch.is_tensor(leaf) else repr(leaf).encode())
        count += max(1, len(inputs[0]) if inputs[0].dim() else 1)
        if count >= MOST_EXAMPLES:
            break
    return digest.digest()


def _count(batch: Batch, rows: int) -> int:
    return max(1, len(batch[0][0]) // max(1, rows)) if batch[0][0].dim() else 1


def _is_by_example(batch: Batch, rows: int) -> bool:
    """Whether inputs and target can be split into examples of one row, or of ``rows``."""
    count = _count(batch, rows)
    leaves = pytree.tree_leaves(batch[1])
    return (
        all(t.dim() > 0 and len(t) % count == 0 for t in batch[0])
        and bool(leaves)
        and all(torch.is_tensor(t) and t.dim() and len(t) in (count, count * rows) for t in leaves)
    )


def _select(batch: Batch, examples: list[int], rows: int) -> Batch:
    count = _count(batch, rows)

    def choose(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.reshape(count, -1, *tensor.shape[1:])[examples].flatten(0, 1)

    inputs, target = batch
    selected: Any = pytree.tree_map(choose, target)
    return tuple(choose(tensor) for tensor in inputs), selected


def _digests(batch: Batch, rows: int) -> list[bytes]:
    count = _count(batch, rows)
    parts = [tensor.reshape(count, -1) for tensor in batch[0]]
    return [
        hashlib.blake2b(b"".join(_bytes(part[i]) for part in parts)).digest() for i in range(count)
    ]


def _bytes(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
