"""Training a quantized model: the recipe's data or the float model's outputs, kept weights."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from edgekit.cache import load_stage, stage_draft, store_stage, write_whole
from edgekit.compress.batches import rows_of
from edgekit.compress.distill import BATCH, distance, distillation_batches
from edgekit.compress.divergence import compared
from edgekit.compress.held_out import hold_out
from edgekit.compress.simulate import Outputs, Simulation, everywhere
from edgekit.compress.sparsity import keeping_zeros
from edgekit.compress.train import Batch, Job, State, train
from edgekit.errors import RecipeError, TrainingError
from edgekit.pipeline.kept import Tools
from edgekit.pipeline.predict import batched, run_eager
from edgekit.pipeline.subject import Subject
from edgekit.pipeline.teacher import beside_labels, teacher_of
from edgekit.plan import Effort, Objective, Plan, Training
from edgekit.recipe import Inputs
from edgekit.search.repairs import float_outputs, split

WEIGHTS, FOUND = "weights.safetensors", "found.json"
CHECKPOINT = "checkpoint.safetensors"
KIND = "trained"
Batches = Callable[[int], Iterator[Batch]]
Scores = tuple[tuple[int, float], ...]
TRAINING_STEPS: dict[Effort, int] = {"quick": 100, "normal": 400, "thorough": 2000}
# So long targets are looked at, before anything else is done.
CHECKED_S = 5.0
# Int8 is near where it should be; what was pruned is not, and a student may come from nowhere. The
# few inputs that have no labels are soon learned by heart.
RATE, RECOVERY_RATE, STUDENT_RATE, UNLABELLED_RATE = 3e-3, 2e-2, 6e-2, 3e-3
DISTILLATION = Training(objective="float_model", steps=150, learning_rate=1e-3)


def quantization_aware(effort: Effort, distill: bool) -> Training:
    objective: Objective = "both" if distill else "labels"
    return Training(objective=objective, steps=TRAINING_STEPS[effort], learning_rate=RATE)


def check_training(subject: Subject) -> None:
    """That the recipe's training() and loss() work with its model, before anything long runs.

    Raises RecipeError.
    """
    recipe = subject.recipe
    if not recipe.has("training"):
        raise RecipeError(
            f"{recipe.path} has no training(), which training by labels needs",
            "add training() (edgekit init shows one), or train without labels, or not at all",
        )
    inputs, target = _first_batch(subject)
    flat = batched(run_eager(subject.model), subject.example, subject.structure)(inputs)
    leaves = [t.detach().requires_grad_() if t.is_floating_point() else t for t in flat]
    loss = recipe.loss(subject.structure.rebuild(leaves), target)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise RecipeError(f"{recipe.path}: the loss of the first training batch is {value}")
    if not loss.requires_grad:
        raise RecipeError(
            f"{recipe.path}: the loss does not depend on the model's outputs by a gradient",
            "compute it from them in torch, without argmax, item() or no_grad()",
        )
    _check_targets(subject, inputs, leaves)


def _check_targets(subject: Subject, first: Inputs, outputs: Outputs) -> None:
    """That the loss takes the targets to come, as far as they can be had in CHECKED_S: of outputs
    that are there already. Whether it is finite is not asked: all targets may be ignored.
    """
    recipe, shapes = subject.recipe, [tensor.shape for tensor in first]
    until = time.monotonic() + CHECKED_S
    for index, (inputs, target) in enumerate(subject.training(0)):
        if [tensor.shape for tensor in inputs] == shapes:
            try:
                recipe.loss(subject.structure.rebuild(outputs), target)
            except RecipeError as error:
                raise RecipeError(f"{error.message} (batch {index})", error.hint) from error
        if time.monotonic() > until:
            return


def train_simulation(
    subject: Subject, tools: Tools, plan: Plan, simulation: Simulation, limit_s: float | None = None
) -> tuple[Training, Scores]:
    """Give the simulation the weights of ``plan.train``: those kept, or trained now. The training
    that is given back has ``stop``, the step that they are of.

    Raises TrainingError, RecipeError.
    """
    assert plan.train is not None
    weights = {
        name: tensor
        for name, tensor in simulation.graph.named_parameters()
        if tensor.is_floating_point()
    }
    if not weights:
        raise TrainingError("this model has no weights to train")
    key = tools.fingerprint.key(tools.runtime, plan)
    kept = _load(key, weights) if limit_s is None or plan.train.stop is not None else None
    if kept is not None:
        return kept
    job = _job(subject, tools, plan, simulation, weights)
    if plan.sparsity is not None:
        matrices = {name: weight for name, weight in weights.items() if weight.dim() > 1}
        job = replace(job, after_step=keeping_zeros(matrices))
    checkpoint = Checkpoint(key, limit_s)
    with simulation.rounding(everywhere):
        result = train(job, plan.train, plan.seed, checkpoint, tools.progress, limit_s)
    done = plan.train.model_copy(update={"steps": result.steps, "stop": result.stop})
    # what was cut short is not what the plan leads to that says nothing of it
    if limit_s is None and not result.interrupted:
        _keep(key, weights, done, result.scores)
    again = plan.model_copy(update={"train": done})
    _keep(tools.fingerprint.key(tools.runtime, again), weights, done, result.scores)
    if not result.interrupted:
        checkpoint.remove()
    return done, result.scores


class Checkpoint:
    """A training's state in the cache, until it is done. Without a key nothing is kept."""

    def __init__(self, key: str | None, limit_s: float | None = None) -> None:
        self._path = None
        if key is not None:
            name = key if limit_s is None else f"{key}-{limit_s:g}s"
            self._path = stage_draft(KIND, name) / CHECKPOINT

    def load(self) -> State | None:
        if self._path is None or not self._path.exists():
            return None
        try:
            with safe_open(self._path, "pt") as file:
                told = json.loads(file.metadata()["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except Exception:  # damaged: it begins anew
            return None
        scores = tuple((int(step), float(score)) for step, score in told["scores"])
        return State(tensors, told["steps"], told["step"], told["best_step"], scores)

    def save(self, state: State) -> None:
        if self._path is None:
            return
        told = {
            "steps": state.steps,
            "step": state.step,
            "best_step": state.best_step,
            "scores": state.scores,
        }
        tensors = {name: tensor.contiguous() for name, tensor in state.tensors.items()}
        with suppress(OSError):  # a full disk, a folder that cannot be written: it goes on
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, save(tensors, {"state": json.dumps(told)}))

    def remove(self) -> None:
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


def _job(
    subject: Subject,
    tools: Tools,
    plan: Plan,
    simulation: Simulation,
    weights: Mapping[str, torch.Tensor],
) -> Job:
    assert plan.train is not None
    simulation.batches(subject.calibration)
    if plan.train.objective != "float_model":
        return _labels(subject, tools, plan.train, simulation, weights)
    return _distillation(subject, tools, plan, simulation, weights)


def _labels(
    subject: Subject,
    tools: Tools,
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

    batches, judge = by_training(subject, tools, judged)
    return Job(
        title="quantization-aware training",
        weights=weights,
        batches=batches,
        loss=loss,
        judge=judge,
    )


def by_training(
    subject: Subject, tools: Tools, loss: Callable[[Batch], torch.Tensor]
) -> tuple[Batches, Callable[[], float] | None]:
    """The recipe's training() by epoch, and the mean of ``loss`` on what is kept apart of it."""
    rows = rows_of(subject.example)
    with tools.progress.stage("keeping training data apart"):
        apart = hold_out(subject.training(0), rows)
    if not apart.batches:
        tools.progress.note("no training data could be kept apart: the last step is taken")

    def batches(epoch: int) -> Iterator[Batch]:
        return apart.without(subject.training(epoch), rows)

    return batches, partial(apart.mean, loss, rows) if apart.batches else None


def _distillation(
    subject: Subject,
    tools: Tools,
    plan: Plan,
    simulation: Simulation,
    weights: Mapping[str, torch.Tensor],
) -> Job:
    rows, parts = rows_of(subject.example), split(subject.calibration)
    # its roundings are off, and every layer is as the recipe has it
    exact = plan.model_copy(update={"linear": "static", "float_layers": ()})
    teacher = Simulation(
        tools.runtime.prepare(subject.model, subject.example, exact, subject.calibration)
    )
    size = BATCH if teacher.batches(subject.calibration) else 1
    floats = float_outputs(teacher, parts.judged)

    def judge() -> float:
        return compared(subject.fidelity, simulation.run(parts.judged), floats).divergence

    def loss(batch: Batch, _share: float) -> torch.Tensor:
        with torch.no_grad():
            wanted = teacher.forward(batch[0], rows)
        outputs = simulation.forward(batch[0], rows)
        return distance(outputs, wanted, subject.fidelity.by_classes)

    return Job(
        title="distilling from the float model",
        weights=weights,
        batches=lambda epoch: distillation_batches(parts.fitted, plan.seed, epoch, size),
        loss=loss,
        judge=judge,
    )


def _first_batch(subject: Subject) -> Batch:
    batch = next(subject.training(0), None)
    if batch is None:
        raise RecipeError(
            f"{subject.recipe.path}: training() yielded nothing",
            "yield batches of (inputs, target), inputs shaped like example_inputs()",
        )
    return batch


def _load(key: str | None, weights: Mapping[str, torch.Tensor]) -> tuple[Training, Scores] | None:
    folder = load_stage(KIND, key) if key is not None else None
    if folder is None:
        return None
    try:
        tensors = load_file(folder / WEIGHTS)
        training, scores = json.loads((folder / FOUND).read_bytes())
    except Exception:  # cleared meanwhile by another process, or not readable
        return None
    with torch.no_grad():
        for name, tensor in tensors.items():
            weights[name].copy_(tensor)
    found = tuple((int(step), float(score)) for step, score in scores)
    return Training.model_validate(training), found


def _keep(
    key: str | None, weights: Mapping[str, torch.Tensor], done: Training, scores: Scores
) -> None:
    def fill(draft: Path) -> None:
        save_file({n: w.detach().contiguous() for n, w in weights.items()}, draft / WEIGHTS)
        (draft / FOUND).write_text(json.dumps([done.model_dump(), scores]))

    if key is not None:
        store_stage(KIND, key, fill)
