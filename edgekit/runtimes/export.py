"""torch.export, with errors that point at the user's line."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from edgekit.errors import ExportError
from edgekit.recipe import Inputs, user_line

if TYPE_CHECKING:
    import torch


def export(module: torch.nn.Module, example: Inputs) -> torch.export.ExportedProgram:
    """Export a copy of ``module`` with the example's static shapes. Raises ExportError."""
    import torch

    try:
        with torch.no_grad():
            return torch.export.export(_own_copy(module), example)
    except Exception as error:
        raise _explain(error) from error


def _own_copy(model: torch.nn.Module) -> torch.nn.Module:
    """A deep copy with contiguous parameters.

    A copy, because quantization edits what it is given; contiguous, because channels-last
    strides would be exported and the program would then refuse ordinary inputs.
    """
    import torch

    duplicate = copy.deepcopy(model)
    for tensor in (*duplicate.parameters(), *duplicate.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
        tensor.requires_grad_(False)
    return duplicate


def _explain(error: Exception) -> ExportError:
    place = user_line(error)
    at = f" at {place}" if place else ""
    text = str(error)
    if "data-dependent" in text:
        return ExportError(
            f"the model's control flow depends on the values of its data{at}",
            "a device runs one fixed graph: replace the branch by torch.where (or torch.cond), "
            "and .item() by tensor operations",
        )
    first = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    return ExportError(
        f"torch.export cannot export the model{at}: {type(error).__name__}: {first.strip()}",
        "edgekit build -v shows torch's whole message",
    )
