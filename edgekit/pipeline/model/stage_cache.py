"""Stages of a build that are kept by the content of all that went into them, model and data.

A stage that is found is not done again; an interrupted build goes on after its last one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch

from edgekit.cache import content_key, load_stage, store_stage
from edgekit.fidelity.agreement import OutputsAgreement
from edgekit.pipeline.model.context import Tools
from edgekit.pipeline.model.predict import Outputs, to_arrays, to_bytes

FLOATS = "floats.pt"
# Between two runs of one float model: threads add in another order.
SAME_TOLERANCE = 1e-5


Kept = TypeVar("Kept")


def found_stage(
    kind: str, key: str | None, floats: list[Outputs], read: Callable[[Path], Kept]
) -> Kept | None:
    """What is kept of this very model. Whatever goes wrong with it, it is built anew."""
    for name in _names(key, floats):
        folder = load_stage(kind, name)
        with suppress(Exception):  # cleared meanwhile by another process, or not readable
            if folder is not None and _same(folder, floats):
                return read(folder)
    return None


def keep_stage(
    tools: Tools,
    kind: str,
    key: str | None,
    floats: list[Outputs],
    fill: Callable[[Path], None],
) -> None:
    """Under the first name that is free: one that is taken is of a model that only looks equal."""

    def fill_with_floats(draft: Path) -> None:
        torch.save(floats, draft / FLOATS)
        fill(draft)

    name = next((name for name in _names(key, floats) if load_stage(kind, name) is None), None)
    if name is not None and not store_stage(kind, name, fill_with_floats):
        tools.progress.note("this stage cannot be kept: the next build does it again")


def _names(key: str | None, floats: list[Outputs]) -> list[str]:
    """Where a stage may lie: by the key, and beside it by what the float model computes.

    The key has all that can be known of a model without running it. What its forward reads
    elsewhere (the environment, a file, an object that cannot be looked into) shows only in its
    outputs. No key, no names.
    """
    return [] if key is None else [key, f"{key}-{_digest(floats)}"]


def _same(folder: Path, floats: list[Outputs]) -> bool:
    """Did the float model compute the same then?"""
    agreement = OutputsAgreement(len(floats[0]))
    for now, then in zip(floats, load_outputs(folder / FLOATS), strict=True):
        if len(now) != len(then):
            return False
        agreement.add(to_arrays(now), to_arrays(then))
    return agreement.worst_relative_diff <= SAME_TOLERANCE


def load_outputs(path: Path) -> list[Outputs]:
    return list(torch.load(path, weights_only=True))


def _digest(outputs: list[Outputs]) -> str:
    return content_key(to_bytes(tensor) for tensors in outputs for tensor in tensors)[:8]
