"""A cache of build stages, found by the content of all their inputs: model and data.

A cached stage is not computed again; an interrupted build resumes after its last one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch

from edgekit.cache import content_key, load_stage, store_stage
from edgekit.fidelity.agreement import OutputsAgreement
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.predict import Outputs, to_arrays, to_bytes

FLOATS = "floats.pt"
# Between two runs of one float model, because threads add in another order.
SAME_TOLERANCE = 1e-5


Stored = TypeVar("Stored")


def load_cached_stage(
    kind: str, key: str | None, floats: list[Outputs], read: Callable[[Path], Stored]
) -> Stored | None:
    """The cached stage of this model; None if there is none, or it cannot be read."""
    for name in _names(key, floats):
        folder = load_stage(kind, name)
        with suppress(Exception):  # cleared by another process, or unreadable
            if folder is not None and _same(folder, floats):
                return read(folder)
    return None


def cache_stage(
    context: BuildContext,
    kind: str,
    key: str | None,
    floats: list[Outputs],
    fill: Callable[[Path], None],
) -> None:
    """Store a stage under the first free name: if ``key`` holds a model with other outputs, use
    ``key-<output digest>``.
    """

    def fill_with_floats(draft: Path) -> None:
        torch.save(floats, draft / FLOATS)
        fill(draft)

    name = next((name for name in _names(key, floats) if load_stage(kind, name) is None), None)
    if name is not None and not store_stage(kind, name, fill_with_floats):
        context.progress.note("this stage cannot be cached: the next build computes it again")


def _names(key: str | None, floats: list[Outputs]) -> list[str]:
    """The possible names of a stage: the key, and the key with a digest of the float outputs.

    The key covers everything that can be known of a model without running it. Other things that its
    forward reads (the environment, a file, an opaque object) show only in its outputs. Without a
    key there are no names.
    """
    return [] if key is None else [key, f"{key}-{_digest(floats)}"]


def _same(folder: Path, floats: list[Outputs]) -> bool:
    """Whether the float model's outputs equal the stored ones."""
    agreement = OutputsAgreement(len(floats[0]))
    for current, stored in zip(floats, load_outputs(folder / FLOATS), strict=True):
        if len(current) != len(stored):
            return False
        agreement.add(to_arrays(current), to_arrays(stored))
    return agreement.worst_relative_diff <= SAME_TOLERANCE


def load_outputs(path: Path) -> list[Outputs]:
    return list(torch.load(path, weights_only=True))


def _digest(outputs: list[Outputs]) -> str:
    return content_key(to_bytes(tensor) for tensors in outputs for tensor in tensors)[:8]
