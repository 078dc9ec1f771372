"""Equalization of a float model, for runtimes that quantize after conversion (equalize.py)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule

from edgekit.compress.copying import copy_of
from edgekit.compress.quantization.equalize import equalize
from edgekit.compress.quantization.observe import observe
from edgekit.compress.quantization.simulate import Simulation
from edgekit.recipe.tensors import Inputs


class _Watched(torch.nn.Module):
    """A point where a value is observed, with what a simulation reads of an observer."""

    quant_min, quant_max = -128, 127
    qscheme = torch.per_tensor_affine
    ch_axis = None

    def calculate_qparams(self) -> None: ...

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return value


def equalized(
    model: torch.nn.Module, exported: ExportedProgram, data: Sequence[Inputs], share: float
) -> torch.nn.Module:
    """A copy of ``model`` whose channels have similar ranges; ``model`` itself if none can.

    ``exported``: the model's. ``share``: as in equalize(). Raises RecipeError: a value is NaN or
    infinite.
    """
    graph = exported.module()
    assert isinstance(graph, GraphModule)
    _watch(graph)
    simulation = Simulation(graph)
    if not equalize(simulation, observe(simulation, data), share):
        return model
    scaled = dict(simulation.graph.named_parameters()) | dict(simulation.graph.named_buffers())
    result = copy_of(model)
    with torch.no_grad():
        for name, tensor in (*result.named_parameters(), *result.named_buffers()):
            if name in scaled:
                tensor.copy_(scaled[name])
    return result


def _watch(graph: GraphModule) -> None:
    """Observe the result of every operator, a tensor with channels."""
    for number, node in enumerate(list(graph.graph.nodes)):
        value = node.meta.get("val")
        is_float = isinstance(value, torch.Tensor) and value.dtype.is_floating_point
        if node.op != "call_function" or not is_float or value.dim() < 2:
            continue
        name = f"watched_{number}"
        graph.add_submodule(name, _Watched())
        with graph.graph.inserting_after(node):
            point = graph.graph.call_module(name, (node,))
        point.meta["val"] = value
        node.replace_all_uses_with(point, lambda user, point=point: user is not point)
    graph.recompile()
