"""A plan that was written before: is it for this model? Asked before anything long runs."""

from __future__ import annotations

from difflib import get_close_matches

import torch

from edgekit.errors import SettingError
from edgekit.pipeline.subject import Subject
from edgekit.pipeline.training import check_training
from edgekit.plan import Plan


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
    if plan.train is not None and plan.train.objective == "labels":
        check_training(subject)
    return plan.model_copy(update={"structure": own})


def layer_names(model: torch.nn.Module) -> list[str]:
    """The names of the model's modules; of a program exported elsewhere, those that it tells."""
    found = {name for name, _ in model.named_modules() if name}
    if isinstance(model, torch.fx.GraphModule):
        for node in model.graph.nodes:
            stack = node.meta.get("nn_module_stack") or {}
            found |= {str(value[0]) for value in stack.values() if value[0]}
    return sorted(found)
