"""What each choice loses alone, in one unit: how far the outputs move (pruning/trials.py).

Nothing is trained for that, but compensated by least squares. Calibration inputs that nothing is
fitted to judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgekit.compress.depth.blocks import find_blocks
from edgekit.compress.depth.choice import block_worth
from edgekit.compress.pruning.channel_groups import Group, find_groups
from edgekit.compress.pruning.importance import Importance, by_block, least_first
from edgekit.compress.pruning.trials import loss_of_outputs
from edgekit.errors import SettingError
from edgekit.pipeline.model.batched import Batched
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.predict import run_all
from edgekit.pipeline.model.subject import Subject, some_inputs
from edgekit.pipeline.shrink.channel_importance import WEIGHED, importance_of
from edgekit.pipeline.shrink.input_size import has_same_outputs, resized, with_norms
from edgekit.plan import Prune, Resize
from edgekit.recipe.image_size import Size, size_text

# Kernels compute 16 output channels as fast as 8, but narrow groups need finer steps.
KERNEL_STEP, FINE_STEP, NARROW = 16, 8, 48
LEVELS = 8


@dataclass(frozen=True)
class Losses:
    """``sizes``: None is the recipe's size. ``widths``: of each group, by its first layer, from the
    least. ``blocks``: of each block that can be dropped. ``importance``: of all channels.
    """

    groups: tuple[Group, ...]
    importance: Importance
    widths: Mapping[str, Mapping[int, float]]
    blocks: Mapping[str, float]
    sizes: Mapping[Size | None, float]


def measure_losses(subject: Subject, context: BuildContext) -> Losses:
    """Try every width, block and input size of the model alone."""
    progress, example = context.progress, subject.example
    sizes = _sizes(subject, context)
    groups, refused = find_groups(subject.model, example)
    for one in refused:
        progress.note(f"not pruned: {one.layer or '(the model itself)'}: {one.why}")
    importance: Importance = {}
    if groups:
        with progress.stage("trying widths") as stage:
            wanted = Prune(ratio=0.5)
            trial = importance_of(subject, wanted, context.seed, stage.advance)
            importance = trial(subject.model, groups)
    blocks, _ = find_blocks(subject.model, example)
    worth: dict[str, float] = {}
    if blocks:
        inputs = some_inputs(subject, subject.fitted, *WEIGHED)
        with progress.stage("trying blocks") as stage:
            hints = subject.fidelity.hints
            worth = block_worth(subject.model, example, blocks, inputs, stage.advance, hints)
    widths = {group.layer: _width_losses(group, importance) for group in groups}
    return Losses(tuple(groups), importance, widths, _outermost(worth), sizes)


def _outermost(worth: Mapping[str, float]) -> dict[str, float]:
    """Blocks that are not inside another one: a choice of both would count twice."""
    return {
        name: loss
        for name, loss in worth.items()
        if not any(name.startswith(f"{other}.") for other in worth)
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


def _sizes(subject: Subject, context: BuildContext) -> dict[Size | None, float]:
    """The loss at each size that the recipe declares and the model can run at."""
    losses: dict[Size | None, float] = {None: 0.0}
    for size in subject.recipe.input_sizes():
        try:
            small = resized(subject, size)
        except SettingError as error:
            context.progress.note(f"{size_text(size)} pixels: {error.message}")
            continue
        if not has_same_outputs(subject, small):
            context.progress.note(f"{size_text(size)} pixels: the outputs have other shapes there")
            continue
        with context.progress.stage(f"trying {size_text(size)} pixels"):
            model, _ = with_norms(subject, small, Resize(size=size))
            losses[size] = true_loss(subject, replace(small, model=model))
    return losses


def true_loss(subject: Subject, small: Subject) -> float:
    """How far the outputs of ``small`` are from those of ``subject``, on inputs kept apart."""
    floats = run_all(Batched(subject.model), subject.judged or [subject.example])
    outputs = run_all(Batched(small.model), small.judged or [small.example])
    return loss_of_outputs(subject.fidelity, outputs, floats)
