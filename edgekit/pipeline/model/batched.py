"""A PyTorch model run on many inputs, in batches if these give the same outputs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch

from edgekit.compress.batches import concatenate, rows_of, same_when_joined
from edgekit.compress.copying import copy_of
from edgekit.pipeline.model.predict import Outputs, Run, run_eager
from edgekit.pipeline.normal_form.operator_mode import OperatorMode
from edgekit.recipe.tensors import Inputs

MAX_ROWS = 64
# Limit of the largest tensor inside the model. A larger batch leaves the processor's caches, and
# every operator allocates its memory from the system again: MobileNetV2 is slower in batches of 8.
MAX_BYTES = 16_000_000


class Batched:
    """A ``Run`` that also takes many inputs at once.

    The first inputs that differ are a trial: a batch must give the same outputs. Batches run on a
    copy of the model, so that a failed trial changes nothing. In the copy images are channels-last
    if possible, which is faster. A model that changes its buffers is never batched.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model, self._run = model, run_eager(model)
        self._size: int | None = None
        self._batch: Run | None = None

    def __call__(self, inputs: Inputs) -> Outputs:
        return self._run(inputs)

    def many(self, parts: Sequence[Inputs]) -> list[Outputs]:
        """Outputs for each of the inputs, all of the same shapes."""
        if self._size is None and len(parts) > 1 and not _all_equal(parts):
            return self._try_batch(parts)
        size = self._size or 1
        chunks = [parts[start : start + size] for start in range(0, len(parts), size)]
        return [outputs for chunk in chunks for outputs in self._at_once(chunk)]

    def _try_batch(self, parts: Sequence[Inputs]) -> list[Outputs]:
        """Run the first inputs one by one and as a batch, and compare the outputs."""
        before = _versions(self._model)
        first, largest = self._with_largest(parts[0])
        rows = min(MAX_ROWS, MAX_BYTES // max(1, largest)) // max(1, rows_of(parts[0]))
        size = max(1, rows)
        alone = [first, *(self._run(inputs) for inputs in parts[1:size])]
        stateless = before == _versions(self._model)
        if size > 1 and stateless:
            self._batch = self._same_in_batches(parts[:size], alone)
        self._size = size if self._batch else 1
        return [*alone, *self.many(parts[len(alone) :])]

    def _with_largest(self, inputs: Inputs) -> tuple[Outputs, int]:
        with _Largest() as largest:
            return self._run(inputs), largest.byte_count

    def _same_in_batches(self, parts: Sequence[Inputs], alone: list[Outputs]) -> Run | None:
        for last in (True, False):
            with suppress(Exception):
                run = _run_copy(self._model, channels_last=last)
                if same_when_joined(alone, run(concatenate(parts))):
                    return run
        return None

    def _at_once(self, parts: Sequence[Inputs]) -> list[Outputs]:
        if len(parts) == 1 or self._batch is None:
            return [self._run(inputs) for inputs in parts]
        rows = [tensor.chunk(len(parts)) for tensor in self._batch(concatenate(parts))]
        return [list(outputs) for outputs in zip(*rows, strict=True)]


def _run_copy(model: torch.nn.Module, channels_last: bool) -> Run:
    copied = copy_of(model)
    if not channels_last:
        return run_eager(copied)
    layout = torch.channels_last
    run = run_eager(copied.to(memory_format=layout))  # type: ignore[call-overload]

    def laid_out(inputs: Inputs) -> Outputs:
        images = [t.contiguous(memory_format=layout) if t.dim() == 4 else t for t in inputs]
        return [tensor.contiguous() for tensor in run(tuple(images))]

    return laid_out


class _Largest(OperatorMode):
    """Records the bytes of the largest tensor that an operator returns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.byte_count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, torch.Tensor):
                self.byte_count = max(self.byte_count, value.numel() * value.element_size())
        return result


def _all_equal(parts: Sequence[Inputs]) -> bool:
    """Whether the inputs are equal. Then even normalisation over the batch changes nothing."""
    return all(
        torch.equal(tensor, like)
        for inputs in parts[1:MAX_ROWS]
        for tensor, like in zip(inputs, parts[0], strict=True)
    )


def _versions(model: torch.nn.Module) -> list[tuple[int, int]]:
    return [(id(tensor), tensor._version) for tensor in model.buffers()]
