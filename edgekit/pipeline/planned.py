"""A plan that was written before: is it for this model? Asked before anything long runs."""

from __future__ import annotations

from difflib import get_close_matches

import torch

from edgekit.errors import SettingError
from edgekit.pipeline.recovery import teacher_of
from edgekit.pipeline.subject import Subject
from edgekit.pipeline.training import (
    DISTILLATION,
    RECOVERY_RATE,
    TRAINING_STEPS,
    check_training,
    quantization_aware,
)
from edgekit.plan import Objective, Options, Plan, Prune, Training
from edgekit.progress import Progress


def for_subject(plan: Plan, subject: Subject) -> Plan:
    """The plan, with the model's own structure written into it.

    Raises SettingError: it is of a model of another structure, or names a layer that is not there;
    RecipeError: it trains, and the recipe's training() cannot.
    """
    own = subject.structure_digest
    if plan.structure not in (None, own):
        raise SettingError(
            f"the plan is for another model than {subject.recipe.path}: the layers, or the shapes "
            "of their weights, are others",
            'build without --plan, or remove "structure" from the plan to use it all the same',
        )
    known = layer_names(subject.model)
    for layer in plan.float_layers:
        if layer not in known:
            near = get_close_matches(layer, known, n=1, cutoff=0.0)
            raise SettingError(
                f"the plan keeps the layer '{layer}' float, but the model has none of that name",
                f"did you mean '{near[0]}'?" if near else None,
            )
    if plan.is_quantized and not subject.calibration:
        raise SettingError(
            f"the plan is {plan.precision}, which needs calibration data, and "
            f"{subject.recipe.path.name} has none",
            "give typical inputs with --calibration FILE.npz",
        )
    trainings = [one for one in (plan.recover, plan.train) if one is not None]
    if any(one.objective != "float_model" for one in trainings):
        check_training(subject)
    return plan.model_copy(update={"structure": own})


def base_plan(subject: Subject, options: Options, progress: Progress) -> Plan:
    """What flags do to the model before it is quantized. Raises RecipeError: its training() does
    not work.
    """
    recipe = subject.recipe
    plan = Plan(precision="fp32", seed=options.seed, structure=subject.structure_digest)
    if options.prune is not None:
        plan = plan.model_copy(update={"prune": Prune(ratio=options.prune)})
    elif not (options.distill and recipe.has("teacher")):
        return plan
    objective: Objective = "float_model"
    if recipe.has("training"):
        check_training(subject)
        objective = "both" if options.distill else "labels"
    elif not subject.calibration:
        progress.note("no training() and no calibration(): what is pruned cannot be recovered")
        return plan
    if objective != "labels":
        teacher_of(subject)
    steps = TRAINING_STEPS[options.effort]
    training = Training(objective=objective, steps=steps, learning_rate=RECOVERY_RATE)
    return plan.model_copy(update={"recover": training})


def int8_training(subject: Subject, options: Options) -> Training | None:
    """What flags train in int8: --qat with labels, --distill towards the float model, where that
    is not done before. Raises RecipeError.
    """
    recipe = subject.recipe
    if options.qat:
        check_training(subject)
        return quantization_aware(options.effort)
    if not options.distill or options.prune is not None or recipe.has("teacher"):
        return None
    steps = TRAINING_STEPS[options.effort]
    return Training(objective="float_model", steps=steps, learning_rate=DISTILLATION.learning_rate)


def layer_names(model: torch.nn.Module) -> list[str]:
    """The names of the model's modules; of a program exported elsewhere, those that it tells."""
    found = {name for name, _ in model.named_modules() if name}
    if isinstance(model, torch.fx.GraphModule):
        for node in model.graph.nodes:
            stack = node.meta.get("nn_module_stack") or {}
            found |= {str(value[0]) for value in stack.values() if value[0]}
    return sorted(found)
