"""The importance of channels by trial: measure how far the outputs move without some channels.

In each trial a group loses some channels, and the remaining ones compensate. The order within a
group comes from another importance; the trials decide how many channels each group loses. Groups
differ by far more than layer-wise importance suggests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from edgekit.compress.batches import batch_rows, in_batches
from edgekit.compress.divergence import compare_outputs, profile_outputs
from edgekit.compress.moments import can_read, moments, with_damping
from edgekit.compress.pruning.channel_groups import Group, inputs_of, outputs_of
from edgekit.compress.pruning.importance import Importance, by_block, least_first
from edgekit.compress.quantization.simulate import Outputs
from edgekit.fidelity.comparison import NO_HINTS, Fidelity, OutputHints
from edgekit.recipe.tensors import Inputs

BATCH = 32
# So many widths of each group are tried; the loss between them is interpolated linearly.
LEVELS = 8
TRIFLE = 1e-9
MOST = 100.0


def by_trial(
    order: Callable[[nn.Module, Sequence[Group]], Importance],
    data: Sequence[Inputs],
    step: int,
    advance: Callable[[int, int], None],
    hints: OutputHints = NO_HINTS,
) -> Callable[[nn.Module, Sequence[Group]], Importance]:
    """An importance whose sum over the least channels of a group is the outputs' loss without them.

    ``hints``: what the recipe declares about the outputs; the rest is inferred from their values.
    """

    def importance(model: nn.Module, groups: Sequence[Group]) -> Importance:
        scores = order(model, groups)
        trials = WidthTrials(model, groups, data, hints)
        shares = {}
        for done, group in enumerate(groups, 1):
            ordered = channels_in_order(scores, group)
            counts = removal_counts(group, step)
            losses = [trials.loss(group, ordered[:count]) for count in counts]
            shares[group.layer] = marginal_losses(group, ordered, counts, losses)
            advance(done, len(groups))
        return shares

    return importance


def channels_in_order(scores: Importance, group: Group) -> list[int]:
    """The group's channels, those of least importance first."""
    return least_first(by_block(scores[group.layer], group.unit))


def removal_counts(group: Group, step: int) -> list[int]:
    """Numbers of channels to remove, so that each remaining width is a multiple of the group's
    step, which is about ``step``.
    """
    width, step = group.count, group.step(step)
    widths = {step * round(width * level / LEVELS / step) for level in range(1, LEVELS)}
    return sorted(width - remaining for remaining in widths if 0 < remaining < width)


def marginal_losses(
    group: Group, ordered: Sequence[int], counts: Sequence[int], measured: Sequence[float]
) -> torch.Tensor:
    """The loss of each channel in turn, never less than the one before: the slopes of the lower
    convex hull of the measurements. Equal losses differ by a trifle, which preserves the order of
    the trials.

    ``ordered``: the channels as they are removed. ``measured``: the loss without the first
    ``counts`` of them.
    """
    losses = [(0, 0.0), *zip(counts, measured, strict=True)]
    scores = torch.zeros(group.count, dtype=torch.double)
    at, lost = losses[0]
    rest, slope = losses[1:], 0.0
    while rest:
        slopes = [(now - lost) / (count - at) for count, now in rest]
        best = min(range(len(rest)), key=lambda index: slopes[index])
        slope = max(slope, slopes[best])
        scores[ordered[at : rest[best][0]]] = slope
        (at, lost), rest = rest[best], rest[best + 1 :]
    scores[ordered[at:]] = slope
    scores[ordered] += torch.linspace(0, TRIFLE, group.count, dtype=torch.double) * max(slope, 1.0)
    return scores


class OutputLoss:
    """How far the outputs of other versions of a model move from its own on ``data``."""

    def __init__(self, model: nn.Module, data: Sequence[Inputs], hints: OutputHints) -> None:
        run = partial(outputs_of, model)
        self.data = in_batches(run, data, BATCH)
        self.floats = [run(inputs) for inputs in self.data]
        self.fidelity = profile_outputs(self.floats, batch_rows(run, self.data), hints=hints)

    def of(self, model: nn.Module) -> float:
        """See ``loss_of_outputs``."""
        outputs = [outputs_of(model, inputs) for inputs in self.data]
        return loss_of_outputs(self.fidelity, outputs, self.floats)


def loss_of_outputs(
    fidelity: Fidelity, outputs: Sequence[Outputs], floats: Sequence[Outputs]
) -> float:
    """0 for equal outputs. The divergence itself is bounded: without the exponential, destroying
    the model would look cheap.
    """
    return math.expm1(min(MOST, compare_outputs(fidelity, outputs, floats).divergence))


def fitted_and_judged(data: Sequence[Inputs]) -> tuple[Sequence[Inputs], Sequence[Inputs]]:
    """Two halves of the data: what was fitted on some inputs is judged on others."""
    return (data[::2], data[1::2]) if len(data) > 1 else (data, data)


class WidthTrials:
    """Narrows one group at a time, and gives back the weights. Some of ``data`` are fitted, the
    others judge.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        data: Sequence[Inputs],
        hints: OutputHints,
    ) -> None:
        self.model = model
        fitted, judged = fitted_and_judged(data)
        self.outputs = OutputLoss(model, judged, hints)
        names = {place.layer for group in groups for place in group.readers}
        readable = [name for name in sorted(names) if can_read(model.get_submodule(name))]
        self.moments = moments(
            model, readable, in_batches(partial(outputs_of, model), fitted, BATCH)
        )

    def loss(self, group: Group, removed: Sequence[int]) -> float:
        """How far the outputs move without these channels of the group."""
        weights = {place.layer: self._weight(place.layer) for place in group.readers}
        with _restored(weights):
            for place in group.readers:
                layer, dead = self.model.get_submodule(place.layer), place.of(removed)
                moment = self.moments.get(place.layer)
                if moment is None:
                    inputs_of(layer).index_fill_(0, torch.tensor(dead), 0)
                else:
                    _silence(weights[place.layer], _columns(dead, weights[place.layer]), moment)
            return self.outputs.of(self.model)

    def _weight(self, name: str) -> torch.Tensor:
        weight = self.model.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        return weight.detach()


def _columns(channels: Sequence[int], weight: torch.Tensor) -> torch.Tensor:
    """The columns of a flattened weight that read these channels."""
    kernel = weight[0, 0].numel()
    columns = [c * kernel + index for c in channels for index in range(kernel)]
    return torch.tensor(columns, dtype=torch.long)


def _silence(weight: torch.Tensor, dead: torch.Tensor, moment: torch.Tensor) -> None:
    """Set the ``dead`` columns to zero, in place, and let the others compensate."""
    flat = weight.flatten(1)
    alive = torch.ones(flat.shape[1], dtype=torch.bool)
    alive[dead] = False
    coefficients = torch.linalg.solve(with_damping(moment[alive][:, alive]), moment[alive][:, dead])
    flat[:, alive] += (flat[:, dead].double() @ coefficients.T).float()
    flat[:, dead] = 0
    weight.copy_(flat.reshape(weight.shape))


@contextmanager
def _restored(weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    copies = {name: weight.clone() for name, weight in weights.items()}
    try:
        yield
    finally:
        for name, weight in weights.items():
            weight.copy_(copies[name])
