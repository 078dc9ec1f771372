"""What each choice loses alone, in one unit: how far the outputs move (pruning/trials.py).

Nothing is trained for that, but compensated by least squares. Calibration inputs that nothing is
fitted to judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgekit.compress.depth.blocks import find_blocks, is_kept, outermost
from edgekit.compress.pruning.channel_groups import Group, find_groups
from edgekit.compress.pruning.importance import Importance, by_block, by_size, least_first
from edgekit.compress.pruning.trials import channels_in_order, marginal_losses
from edgekit.documents.search import BoundConstraint
from edgekit.pipeline.fit.evaluator import Evaluator
from edgekit.pipeline.fit.laboratory import BlockTrial, SizeTrial, width_trials
from edgekit.pipeline.model.subject import Subject
from edgekit.progress import Progress
from edgekit.recipe.image_size import Size, size_text
from edgekit.search.constraints import Constraints

# Kernels compute 16 output channels as fast as 8, but narrow groups need finer steps.
KERNEL_STEP, FINE_STEP, NARROW = 16, 8, 48
LEVELS = 8


@dataclass(frozen=True)
class Losses:
    """``sizes``: None is the recipe's size. ``widths``: of each group, by its first layer, from the
    least. ``blocks``: of each block that can be dropped and is not inside another one. ``bound``:
    the constraints that took choices away.
    """

    groups: tuple[Group, ...]
    widths: Mapping[str, Mapping[int, float]]
    blocks: Mapping[str, float]
    sizes: Mapping[Size | None, float]
    bound: tuple[BoundConstraint, ...] = ()

    @property
    def can_remove(self) -> bool:
        narrower = any(len(options) > 1 for options in self.widths.values())
        return narrower or bool(self.blocks) or len(self.sizes) > 1


def measure_losses(
    subject: Subject, evaluator: Evaluator, progress: Progress, constraints: Constraints
) -> Losses:
    """Try every width, block and input size of the model alone, as far as constraints allow."""
    bound = ConstraintFilter(constraints)
    sizes = _sizes(subject, evaluator, progress, bound)
    groups, refused = find_groups(subject.model, subject.example)
    for one in refused:
        progress.note(f"not pruned: {one.layer or '(the model itself)'}: {one.why}")
    importance = _importance(subject, groups, evaluator)
    found, _ = find_blocks(subject.model, subject.example)
    outer = set(outermost(found))
    blocks = [name for name in found if name in outer and bound.may_drop(name)]
    trials = [BlockTrial(block=name) for name in blocks]
    lost = [one.loss or 0.0 for one in evaluator.losses("trying blocks", trials)]
    widths = {
        group.layer: bound.allowed(group, _width_losses(group, importance)) for group in groups
    }
    worth = dict(zip(blocks, lost, strict=True))
    return Losses(tuple(groups), widths, worth, sizes, bound.report)


def _importance(subject: Subject, groups: list[Group], evaluator: Evaluator) -> Importance:
    """The loss of each channel of each group, from trials of several widths."""
    trials = {group.layer: width_trials(group) for group in groups}
    everything = [trial for of_group in trials.values() for trial in of_group]
    found = dict(zip(everything, evaluator.losses("trying widths", everything), strict=True))
    order = by_size(1)(subject.model, groups)
    return {
        group.layer: marginal_losses(
            group,
            channels_in_order(order, group),
            [trial.removed for trial in trials[group.layer]],
            [found[trial].loss or 0.0 for trial in trials[group.layer]],
        )
        for group in groups
    }


def _width_losses(group: Group, importance: Importance) -> dict[int, float]:
    """Loss by width: the sum over the channels that go."""
    scores = by_block(importance[group.layer], group.unit)
    ordered = scores[least_first(scores)]
    step = group.step(KERNEL_STEP if group.count > NARROW else FINE_STEP)
    count = max(1, group.count // step)
    widths = {step * max(1, round(count * level / LEVELS)) for level in range(1, LEVELS)}
    options = sorted(width for width in widths if width < group.count)
    losses = {width: float(ordered[: group.count - width].sum()) for width in options}
    return losses | {group.count: 0.0}


def _sizes(
    subject: Subject, evaluator: Evaluator, progress: Progress, bound: ConstraintFilter
) -> dict[Size | None, float]:
    """The loss at each size that the recipe declares and the model can run at."""
    losses: dict[Size | None, float] = {None: 0.0}
    trials = [
        SizeTrial(size=size) for size in subject.recipe.input_sizes() if bound.may_resize(size)
    ]
    found = evaluator.losses("trying input sizes", trials)
    for trial, one in zip(trials, found, strict=True):
        if one.loss is None:
            progress.note(f"{size_text(trial.size)} pixels: {one.why_not}")
        else:
            losses[trial.size] = one.loss
    return losses


class ConstraintFilter:
    """Applies constraints, and records what they took away."""

    def __init__(self, constraints: Constraints) -> None:
        self.constraints = constraints
        self._held: dict[str, list[str]] = {}
        for layer in constraints.keep_float:
            self._hold("keep_float", layer)

    @property
    def report(self) -> tuple[BoundConstraint, ...]:
        return tuple(
            BoundConstraint(constraint=name, held=tuple(held)) for name, held in self._held.items()
        )

    def may_resize(self, size: Size) -> bool:
        least = self.constraints.least_size
        allowed = self.constraints.allows_size(size)
        if least is not None and not allowed:
            self._hold(f"min_input_size {size_text(least)}", size_text(size))
        return allowed

    def may_drop(self, block: str) -> bool:
        kept = is_kept(block, self.constraints.keep_blocks)
        if kept:
            self._hold("keep_blocks", block)
        return not kept

    def allowed(self, group: Group, losses: Mapping[int, float]) -> dict[int, float]:
        """The widths that the group may have, with their losses."""
        if group.writes(self.constraints.keep_channels):
            self._hold("keep_channels", group.layer)
            return {group.count: losses[group.count]}
        allows = self.constraints.allows_width
        wide = {w: loss for w, loss in losses.items() if w == group.count or allows(w)}
        if len(wide) < len(losses):
            self._hold(f"min_channels {self.constraints.min_channels}", group.layer)
        return wide

    def _hold(self, constraint: str, name: str) -> None:
        self._held.setdefault(constraint, []).append(name)
