"""How far a quantized or a smaller model is from the float one: what choices are made by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from edgekit.compress.quantization.simulate import Outputs
from edgekit.fidelity.comparison import (
    NOTHING_TOLD,
    Comparison,
    Fidelity,
    OutputKind,
    Told,
    looks_like_classes,
    profile,
)
from edgekit.fidelity.groups import Array


def compared(
    fidelity: Fidelity, actual: Sequence[Outputs], floats: Sequence[Outputs]
) -> Comparison:
    """Flat outputs of each input, or of each batch."""
    return fidelity.compare([arrays(a) for a in actual], [arrays(b) for b in floats])


def fidelity_of(
    floats: Sequence[Outputs],
    rows: int | None = 1,
    names: Sequence[str] | None = None,
    told: Told = NOTHING_TOLD,
) -> Fidelity:
    """What the float model's outputs are. ``floats``: of several inputs of ``rows`` rows each, None
    where the first axis is no batch (batch_rows).

    Without a kind an output counts as classes where that is evident, else as values.
    """
    columns = list(zip(*[arrays(outputs) for outputs in floats], strict=True))
    names = names or [f"output_{index}" for index in range(len(columns))]
    profiles = []
    for index, (name, column) in enumerate(zip(names, columns, strict=True)):
        evident: OutputKind = "classes" if looks_like_classes(column) else "values"
        known = told.kinds[index] if told.kinds is not None else None
        batched = column[0].ndim > 0 and len(column[0]) == rows
        kind = known or evident
        profiles.append(profile(name, kind, known is None, batched, column, told.class_axis))
    return Fidelity(tuple(profiles))


def arrays(outputs: Outputs) -> list[Array]:
    return [to_array(tensor) for tensor in outputs]


def to_array(tensor: torch.Tensor) -> Array:
    """As numpy has it; bfloat16, which it has not, as float32."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return np.asarray(tensor.detach().cpu().contiguous().numpy())
