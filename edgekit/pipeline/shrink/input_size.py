"""The model at a smaller input size: images resized outside the graph, batch norms re-estimated."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from edgekit.compress.batches import in_batches
from edgekit.compress.copying import copy_of
from edgekit.compress.divergence import compare_outputs
from edgekit.compress.norms import estimate_norms, has_norms
from edgekit.errors import SettingError
from edgekit.pipeline.model.predict import run_eager, structure_of
from edgekit.pipeline.model.subject import Subject
from edgekit.plan import Resize
from edgekit.recipe.image_size import Size, resizing_to, size_text
from edgekit.recipe.tensors import Inputs
from edgekit.recipe.user_code import user_line
from edgekit.runtimes.cause import summary

# Statistics of fewer inputs are worse than those of training.
FEWEST, BATCH = 32, 32


def resized(subject: Subject, size: Size) -> Subject:
    """The subject with smaller images. The model's weights are the same.

    Raises SettingError: there is no image, or the model cannot run at this size.
    """
    if subject.states:
        raise SettingError("the input size of a model with state cannot change")
    resizing = resizing_to(size, subject.example)
    example = resizing(subject.example)
    outputs = _outputs_at(subject, example, size)
    calibration = tuple(resizing(inputs) for inputs in subject.calibration)
    same = [a.shape for a in outputs] == [b.shape for b in subject.example_outputs]
    of_float = subject.outputs_of_float
    return replace(
        subject,
        example=example,
        example_outputs=outputs,
        calibration=calibration,
        outputs_of_float=of_float if same else of_float.on(example, calibration),
        resizing=resizing,
    )


def has_same_outputs(subject: Subject, small: Subject) -> bool:
    """Whether the outputs at both sizes have the same shapes, so that they can be compared."""
    pairs = zip(subject.example_outputs, small.example_outputs, strict=True)
    return all(a.shape == b.shape for a, b in pairs)


def _outputs_at(subject: Subject, example: Inputs, size: Size) -> list[torch.Tensor]:
    try:
        with torch.no_grad():
            return structure_of(subject.model(*example))[0]
    except Exception as error:
        line = user_line(error)
        raise SettingError(
            f"the model of {subject.recipe.path} cannot run at {size_text(size)}: {summary(error)}"
            + (f" ({line})" if line else ""),
            "a model for several sizes has no fixed positions, and pools (AdaptiveAvgPool2d) "
            "before it flattens",
        ) from None


def with_norms(subject: Subject, small: Subject, wanted: Resize) -> tuple[nn.Module, Resize]:
    """A copy of the model with the batch norms of ``wanted``, and the choice made.

    Unless the plan decides, statistics of the smaller images are used if they bring the outputs for
    inputs kept apart nearer to those at the recipe's size.
    """
    model, data = copy_of(small.model), small.fitted_before_training
    if wanted.estimate_norms is False or not has_norms(model) or len(data) < FEWEST:
        return model, wanted.replaced(estimate_norms=False)
    estimated = copy_of(model)
    estimate_norms(estimated, in_batches(run_eager(model), data, BATCH))
    if wanted.estimate_norms or _is_nearer(subject, small, estimated, model):
        return estimated, wanted.replaced(estimate_norms=True)
    return model, wanted.replaced(estimate_norms=False)


def _is_nearer(subject: Subject, small: Subject, estimated: nn.Module, model: nn.Module) -> bool:
    if not has_same_outputs(subject, small):
        return False
    floats = [run_eager(subject.model)(inputs) for inputs in subject.judged]
    losses = [
        compare_outputs(
            subject.fidelity, [run_eager(net)(inputs) for inputs in small.judged], floats
        ).divergence
        for net in (estimated, model)
    ]
    return losses[0] < losses[1]
