"""The independent pieces of a search: what is asked of one, and how it is computed.

A question is plain data, and its answer depends on nothing but the question, the subject and the
versions of the software: not on earlier questions, and not on the process that computes it. So an
answer may come from a worker, or from the store of points. Each is computed by one thread of torch,
because several add up floating-point numbers in another order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Literal

import torch
from pydantic import Field, TypeAdapter

from edgekit.compress.depth.choice import BlockTrials
from edgekit.compress.pruning.channel_choice import macs_of, prune
from edgekit.compress.pruning.channel_groups import Group, find_groups
from edgekit.compress.pruning.importance import by_size
from edgekit.compress.pruning.trials import (
    WidthTrials,
    channels_in_order,
    loss_of_outputs,
    removal_counts,
)
from edgekit.errors import RuntimeFailure, SettingError
from edgekit.frozen import Frozen
from edgekit.pipeline.fit.meter import Cost, Lowered, Meter
from edgekit.pipeline.model.batched import Batched
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.predict import run_all, run_eager
from edgekit.pipeline.model.subject import Subject, some_inputs
from edgekit.pipeline.precision.quantize import LatestUsed
from edgekit.pipeline.shrink.channel_importance import WEIGHED
from edgekit.pipeline.shrink.input_size import has_same_outputs, resized, with_norms
from edgekit.pipeline.shrink.shrink import smaller
from edgekit.plan import Plan, Prune, Resize
from edgekit.recipe.image_size import Size
from edgekit.values import Effort

# The widths that are tried are multiples of it.
WIDTH_STEP = 8
# How many models each round tries and then lowers; so many are kept between.
TRIED: dict[Effort, int] = {"quick": 0, "normal": 3, "thorough": 5}
MODELS = max(TRIED.values())


class WidthTrial(Frozen):
    """How far the outputs move if a group loses its ``removed`` least channels."""

    kind: Literal["width"] = "width"
    group: str
    removed: int


class BlockTrial(Frozen):
    """How far the outputs move without a block."""

    kind: Literal["block"] = "block"
    block: str


class SizeTrial(Frozen):
    """How far the outputs move at an input size."""

    kind: Literal["size"] = "size"
    size: Size


class ModelTrial(Frozen):
    """The loss of a plan's smaller model, and the share of the multiply-accumulates left."""

    kind: Literal["model"] = "model"
    plan: Plan


class CostTrial(Frozen):
    """The costs of a plan's smaller model; ``share``: in place of its widths, those of a uniformly
    narrower one with this share of the multiply-accumulates, whose outputs do not matter.
    ``timed``: with its latency as predicted there; else whoever asks finds it out.
    """

    kind: Literal["cost"] = "cost"
    plan: Plan
    share: float | None = None
    timed: bool = True


Trial = WidthTrial | BlockTrial | SizeTrial | ModelTrial | CostTrial
TRIALS: TypeAdapter[Trial] = TypeAdapter(Annotated[Trial, Field(discriminator="kind")])


class Loss(Frozen):
    """``loss``: None if the choice is not possible, for the reason in ``why_not``. ``macs``: the
    share that is left, where it was asked for.
    """

    loss: float | None = None
    macs: float | None = None
    why_not: str = ""


class NoCost(Frozen):
    """The reason why a model cannot be built."""

    why_not: str


Answer = Loss | Cost | Lowered | NoCost


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread of torch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass
class Laboratory:
    """Computes the answers for one subject. ``quantized``: the precision of what is lowered.
    ``meter``: its context has no fingerprint, because answers are stored as points.
    """

    subject: Subject
    meter: Meter
    quantized: Plan
    _smaller: LatestUsed[Subject] = field(default_factory=lambda: LatestUsed(MODELS))

    def answer(self, question: str) -> Answer:
        """``question``: a trial as JSON. Raises EdgekitError."""
        trial = TRIALS.validate_json(question)
        self._release(trial)
        with one_thread():
            if isinstance(trial, WidthTrial):
                group = self._groups[trial.group]
                ordered = channels_in_order(self._order, group)
                return Loss(loss=self._widths.loss(group, ordered[: trial.removed]))
            if isinstance(trial, BlockTrial):
                return Loss(loss=self._blocks.loss([trial.block]))
            if isinstance(trial, SizeTrial):
                return self._size(trial.size)
            if isinstance(trial, ModelTrial):
                return self._model(trial.plan)
            return self._cost(trial)

    def _release(self, trial: Trial) -> None:
        """Free what only other kinds of trials need: moments of all layers, batches of data."""
        for name, kind in (("_widths", WidthTrial), ("_blocks", BlockTrial)):
            if not isinstance(trial, kind):
                vars(self).pop(name, None)

    @property
    def context(self) -> BuildContext:
        return self.meter.context

    @cached_property
    def _groups(self) -> dict[str, Group]:
        found, _ = find_groups(self.subject.model, self.subject.example)
        return {group.layer: group for group in found}

    @cached_property
    def _order(self) -> dict[str, torch.Tensor]:
        return dict(by_size(1)(self.subject.model, list(self._groups.values())))

    @cached_property
    def _widths(self) -> WidthTrials:
        subject = self.subject
        inputs = some_inputs(subject, subject.fitted, *WEIGHED)
        groups = list(self._groups.values())
        return WidthTrials(subject.model, groups, inputs, subject.fidelity.hints)

    @cached_property
    def _blocks(self) -> BlockTrials:
        subject = self.subject
        inputs = some_inputs(subject, subject.fitted, *WEIGHED)
        return BlockTrials(subject.model, subject.example, inputs, subject.fidelity.hints)

    @cached_property
    def _true_loss(self) -> TrueLoss:
        return TrueLoss(self.subject)

    def _size(self, size: Size) -> Loss:
        try:
            small = resized(self.subject, size)
        except SettingError as error:
            return Loss(why_not=error.message)
        if not has_same_outputs(self.subject, small):
            return Loss(why_not="the outputs have other shapes there")
        model, _ = with_norms(self.subject, small, Resize(size=size))
        return Loss(loss=self._true_loss.of(replace(small, model=model)))

    def _model(self, plan: Plan) -> Loss:
        try:
            small = self._of(plan)
        except (RuntimeFailure, SettingError) as error:
            return Loss(why_not=error.message)
        whole = macs_of(self.subject.model, self.subject.example)
        share = macs_of(small.model, small.example) / whole
        return Loss(loss=self._true_loss.of(small), macs=share)

    def _cost(self, trial: CostTrial) -> Answer:
        try:
            small = self._of(trial.plan) if trial.share is None else self._narrower(trial.share)
        except (RuntimeFailure, SettingError) as error:
            return NoCost(why_not=error.message)
        lowered = self.meter.lowered(small, self.quantized)
        return self.meter.time(lowered) if trial.timed else lowered

    def _of(self, plan: Plan) -> Subject:
        if not plan.changes_the_model:
            return self.subject
        return self._smaller.get(
            plan.model_dump_json(), lambda: smaller(self.subject, self.context, plan)
        )

    def _narrower(self, share: float) -> Subject:
        wanted = Prune(ratio=1 - share, spread="uniform", importance="l1", compensate=False)
        model = prune(self.subject.model, self.subject.example, wanted, by_size(1)).model
        outputs = run_eager(model)(self.subject.example)
        return replace(self.subject, model=model, example_outputs=outputs)


class TrueLoss:
    """How far the outputs of a smaller model are from the subject's, on inputs kept apart."""

    def __init__(self, subject: Subject) -> None:
        self._fidelity = subject.fidelity
        self._floats = run_all(Batched(subject.model), subject.judged or [subject.example])

    def of(self, small: Subject) -> float:
        outputs = run_all(Batched(small.model), small.judged or [small.example])
        return loss_of_outputs(self._fidelity, outputs, self._floats)


def width_trials(group: Group) -> list[WidthTrial]:
    """The trials of a group, from the widest that is left."""
    counts = removal_counts(group, WIDTH_STEP)
    return [WidthTrial(group=group.layer, removed=count) for count in counts]
