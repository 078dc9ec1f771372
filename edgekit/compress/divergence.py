"""The divergence of a quantized or smaller model from the float model: searches minimize it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from edgekit.compress.quantization.simulate import Outputs
from edgekit.fidelity.comparison import (
    NO_HINTS,
    Comparison,
    Fidelity,
    OutputHints,
    OutputKind,
    looks_like_classes,
    profile,
)
from edgekit.fidelity.groups import Array


def compare_outputs(
    fidelity: Fidelity, actual: Sequence[Outputs], floats: Sequence[Outputs]
) -> Comparison:
    """Compare flat outputs, one list for each input or batch."""
    return fidelity.compare([arrays(a) for a in actual], [arrays(b) for b in floats])


def profile_outputs(
    floats: Sequence[Outputs],
    rows: int | None = 1,
    names: Sequence[str] | None = None,
    hints: OutputHints = NO_HINTS,
) -> Fidelity:
    """A profile of each output of the float model. ``floats``: its outputs for several inputs of
    ``rows`` rows each; None if the first axis is not a batch (``batch_rows``).

    An output without a declared kind is classes if its values look like scores, else values.
    """
    columns = list(zip(*[arrays(outputs) for outputs in floats], strict=True))
    names = names or [f"output_{index}" for index in range(len(columns))]
    profiles = []
    for index, (name, column) in enumerate(zip(names, columns, strict=True)):
        apparent: OutputKind = "classes" if looks_like_classes(column) else "values"
        declared = hints.kinds[index] if hints.kinds is not None else None
        batched = column[0].ndim > 0 and len(column[0]) == rows
        kind = declared or apparent
        profiles.append(profile(name, kind, declared is None, batched, column, hints.class_axis))
    return Fidelity(tuple(profiles))


def arrays(outputs: Outputs) -> list[Array]:
    return [to_array(tensor) for tensor in outputs]


def to_array(tensor: torch.Tensor) -> Array:
    """A numpy array; bfloat16, which numpy lacks, becomes float32."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return np.asarray(tensor.detach().cpu().contiguous().numpy())
