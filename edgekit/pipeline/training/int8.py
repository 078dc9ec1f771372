"""Training of a quantized model, with the recipe's labels or from the float model's outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from edgekit.compress.batches import rows_of
from edgekit.compress.divergence import compare_outputs
from edgekit.compress.pruning.sparsity import zero_resetter
from edgekit.compress.quantization.simulate import Outputs, Simulation, everywhere
from edgekit.compress.training.distill import BATCH, distance, distillation_batches
from edgekit.compress.training.loop import Batch, Job, train
from edgekit.errors import TrainingError
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.predict import run_eager
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.training.checkpoint import Checkpoint, Scores, keep_weights, load_weights
from edgekit.pipeline.training.labelled_data import by_training
from edgekit.pipeline.training.teacher import beside_labels, teacher_of
from edgekit.plan import Objective, Plan, Training
from edgekit.search.repairs import float_outputs, split
from edgekit.values import Effort

TRAINING_STEPS: dict[Effort, int] = {"quick": 100, "normal": 400, "thorough": 2000}
# An int8 model needs small changes, a pruned one larger ones, and a student may start untrained.
# Calibration inputs are few and soon overfitted, and a refitted model is easily spoiled.
RATE, RECOVERY_RATE, STUDENT_RATE, UNLABELLED_RATE = 3e-3, 2e-2, 6e-2, 1e-3
DISTILLATION = Training(objective="float_model", steps=150, learning_rate=1e-3)


def quantization_aware(effort: Effort, distill: bool) -> Training:
    objective: Objective = "both" if distill else "labels"
    return Training(objective=objective, steps=TRAINING_STEPS[effort], learning_rate=RATE)


def train_simulation(
    subject: Subject,
    context: BuildContext,
    plan: Plan,
    simulation: Simulation,
    limit_s: float | None = None,
) -> tuple[Training, Scores]:
    """Give the simulation the weights of ``plan.train``, from the cache or by training now.

    The returned training has ``stop``, the step of these weights. Raises TrainingError,
    RecipeError.
    """
    assert plan.train is not None
    weights = {
        name: tensor
        for name, tensor in simulation.graph.named_parameters()
        if tensor.is_floating_point()
    }
    if not weights:
        raise TrainingError("this model has no weights to train")
    key = context.fingerprint.key(context.runtime, plan)
    cached = load_weights(key, weights) if limit_s is None or plan.train.stop is not None else None
    if cached is not None:
        return cached
    job = _job(subject, context, plan, simulation, weights)
    if plan.sparsity is not None:
        matrices = {name: weight for name, weight in weights.items() if weight.dim() > 1}
        job = replace(job, after_step=zero_resetter(matrices))
    checkpoint = Checkpoint(key, limit_s)
    with simulation.rounding(everywhere):
        result = train(job, plan.train, plan.seed, checkpoint, context.progress, limit_s)
    done = plan.train.replaced(steps=result.steps, stop=result.stop)
    # a plan without ``stop`` stands for a complete training, not an interrupted or limited one
    if limit_s is None and not result.interrupted:
        keep_weights(key, weights, done, result.scores)
    done_key = context.fingerprint.key(context.runtime, plan.replaced(train=done))
    keep_weights(done_key, weights, done, result.scores)
    if not result.interrupted:
        checkpoint.remove()
    return done, result.scores


def _job(
    subject: Subject,
    context: BuildContext,
    plan: Plan,
    simulation: Simulation,
    weights: Mapping[str, torch.Tensor],
) -> Job:
    assert plan.train is not None
    simulation.batches(subject.calibration)
    if plan.train.objective != "float_model":
        return _labels(subject, context, plan.train, simulation, weights)
    return _distillation(subject, context, plan, simulation, weights)


def _labels(
    subject: Subject,
    context: BuildContext,
    training: Training,
    simulation: Simulation,
    weights: Mapping[str, torch.Tensor],
) -> Job:
    rows = rows_of(subject.example)
    ask = run_eager(teacher_of(subject)) if training.objective == "both" else None

    def labelled(outputs: Outputs, batch: Batch) -> torch.Tensor:
        return subject.recipe.loss(subject.structure.rebuild(outputs), batch[1])

    def loss(batch: Batch, _share: float) -> torch.Tensor:
        outputs = simulation.forward(batch[0], rows)
        if ask is None:
            return labelled(outputs, batch)
        by_classes = subject.fidelity.by_classes
        taught = distance(outputs, ask(batch[0]), by_classes, training.temperature)
        return beside_labels(labelled(outputs, batch), taught)

    def judged(batch: Batch) -> torch.Tensor:
        return labelled(simulation.forward(batch[0], rows), batch)

    batches, judge = by_training(subject, context, judged)
    return Job(
        title="quantization-aware training",
        weights=weights,
        batches=batches,
        loss=loss,
        judge=judge,
    )


def _distillation(
    subject: Subject,
    context: BuildContext,
    plan: Plan,
    simulation: Simulation,
    weights: Mapping[str, torch.Tensor],
) -> Job:
    rows, parts = rows_of(subject.example), split(subject.calibration)
    # with the roundings off, a plan without float or dynamic layers computes the float model
    exact = plan.replaced(linear="static", float_layers=())
    teacher = Simulation(
        context.pt2e.prepare(subject.model, subject.example, exact, subject.calibration)
    )
    size = BATCH if teacher.batches(subject.calibration) else 1
    floats = float_outputs(teacher, parts.judged)

    def judge() -> float:
        return compare_outputs(subject.fidelity, simulation.run(parts.judged), floats).divergence

    def loss(batch: Batch, _share: float) -> torch.Tensor:
        with torch.no_grad():
            target = teacher.forward(batch[0], rows)
        outputs = simulation.forward(batch[0], rows)
        return distance(outputs, target, subject.fidelity.by_classes)

    return Job(
        title="distilling from the float model",
        weights=weights,
        batches=lambda epoch: distillation_batches(parts.fitted, plan.seed, epoch, size),
        loss=loss,
        judge=judge,
    )
