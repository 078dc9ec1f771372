"""A smaller input size, pruning, and recovery by training, as a plan specifies.

Later steps (quantization, repairs, packaging) treat the result like any model. Accuracy is still
compared with the recipe's own model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from torch import nn

from edgekit.compress.batches import in_batches
from edgekit.compress.copying import copy_of
from edgekit.compress.depth.blocks import without_blocks
from edgekit.compress.depth.choice import drop_blocks, refuse_unknown_blocks
from edgekit.compress.pruning.channel_choice import macs_of, prune
from edgekit.compress.pruning.channel_groups import with_own_weights
from edgekit.compress.pruning.compensate import compensate
from edgekit.compress.pruning.sparsity import sparsify, weights_of
from edgekit.documents.verdict import CompressionStep, RefusedLayer, TrainingReport
from edgekit.errors import SettingError
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.predict import run_eager
from edgekit.pipeline.model.stage_cache import cache_stage, load_cached_stage
from edgekit.pipeline.model.subject import Subject, some_inputs
from edgekit.pipeline.shrink.channel_importance import BATCH, WEIGHED, importance_of
from edgekit.pipeline.shrink.input_size import has_same_outputs, resized, with_norms
from edgekit.pipeline.shrink.low_rank import Times, factorized
from edgekit.pipeline.shrink.model_cache import (
    KIND,
    CompressionRecord,
    measured_here,
    read_model,
    write_model,
)
from edgekit.pipeline.shrink.step_report import WORTH_PACKING, Ledger, measuring_device
from edgekit.pipeline.training.recovery import recover
from edgekit.plan import (
    REMOVALS,
    DropBlocks,
    LowRank,
    Plan,
    Precision,
    Prune,
    Resize,
    Sparsity,
    Training,
)
from edgekit.recipe.tensors import Inputs

CHANGES = (*REMOVALS, "recover")
COMPENSATED = (64, 256, 30e9)
# The user is notified if this share of the MACs was removed beyond the requested ratio.
NOTICED = 0.05
NOT_COMPARABLE = (
    "not trained: at this input size the outputs have other shapes than the teacher's, so that "
    "only labels could train (training() in the recipe, without --distill)"
)
NOT_FASTER = "no layer is factorized: the factors of none are faster than the whole layer"
NO_USE = "zeros are not applied: they make neither the compressed file smaller nor inference faster"


@dataclass(frozen=True)
class CompressedModel:
    """The smaller model, for the rest of the build. ``plan`` reproduces it."""

    subject: Subject
    context: BuildContext
    plan: Plan
    steps: tuple[CompressionStep, ...]


def points_lost(subject: Subject, steps: Sequence[CompressionStep]) -> float:
    """Points lost on evaluate() against the recipe's own model; 0 if none, or if unknown."""
    if not steps or steps[-1].accuracy is None or subject.fp32_accuracy is None:
        return 0.0
    return max(0.0, subject.fp32_accuracy - steps[-1].accuracy)


def compress(
    subject: Subject,
    context: BuildContext,
    plan: Plan,
    limit_s: float | None = None,
    as_it_stands: bool = True,
    times: Times | None = None,
) -> CompressedModel:
    """Resize, prune and recover, or load the result from the cache. Steps are measured in int8 if
    ``plan`` quantizes. Without ``as_it_stands``, zeros are dropped if they do not reduce the
    compressed size. ``times``: of operators on the target, for layers to factorize.

    Raises SettingError, RuntimeFailure (prune), TrainingError, RecipeError.
    """
    precision: Precision = "int8" if plan.is_quantized and subject.calibration else "fp32"
    small = resized(subject, plan.resize.size) if plan.resize is not None else subject
    ledger = Ledger(subject, small, context, Plan(precision=precision, seed=plan.seed))
    parts = {name: getattr(plan, name) for name in CHANGES}
    partial_plan = Plan(precision="fp32", structure=plan.structure, seed=plan.seed, **parts)
    key = context.fingerprint.key(context.runtime, partial_plan)
    key = f"{key}-as-it-pays" if key is not None and not as_it_stands else key
    if plan.low_rank is not None and plan.low_rank.ratio is not None:
        key = None  # which layers stay whole depends on measurements
    eager = run_eager(subject.model)
    floats = [eager(inputs) for inputs in subject.parity_inputs]
    cached = None
    if limit_s is None:
        cached = load_cached_stage(KIND, key, floats, partial(read_model, small))
    if cached is not None:
        context.progress.note("the smaller model is loaded from the cache")
        model, record = measured_here(cached, ledger)
    else:
        work = _Work(subject, small, context, partial_plan, ledger, limit_s, as_it_stands, times)
        model, record = work.run(ledger)
    parts = {name: getattr(record, name) for name in CHANGES}
    done = plan.replaced(**parts)
    if cached is None:
        done_key = context.fingerprint.key(context.runtime, partial_plan.replaced(**parts))
        complete = limit_s is None and not record.interrupted
        for name in {done_key, key} if complete else {done_key}:
            cache_stage(context, KIND, name, floats, partial(write_model, model, record))
    outputs = run_eager(model)(small.example)
    small = replace(small, model=model, example_outputs=outputs)
    return CompressedModel(small, context.of(small), done, record.steps)


def smaller(subject: Subject, context: BuildContext, plan: Plan) -> Subject:
    """The subject with the model of a plan, without its training and without reports.

    Raises SettingError, RuntimeFailure.
    """
    small = resized(subject, plan.resize.size) if plan.resize is not None else subject
    model = _Work(subject, small, context, plan.replaced(recover=None), None).shrink()
    return replace(small, model=model, example_outputs=run_eager(model)(small.example))


@dataclass
class _Work:
    """One run of all steps. ``original``: at the recipe's input size; ``subject``: at the plan's.
    ``ledger``: None: steps are not reported. ``removed``: the removed channels of each round.
    """

    original: Subject
    subject: Subject
    context: BuildContext
    plan: Plan
    ledger: Ledger | None
    limit_s: float | None = None
    as_it_stands: bool = True
    times: Times | None = None
    removed: list[dict[str, list[int]]] = field(default_factory=list)
    steps: list[CompressionStep] = field(default_factory=list)
    interrupted: bool = False

    def run(self, ledger: Ledger) -> tuple[nn.Module, CompressionRecord]:
        model = self.shrink()
        record = CompressionRecord(
            gone=self.removed,
            **{name: getattr(self.plan, name) for name in CHANGES},
            steps=tuple(self.steps),
            device=measuring_device(self.context).transport.name,
            precision=ledger.requested_precision,
            interrupted=self.interrupted,
        )
        return model, record

    def shrink(self) -> nn.Module:
        self.model: nn.Module = copy_of(self.subject.model)
        if self.plan.resize is not None:
            self._resize(self.plan.resize)
        if self.plan.drop_blocks is not None:
            self._drop_blocks(self.plan.drop_blocks)
        if self.plan.prune is not None:
            self._prune(self.plan.prune)
        if self.plan.low_rank is not None:
            self._factorize(self.plan.low_rank)
        if self.plan.sparsity is not None:
            self._sparsify(self.plan.sparsity)
        if self.plan.recover is not None:
            self._recover(self.plan.recover)
        return self.model

    def _report(self, name: str, refused: tuple[RefusedLayer, ...] = (), **details: Any) -> None:
        if self.ledger is not None:
            self.steps.append(self.ledger.step(name, self.model, refused, **details))

    def _resize(self, wanted: Resize) -> None:
        with self.context.progress.stage("estimating batch norms at the new size"):
            self.model, done = with_norms(self.original, self.subject, wanted)
        self.plan = self.plan.replaced(resize=done)
        self._report("resize", input_size=done.size)

    def _drop_blocks(self, wanted: DropBlocks) -> None:
        before, example, progress = self.model, self.subject.example, self.context.progress
        dropped = wanted.blocks or ()
        refuse_unknown_blocks(before, example, dropped)
        if wanted.count is not None:
            inputs = some_inputs(self.subject, self.subject.fitted, *WEIGHED)
            hints = self.subject.fidelity.hints
            with progress.stage("choosing blocks") as stage:
                found = drop_blocks(
                    before,
                    example,
                    wanted.count,
                    inputs,
                    advance=stage.advance,
                    hints=hints,
                    keep=wanted.keep,
                )
            dropped = found.dropped
        self.model = without_blocks(before, example, dropped)
        if wanted.compensate and self.subject.calibration:
            self._compensate(before, {}, "the removed blocks")
        done = wanted.replaced(count=None, keep=(), blocks=tuple(sorted(dropped)))
        self.plan = self.plan.replaced(drop_blocks=done)
        self._report("drop_blocks", dropped=done.blocks)

    def _compensate(
        self, before: nn.Module, lost: Mapping[str, list[int]], what: str, keep_zeros: bool = False
    ) -> None:
        """Refit the layers of the model. ``lost``: their removed outputs, by layer."""
        remaining = set(with_own_weights(self.model)).intersection(with_own_weights(before))
        outputs = {name: lost.get(name, []) for name in sorted(remaining)}
        with self.context.progress.stage(f"compensating for {what}") as stage:
            data, example = self._batches(), self.subject.example
            compensate(before, self.model, outputs, example, data, stage.advance, keep_zeros)

    def _prune(self, wanted: Prune) -> None:
        """Prune in rounds; each removes the same share of the remaining MACs."""
        if wanted.ratio is None:
            self._remove(wanted)
            return
        example = self.subject.example
        whole, rounds = macs_of(self.subject.model, example), len(wanted.between) + 1
        for index in range(rounds):
            goal = (1 - wanted.ratio) ** ((index + 1) / rounds) * whole
            ratio = 1 - goal / macs_of(self.model, example)
            if ratio <= 0:
                continue
            try:
                self._remove(wanted.replaced(ratio=ratio))
            except SettingError as error:
                if rounds == 1:
                    raise
                raise SettingError(
                    f"{wanted.ratio:.0%} of the MACs cannot be pruned from this model: in round "
                    f"{index + 1} of {rounds} too few channels are left",
                    error.hint,
                ) from None
            if index < len(wanted.between):
                self._train_between("prune", index)

    def _remove(self, wanted: Prune) -> None:
        before, progress = self.model, self.context.progress
        with progress.stage("pruning channels") as stage:
            importance = importance_of(self.subject, wanted, self.plan.seed, stage.advance)
            pruned = prune(before, self.subject.example, wanted, importance)
        for one in pruned.refused if not self.removed else ():
            progress.note(f"not pruned: {one.layer or '(the model itself)'}: {one.why}")
        self.model = pruned.model
        if wanted.compensate and self.subject.calibration:
            self._compensate(before, pruned.removed_outputs, "the removed channels")
        self.removed.append(pruned.removed)
        refused = tuple(RefusedLayer(layer=one.layer, why=one.why) for one in pruned.refused)
        if wanted.ratio is not None:
            self._report_share()
        self._report("prune", refused, widths=pruned.widths)

    def _report_share(self) -> None:
        wanted = self.plan.prune
        assert wanted is not None and wanted.ratio is not None
        whole = macs_of(self.subject.model, self.subject.example)
        share = 1 - macs_of(self.model, self.subject.example) / whole
        if share > wanted.ratio + NOTICED:
            self.context.progress.note(
                f"{share:.0%} of the MACs removed ({wanted.ratio:.0%} requested): widths are "
                f"multiples of {wanted.step}, attention heads are removed as a whole"
            )

    def _factorize(self, wanted: LowRank) -> None:
        """Factorize layers. By a ratio, those stay whole whose factors are not faster."""
        inputs = self._batches() if self.subject.calibration else []
        precision = self.ledger.precision if self.ledger is not None else self.plan
        subject = replace(self.subject, model=self.model)
        with self.context.progress.stage("factorizing layers"):
            found = factorized(subject, wanted, inputs, precision, self.times)
        for one in found.refused:
            self.context.progress.note(f"not factorized: {one.layer or '(the model)'}: {one.why}")
        self.model = found.model
        if found.factors:
            done = wanted.replaced(ratio=None, factors=found.factors)
            self.plan = self.plan.replaced(low_rank=done)
        else:
            self.context.progress.note(NOT_FASTER)
            self._leave_out("low_rank")
        self._report("low_rank", found.refused, factors=found.factors)

    def _leave_out(self, step: Literal["low_rank", "sparsity"]) -> None:
        """The plan without a step, and without a training that only this step needed."""
        self.plan = self.plan.replaced(**{step: None})
        if self.plan.recover_only and not self.subject.recipe.has("teacher"):
            self.plan = self.plan.replaced(recover=None)

    def _sparsify(self, wanted: Sparsity) -> None:
        """Add zeros in rounds, fewer in each (M. Zhu and S. Gupta, 2017, arXiv:1710.01878)."""
        dense, earlier, rounds = copy_of(self.model), len(self.steps), len(wanted.between) + 1
        for index in range(rounds):
            ratio = wanted.ratio * (1 - (1 - (index + 1) / rounds) ** 3)
            self._zero(wanted.replaced(ratio=ratio))
            if index < len(wanted.between):
                self._train_between("sparsity", index)
        if not self.as_it_stands and not self._pays(earlier):
            self._drop_zeros(dense, earlier)

    def _pays(self, earlier: int) -> bool:
        """Whether zeros reduce the compressed size. ``earlier``: the number of steps before."""
        last = self.steps[-1]
        dense_mb = self.steps[earlier - 1].compressed_mb if earlier else last.compressed_before_mb
        return last.compressed_mb < WORTH_PACKING * dense_mb

    def _drop_zeros(self, dense: nn.Module, earlier: int) -> None:
        """Restore the dense model, and skip a training that only zeros needed."""
        self.context.progress.note(NO_USE)
        self.model = dense
        self._leave_out("sparsity")
        refused = RefusedLayer(layer="", why=NO_USE)
        del self.steps[earlier:]
        self._report("sparsify", (refused,))

    def _zero(self, wanted: Sparsity) -> None:
        dense = copy_of(self.model)
        weights = weights_of(self.model)
        sparsify(weights, wanted.ratio, wanted.threshold)
        if wanted.compensate and self.subject.calibration:
            self._compensate(dense, {}, "the zeros", keep_zeros=True)
        self._report("sparsify")

    def _recover(self, training: Training) -> None:
        same = has_same_outputs(self.original, self.subject)
        if training.objective != "labels" and not same:
            self.context.progress.note(NOT_COMPARABLE)
            self.plan = self.plan.replaced(recover=None)
        else:
            self.plan = self.plan.replaced(recover=self._train(training, "last"))

    def _train_between(self, key: Literal["prune", "sparsity"], index: int) -> None:
        """Train after a round, and write the result to the plan, which is part of later keys."""
        wanted: Prune | Sparsity = getattr(self.plan, key)
        between = list(wanted.between)
        between[index] = self._train(between[index], f"{key} {index}", to_the_end=True)
        done = wanted.replaced(between=tuple(between))
        self.plan = self.plan.replaced(**{key: done})

    def _train(self, training: Training, name: str, to_the_end: bool = False) -> Training:
        """Train and report a step. ``to_the_end``: use the weights of the last step."""
        recovered = recover(
            self.model,
            self.original,
            self.context,
            self.plan,
            training,
            self.limit_s,
            name,
            to_the_end,
            self.subject.resizing,
        )
        self.interrupted |= recovered.interrupted
        training = recovered.training
        report = TrainingReport(**dict(training), interrupted=recovered.interrupted)
        if training.stop == 0 and self.steps:  # the model is unchanged
            same = {
                "name": "recover",
                "training": report,
                "refused": (),
                "widths": {},
                "factors": None,
            }
            self.steps.append(self.steps[-1].replaced(**same))
        else:
            self._report("recover", training=report)
        return training

    def _batches(self) -> list[Inputs]:
        return in_batches(
            run_eager(self.model),
            some_inputs(self.subject, self.subject.fitted_before_training, *COMPENSATED),
            BATCH,
        )
