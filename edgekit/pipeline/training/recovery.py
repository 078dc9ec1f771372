"""Training of a float model: recovery after pruning, or as the student of a teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from edgekit.compress.batches import can_batch
from edgekit.compress.copying import copy_of
from edgekit.compress.divergence import compare_outputs
from edgekit.compress.pruning.sparsity import weights_of, zero_resetter
from edgekit.compress.quantization.simulate import Outputs
from edgekit.compress.training.distill import (
    BATCH,
    Features,
    attention,
    distance,
    distillation_batches,
    hints,
    pooled_hints,
)
from edgekit.compress.training.loop import Batch, Job, freeze_norms, train
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.predict import Run, run_eager
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.training.checkpoint import Checkpoint
from edgekit.pipeline.training.labelled_data import Batches, by_training
from edgekit.pipeline.training.teacher import beside_labels, teacher_of
from edgekit.plan import Plan, Training
from edgekit.recipe.image_size import Resizing
from edgekit.recipe.tensors import Inputs

# After this share of the steps, batch norms no longer update their statistics.
FROZEN_FROM = 2 / 3
NO_FEATURES = (
    "features are not compared: no layers of the teacher and the model have outputs of equal size"
)


@dataclass(frozen=True)
class RecoveryResult:
    """The result of a recovery. ``training`` reproduces the weights. ``loss``: of the weights on
    held-out data; None if there are none.
    """

    training: Training
    interrupted: bool
    loss: float | None


def recover(
    model: nn.Module,
    subject: Subject,
    context: BuildContext,
    plan: Plan,
    training: Training,
    limit_s: float | None,
    name: str = "",
    to_the_end: bool = False,
    resizing: Resizing | None = None,
) -> RecoveryResult:
    """Train ``model`` in place with the recipe's labels, its teacher, or both; on a GPU if torch
    has one. ``name`` distinguishes it from the plan's other trainings. ``to_the_end``: use the
    weights of the last step without judging. ``resizing``: of the images for ``model``; a teacher
    gets those of ``subject``. If the plan has sparsity, zeros stay zeros.

    Raises TrainingError, RecipeError.
    """
    key = context.fingerprint.key(context.runtime, plan)
    checkpoint = Checkpoint(f"{key}-{name}" if key is not None and name else key, limit_s)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        _arrange(model.to(device), torch.channels_last)
        student = Student(model, resizing)
        job = _job(student, subject, context, plan, training, device)
        if to_the_end:
            job = replace(job, judge=None)
        result = train(job, training, plan.seed, checkpoint, context.progress, limit_s)
    finally:
        _arrange(model, torch.contiguous_format)
        model.cpu().eval()
    if not result.interrupted:
        checkpoint.remove()
    done = training.replaced(steps=result.steps, stop=result.stop)
    return RecoveryResult(done, result.interrupted, dict(result.scores).get(result.stop))


def _arrange(model: nn.Module, memory_format: torch.memory_format) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.to(memory_format=memory_format)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Student:
    """The model that is trained. ``resizing``: of its images, if they are smaller."""

    net: nn.Module
    resizing: Resizing | None = None

    def outputs(self, inputs: Inputs) -> Outputs:
        return list(pytree.tree_leaves(self.net(*self.inputs(inputs))))

    def inputs(self, inputs: Inputs) -> Inputs:
        return self.resizing(inputs) if self.resizing is not None else inputs

    def judged(self, inputs: Inputs) -> Outputs:
        self.net.eval()
        with torch.no_grad():
            return self.outputs(inputs)


@dataclass(frozen=True)
class _Teacher:
    """A teacher. ``features``: its inner layers that are compared with the model's."""

    net: nn.Module
    training: Training
    by_classes: bool
    features: Features | None

    def outputs(self, inputs: Inputs) -> Outputs:
        return run_eager(self.net)(inputs)

    def distil(self, student: Student, inputs: Inputs) -> tuple[Outputs, torch.Tensor]:
        """The student's outputs, and their distance from the teacher's."""
        training, features = self.training, self.features
        if features is None:
            target, outputs = self.outputs(inputs), student.outputs(inputs)
            return outputs, distance(outputs, target, self.by_classes, training.temperature)
        with torch.no_grad(), features.watched(self.net, features.theirs) as teacher_features:
            target = self.outputs(inputs)
        with features.watched(student.net, features.own) as own_features:
            outputs = student.outputs(inputs)
        inside = features.between(own_features, teacher_features)
        if inside is not None and training.features == 1:
            return outputs, inside
        outside = distance(outputs, target, self.by_classes, training.temperature)
        if inside is None:
            return outputs, outside
        return outputs, (1 - training.features) * outside + training.features * inside


def _job(
    student: Student,
    subject: Subject,
    context: BuildContext,
    plan: Plan,
    training: Training,
    device: torch.device,
) -> Job:
    by_labels, model = training.objective != "float_model", student.net
    teacher: _Teacher | None = None
    if training.objective != "labels":
        net = teacher_of(subject)
        if device.type != "cpu":
            net = copy_of(net).to(device)
        example = _on(device, subject.example)
        features = _features(student, net, example, subject) if training.features else None
        if training.features and features is None:
            context.progress.note(NO_FEATURES)
        teacher = _Teacher(net, training, subject.fidelity.by_classes, features)

    # calibration inputs are mixed, and those have other statistics than whole ones
    keeps_norms = plan.has_valid_norms and not subject.recipe.has("training")
    frozen_from = 0.0 if keeps_norms else FROZEN_FROM

    def labelled(outputs: Outputs, target: Any) -> torch.Tensor:
        return subject.recipe.loss(subject.structure.rebuild(outputs), target)

    def loss(batch: Batch, share: float) -> torch.Tensor:
        model.train()
        if share >= frozen_from:
            freeze_norms(model)
        inputs, target = _on(device, batch)
        if teacher is None:
            return labelled(student.outputs(inputs), target)
        outputs, total = teacher.distil(student, inputs)
        return beside_labels(labelled(outputs, target), total) if by_labels else total

    def judged(batch: Batch) -> torch.Tensor:
        """The recipe's loss; without labels, the distance from the teacher."""
        inputs, target = _on(device, batch)
        outputs = student.judged(inputs)
        if by_labels:
            return labelled(outputs, target)
        assert teacher is not None
        return distance(outputs, teacher.outputs(inputs), teacher.by_classes)

    if subject.recipe.has("training"):
        batches, judge = by_training(subject, context, judged)
    else:
        assert teacher is not None
        batches, judge = _by_calibration(student, subject, plan.seed, teacher.outputs, device)
    zeros = weights_of(model) if plan.sparsity is not None else {}
    return Job(
        title="training the model" if plan.recover_only else "training the smaller model",
        weights={n: p for n, p in model.named_parameters() if p.is_floating_point()},
        buffers=dict(model.named_buffers()),
        batches=batches,
        loss=loss,
        judge=judge,
        after_step=zero_resetter(zeros),
    )


def _features(
    student: Student, teacher: nn.Module, example: Inputs, subject: Subject
) -> Features | None:
    """The inner layers that training compares."""
    small = student.inputs(example)
    if subject.recipe.has("teacher"):
        return attention(student.net, teacher, small, example)
    if student.resizing is not None:
        return pooled_hints(student.net, teacher, small, example)
    return hints(student.net, teacher, example)


def _on(device: torch.device, value: Any) -> Any:
    if device.type == "cpu":
        return value
    return pytree.tree_map(lambda leaf: leaf.to(device) if torch.is_tensor(leaf) else leaf, value)


def _by_calibration(
    student: Student, subject: Subject, seed: int, ask: Run, device: torch.device
) -> tuple[Batches, Callable[[], float]]:
    """Calibration inputs, mixed pairwise, and a judge on those held out (Subject.for_training)."""
    fitted, held_out = subject.for_training
    judged = [_on(device, inputs) for inputs in held_out]
    floats = [ask(inputs) for inputs in judged]
    size = BATCH if can_batch(ask, judged) else 1

    def judge() -> float:
        outputs = [student.judged(inputs) for inputs in judged]
        return compare_outputs(subject.fidelity, outputs, floats).divergence

    def batches(epoch: int) -> Iterator[Batch]:
        return distillation_batches(fitted, seed, epoch, size)

    return batches, judge
