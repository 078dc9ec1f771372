"""A smaller model in the place of the recipe's: pruned, and recovered by training, as a plan says.

All that follows (quantization, repairs, packaging) works on it as on any model; accuracy is still
held against the recipe's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from torch import nn

from edgekit.compress.batches import in_batches
from edgekit.compress.copying import copy_of
from edgekit.compress.pruning.channels import with_own_weights
from edgekit.compress.pruning.compensate import compensate
from edgekit.compress.pruning.prune import macs_of, prune
from edgekit.compress.pruning.sparsity import sparsify, weights_of
from edgekit.documents.verdict import CompressionStep, RefusedLayer, TrainingReport
from edgekit.errors import SettingError
from edgekit.pipeline.model.context import Tools
from edgekit.pipeline.model.fingerprint import Fingerprint
from edgekit.pipeline.model.predict import run_eager
from edgekit.pipeline.model.stage_cache import found_stage, keep_stage
from edgekit.pipeline.model.subject import Subject, some_inputs
from edgekit.pipeline.shrink.importance import BATCH, importance_of
from edgekit.pipeline.shrink.kept_model import (
    KIND,
    KeptModel,
    measured_here,
    read_model,
    write_model,
)
from edgekit.pipeline.shrink.step_report import WORTH_PACKING, Ledger, arena_of
from edgekit.pipeline.training.recovery import recover
from edgekit.plan import Plan, Precision, Prune, Sparsity, Training
from edgekit.recipe.tensors import Inputs

COMPENSATED = (64, 256, 30e9)
# Of the MACs, more than were asked for.
NOTICED = 0.05
NO_USE = "zeros are not applied: the file packs no smaller with them, and nothing is faster"


@dataclass(frozen=True)
class Smaller:
    """What building goes on with; ``plan`` leads to it again."""

    subject: Subject
    tools: Tools
    plan: Plan
    steps: tuple[CompressionStep, ...]


def points_lost(subject: Subject, steps: Sequence[CompressionStep]) -> float:
    """By ``evaluate``, against the recipe's own model; 0 where it gained, or nobody can tell."""
    if not steps or steps[-1].accuracy is None or subject.fp32_accuracy is None:
        return 0.0
    return max(0.0, subject.fp32_accuracy - steps[-1].accuracy)


def smaller(
    subject: Subject,
    tools: Tools,
    plan: Plan,
    limit_s: float | None = None,
    as_it_stands: bool = True,
) -> Smaller:
    """Prune and recover, or take what was kept of it. Steps are measured in int8 where ``plan``
    quantizes; not ``as_it_stands``: zeros that do not pay are left out.

    Raises SettingError, RuntimeFailure (prune), TrainingError, RecipeError.
    """
    precision: Precision = "int8" if plan.is_quantized and subject.calibration else "fp32"
    ledger = Ledger(subject, tools, Plan(precision=precision, seed=plan.seed))
    own = Plan(
        precision="fp32",
        prune=plan.prune,
        sparsity=plan.sparsity,
        recover=plan.recover,
        structure=plan.structure,
        seed=plan.seed,
    )
    key = tools.fingerprint.key(tools.runtime, own)
    key = f"{key}-as-it-pays" if key is not None and not as_it_stands else key
    eager = run_eager(subject.model)
    floats = [eager(inputs) for inputs in subject.parity_inputs]
    kept = found_stage(KIND, key, floats, partial(read_model, subject)) if limit_s is None else None
    if kept is not None:
        tools.progress.note("pruned already: taken from the cache")
        model, found = measured_here(kept, ledger)
    else:
        model, found = _Work(subject, tools, own, ledger, limit_s, as_it_stands).run()
    parts = {name: getattr(found, name) for name in ("prune", "sparsity", "recover")}
    done = plan.replaced(**parts)
    if kept is None:
        again = tools.fingerprint.key(tools.runtime, own.replaced(**parts))
        whole = limit_s is None and not found.interrupted
        for name in {again, key} if whole else {again}:
            keep_stage(tools, KIND, name, floats, partial(write_model, model, found))
    outputs = run_eager(model)(subject.example)
    small = replace(subject, model=model, example_outputs=outputs)
    return Smaller(small, replace(tools, fingerprint=Fingerprint(small)), done, found.steps)


@dataclass
class _Work:
    subject: Subject
    tools: Tools
    plan: Plan
    ledger: Ledger
    limit_s: float | None
    as_it_stands: bool
    gone: list[dict[str, list[int]]] = field(default_factory=list)
    steps: list[CompressionStep] = field(default_factory=list)
    interrupted: bool = False

    def run(self) -> tuple[nn.Module, KeptModel]:
        self.model: nn.Module = copy_of(self.subject.model)
        if self.plan.prune is not None:
            self._prune(self.plan.prune)
        if self.plan.sparsity is not None:
            self._sparsify(self.plan.sparsity)
        if self.plan.recover is not None:
            done = self._train(self.plan.recover, "last")
            self.plan = self.plan.replaced(recover=done)
        found = KeptModel(
            gone=self.gone,
            prune=self.plan.prune,
            sparsity=self.plan.sparsity,
            recover=self.plan.recover,
            steps=tuple(self.steps),
            device=arena_of(self.tools).transport.name,
            precision=self.ledger.asked,
            interrupted=self.interrupted,
        )
        return self.model, found

    def _prune(self, wanted: Prune) -> None:
        """Round by round, each the same share of what is left."""
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
                    f"{index + 1} of {rounds} too little is left",
                    error.hint,
                ) from None
            if index < len(wanted.between):
                self._train_between("prune", index)

    def _remove(self, wanted: Prune) -> None:
        before, progress = self.model, self.tools.progress
        with progress.stage("pruning channels") as stage:
            importance = importance_of(self.subject, wanted, self.plan.seed, stage.advance)
            pruned = prune(before, self.subject.example, wanted, importance)
        for one in pruned.refused if not self.gone else ():
            progress.note(f"not pruned: {one.layer or '(the model itself)'}: {one.why}")
        if wanted.compensate and self.subject.calibration:
            with progress.stage("making good what was removed") as stage:
                data = self._batches()
                compensate(before, pruned.model, pruned.lost, data, stage.advance)
        self.model = pruned.model
        self.gone.append(pruned.gone)
        refused = tuple(RefusedLayer(layer=one.layer, why=one.why) for one in pruned.refused)
        self._say_share()
        self.steps.append(self.ledger.step("prune", self.model, refused, widths=pruned.widths))

    def _say_share(self) -> None:
        wanted = self.plan.prune
        assert wanted is not None
        whole = macs_of(self.subject.model, self.subject.example)
        gone = 1 - macs_of(self.model, self.subject.example) / whole
        if gone > wanted.ratio + NOTICED:
            self.tools.progress.note(
                f"{wanted.ratio:.0%} of the MACs were to go, {gone:.0%} went: widths are multiples "
                f"of {wanted.step}, heads go as a whole"
            )

    def _sparsify(self, wanted: Sparsity) -> None:
        """Round by round, fewer new zeros in each (M. Zhu and S. Gupta, 2017, arXiv:1710.01878)."""
        before, told, rounds = copy_of(self.model), len(self.steps), len(wanted.between) + 1
        for index in range(rounds):
            ratio = wanted.ratio * (1 - (1 - (index + 1) / rounds) ** 3)
            self._zero(wanted.replaced(ratio=ratio))
            if index < len(wanted.between):
                self._train_between("sparsity", index)
        if not self.as_it_stands and not self._pays(told):
            self._leave_out(before, told)

    def _pays(self, told: int) -> bool:
        last = self.steps[-1]
        dense_mb = self.steps[told - 1].compressed_mb if told else last.compressed_before_mb
        return last.compressed_mb < WORTH_PACKING * dense_mb

    def _leave_out(self, dense: nn.Module, told: int) -> None:
        """The zeros, and the training that was there for nothing else."""
        self.tools.progress.note(NO_USE)
        self.model, left = dense, {"sparsity": None}
        if self.plan.prune is None and not self.subject.recipe.has("teacher"):
            left["recover"] = None
        self.plan = self.plan.replaced(**left)
        refused = RefusedLayer(layer="", why=NO_USE)
        self.steps[told:] = [self.ledger.step("sparsify", self.model, (refused,))]

    def _zero(self, wanted: Sparsity) -> None:
        progress, dense = self.tools.progress, copy_of(self.model)
        weights = weights_of(self.model)
        sparsify(weights, wanted.ratio, wanted.threshold)
        if wanted.compensate and self.subject.calibration:
            with progress.stage("making good what became zero") as stage:
                lost: dict[str, list[int]] = {name: [] for name in with_own_weights(dense)}
                data = self._batches()
                compensate(dense, self.model, lost, data, stage.advance, keep_zeros=True)
        self.steps.append(self.ledger.step("sparsify", self.model))

    def _train_between(self, key: Literal["prune", "sparsity"], index: int) -> None:
        """After a round; what became of it stands in the plan, and so in the keys of the next."""
        wanted: Prune | Sparsity = getattr(self.plan, key)
        between = list(wanted.between)
        between[index] = self._train(between[index], f"{key} {index}", to_the_end=True)
        done = wanted.replaced(between=tuple(between))
        self.plan = self.plan.replaced(**{key: done})

    def _train(self, training: Training, name: str, to_the_end: bool = False) -> Training:
        """``to_the_end``: the weights of the last step, whatever was better before."""
        found = recover(
            self.model,
            self.subject,
            self.tools,
            self.plan,
            training,
            self.limit_s,
            name,
            to_the_end,
        )
        self.interrupted |= found.interrupted
        told = TrainingReport(**dict(found.training), interrupted=found.interrupted)
        if found.training.stop == 0 and self.steps:  # the model is what it was
            same = {"name": "recover", "training": told, "refused": (), "widths": {}}
            self.steps.append(self.steps[-1].replaced(**same))
        else:
            self.steps.append(self.ledger.step("recover", self.model, training=told))
        return found.training

    def _batches(self) -> list[Inputs]:
        return in_batches(
            run_eager(self.model),
            some_inputs(self.subject, self.subject.fitted, *COMPENSATED),
            BATCH,
        )
