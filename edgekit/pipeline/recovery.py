"""Training a float model after it was pruned, or as the student of a teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.utils import _pytree as pytree

from edgekit.compress.distill import BATCH, distance, distillation_batches
from edgekit.compress.divergence import divergence
from edgekit.compress.simulate import Outputs
from edgekit.compress.train import Batch, Job, freeze_norms, train
from edgekit.errors import RecipeError
from edgekit.pipeline.kept import Tools
from edgekit.pipeline.predict import Run, run_eager
from edgekit.pipeline.subject import Subject
from edgekit.pipeline.training import Batches, Checkpoint, Scores, by_training
from edgekit.plan import Plan, Training
from edgekit.search.repairs import split

# From this share of the steps on batch norms keep their statistics.
FROZEN_FROM = 2 / 3
# Of the loss where there are labels too, and how soft its targets are (G. Hinton et al., 2015).
TEACHER_SHARE, TEMPERATURE = 0.7, 3.0


def recover(
    model: nn.Module,
    subject: Subject,
    tools: Tools,
    plan: Plan,
    training: Training,
    limit_s: float | None,
) -> tuple[Training, Scores]:
    """Train ``model`` in place, towards the recipe's labels, its teacher, or both.

    Raises TrainingError, RecipeError.
    """
    teacher = teacher_of(subject) if training.objective != "labels" else None
    job = _job(model, subject, tools, plan, training, teacher)
    checkpoint = Checkpoint(tools.fingerprint.key(tools.runtime, plan), limit_s)
    if any(isinstance(layer, nn.Conv2d) for layer in model.modules()):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        result = train(job, training, plan.seed, checkpoint, tools.progress, limit_s)
    finally:
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        model.eval()
    checkpoint.remove()
    done = training.model_copy(update={"steps": result.steps, "stop": result.stop})
    return done, result.scores


def teacher_of(subject: Subject) -> nn.Module:
    """The recipe's teacher(), else the model as the recipe has it. Raises RecipeError."""
    recipe = subject.recipe
    if not recipe.has("teacher"):
        return subject.model
    found = recipe.call("teacher")
    if not isinstance(found, nn.Module):
        raise RecipeError(
            f"{recipe.path}: teacher() must return a torch.nn.Module, not {type(found).__name__}"
        )
    teacher = found.cpu().eval()
    told, wanted = (
        [list(tensor.shape) for tensor in run_eager(net)(subject.example)]
        for net in (teacher, subject.model)
    )
    if told != wanted:
        raise RecipeError(
            f"{recipe.path}: teacher() gives outputs of the shapes {told}, the model {wanted}",
            "a teacher and its student tell the same classes in the same form",
        )
    return teacher


def _job(
    model: nn.Module,
    subject: Subject,
    tools: Tools,
    plan: Plan,
    training: Training,
    teacher: nn.Module | None,
) -> Job:
    by_labels = training.objective != "float_model"
    ask = run_eager(teacher) if teacher is not None else None

    def outputs_of(inputs: tuple[torch.Tensor, ...]) -> Outputs:
        return list(pytree.tree_leaves(model(*inputs)))

    def loss(batch: Batch, share: float) -> torch.Tensor:
        model.train()
        if share >= FROZEN_FROM:
            freeze_norms(model)
        outputs = outputs_of(batch[0])
        total = torch.zeros(())
        if by_labels:
            total = subject.recipe.loss(subject.structure.rebuild(outputs), batch[1])
        if ask is None:
            return total
        softened = TEMPERATURE**2 * distance(outputs, ask(batch[0]), TEMPERATURE)
        return (1 - TEACHER_SHARE) * total + TEACHER_SHARE * softened if by_labels else softened

    def judged(batch: Batch) -> torch.Tensor:
        """By the recipe's loss; where no labels are wanted, by what the teacher answers."""
        model.eval()
        outputs = outputs_of(batch[0])
        if by_labels:
            return subject.recipe.loss(subject.structure.rebuild(outputs), batch[1])
        assert ask is not None
        return distance(outputs, ask(batch[0]))

    if subject.recipe.has("training"):
        batches, judge = by_training(subject, tools, judged)
    else:
        assert ask is not None
        batches, judge = _by_calibration(model, subject, plan.seed, ask)
    return Job(
        title="training what was pruned" if plan.prune is not None else "training the model",
        weights={n: p for n, p in model.named_parameters() if p.is_floating_point()},
        buffers=dict(model.named_buffers()),
        batches=batches,
        loss=loss,
        judge=judge,
    )


def _by_calibration(
    model: nn.Module, subject: Subject, seed: int, ask: Run
) -> tuple[Batches, Callable[[], float]]:
    """The calibration inputs, mixed pairwise."""
    parts = split(subject.calibration)
    floats = [ask(inputs) for inputs in parts.judged]

    def judge() -> float:
        model.eval()
        return divergence([run_eager(model)(inputs) for inputs in parts.judged], floats)

    def batches(epoch: int) -> Iterator[Batch]:
        return distillation_batches(parts.fitted, ask, seed, epoch, BATCH)

    return batches, judge
