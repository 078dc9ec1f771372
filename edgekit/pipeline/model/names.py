"""The names of a model's layers and operators, as plans and constraints use them."""

from __future__ import annotations

from typing import Any

import torch

from edgekit.compress.graph import operator_names
from edgekit.pipeline.model.subject import Subject
from edgekit.runtimes.export import export
from edgekit.runtimes.quiet import quiet


def layer_names(model: torch.nn.Module) -> list[str]:
    """The names of the model's modules; of an exported program, those in its graph."""
    names = {name for name, _ in model.named_modules() if name}
    if isinstance(model, torch.fx.GraphModule):
        for node in model.graph.nodes:
            stack = node.meta.get("nn_module_stack") or {}
            names |= {str(value[0]) for value in stack.values() if value[0]}
    return sorted(names)


def names_of_operators(subject: Subject) -> list[str]:
    """The operators of the graph that is quantized: ``head:cat``."""
    with quiet():
        graph: Any = export(subject.model, subject.example).module()
    return operator_names(graph.graph)
