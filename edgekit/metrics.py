"""Metrics for a recipe's ``evaluate``. Torch is imported late."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.errors import RecipeError
from edgekit.recipe.tensors import Inputs, describe

if TYPE_CHECKING:
    import torch


def top1(
    predict: Callable[..., Any],
    inputs: Iterable[Inputs | Mapping[str, Any] | torch.Tensor],
    labels: Sequence[int] | torch.Tensor | None,
) -> float:
    """Top-1 accuracy in points (0-100): how often the highest score is that of the label.

    ``predict`` returns scores of shape (N, classes). ``inputs`` yields batches of any N, as
    ``predict`` takes them: a tuple of tensors, a dict of keywords, or one tensor. ``labels`` has
    one class index per input. Only one batch is in memory at a time.

    Raises RecipeError for missing labels, unequal numbers of labels and inputs, a label that is
    not a class of the model, or outputs of another shape.
    """
    import torch

    if labels is None:
        raise RecipeError(
            "top1() needs labels, and there are none",
            "images() has labels if each class has its own sub-folder",
        )
    expected = torch.as_tensor(labels)
    seen = hits = 0
    for item in inputs:
        scores = _scores(_predict(predict, item))
        part = expected[seen : seen + len(scores)]
        if len(part) < len(scores):
            raise RecipeError(f"top1() got {len(expected)} labels, but more inputs than that")
        _check_labels(part, classes=scores.shape[1], first=seen)
        hits += int((scores.argmax(1) == part).sum())
        seen += len(scores)
    if seen < len(expected) or seen == 0:
        raise RecipeError(f"top1() got {len(expected)} labels, but {seen} inputs")
    return 100.0 * hits / seen


def _predict(predict: Callable[..., Any], item: Any) -> Any:
    if isinstance(item, Mapping):
        return predict(**item)
    return predict(*item) if isinstance(item, (tuple, list)) else predict(item)


def _scores(outputs: Any) -> torch.Tensor:
    import torch

    if not torch.is_tensor(outputs):
        raise RecipeError(
            f"top1() needs one tensor of scores from the model, not a {type(outputs).__name__}",
            'select the scores: top1(lambda x: predict(x)["scores"], ...)',
        )
    if outputs.dim() != 2:
        raise RecipeError(
            f"top1() needs scores of shape (N, classes) from the model, not {describe(outputs)}"
        )
    return outputs


def _check_labels(labels: torch.Tensor, classes: int, first: int) -> None:
    for index, label in enumerate(labels.tolist(), start=first):
        if label not in range(classes):
            raise RecipeError(
                f"top1(): label {index} is {label}, but the model has {classes} classes, "
                f"0 to {classes - 1}"
            )
