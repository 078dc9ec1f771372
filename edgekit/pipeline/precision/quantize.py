"""Quantization of a subject by the runtime, with the pipeline's training in int8."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

import torch

from edgekit.compress.quantization.apply_plan import (
    ObservedModel,
    apply_corrections,
    choose_ranges,
    equalize_model,
    observe_model,
)
from edgekit.compress.quantization.simulate import Simulation
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.training.checkpoint import Scores
from edgekit.pipeline.training.int8 import train_simulation
from edgekit.plan import Plan
from edgekit.program import Artifact
from edgekit.progress import Silent
from edgekit.recipe.tensors import Inputs
from edgekit.runtimes.base import FloatModel, Pt2e
from edgekit.runtimes.pt2e import prepare, simulate, simulate_plain
from edgekit.runtimes.quiet import quiet

# The limit for all simulations of one kind, each with its own copy of the weights.
CACHED_BYTES = 400_000_000


def quantized(
    subject: Subject, context: BuildContext, plan: Plan
) -> torch.export.ExportedProgram | Artifact:
    """Quantize by the plan, including its training in int8.

    Raises what Runtime.quantize raises.
    """

    def train(simulation: Simulation) -> None:
        train_simulation(subject, context, plan, simulation)

    hook = train if plan.train is not None else None
    return context.runtime.quantize(subject.float_model, plan, hook, context.progress)


def trained(
    subject: Subject, context: BuildContext, plan: Plan, limit_s: float | None = None
) -> tuple[Plan, Scores]:
    """Train by the plan and cache the weights. Return the plan that reproduces them, and the
    held-out losses.

    Raises what Runtime.quantize raises.
    """
    pt2e, source = context.pt2e, subject.float_model
    with quiet():
        prepared = prepare(pt2e, source, plan, context.progress)
        simulation = simulate(pt2e, prepared, source, plan, context.progress)
        done, scores = train_simulation(subject, context, plan, simulation, limit_s)
        return plan.replaced(train=done), scores


Value = TypeVar("Value")


class LatestUsed(Generic[Value]):
    """A cache of at most ``most`` results by key. The least recently used one is dropped first."""

    def __init__(self, most: int) -> None:
        self._most, self._values = most, OrderedDict[Hashable, Value]()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        if key not in self._values:
            self._values[key] = make()
        self._values.move_to_end(key)
        while len(self._values) > self._most:
            self._values.popitem(last=False)
        return self._values[key]


class Simulator:
    """Simulates plans fitted to ``data``, a part of the data that an artifact is fitted to. A step
    that plans share runs only once.
    """

    def __init__(self, source: FloatModel, pt2e: Pt2e, data: Sequence[Inputs]) -> None:
        self._source, self._pt2e, self._data = source, pt2e, data
        weights = sum(p.numel() * p.element_size() for p in source.model.parameters())
        most = max(2, CACHED_BYTES // max(1, weights))
        self._prepared: LatestUsed[torch.fx.GraphModule] = LatestUsed(most)
        self._observed: LatestUsed[ObservedModel] = LatestUsed(most)
        self._ranged: LatestUsed[Simulation] = LatestUsed(most)
        self._complete: LatestUsed[Simulation] = LatestUsed(most)

    def fitted_to(self, data: Sequence[Inputs]) -> Simulator:
        """A simulator for other data that shares the prepared graphs."""
        other = Simulator(self._source, self._pt2e, data)
        other._prepared = self._prepared
        return other

    def __call__(self, plan: Plan) -> Simulation:
        with quiet():
            return self._complete.get(plan.model_dump_json(), lambda: self._simulation(plan))

    def _simulation(self, plan: Plan) -> Simulation:
        limits, fitted_count = self._pt2e.step_limits, len(self._source.fitted)
        if plan.is_plain:
            prepared = self._prepare(plan)
            return simulate_plain(self._pt2e, prepared, self._data, fitted_count, Silent())
        key = (_structure(plan), plan.equalize, plan.observer)
        bare = self._ranged.get(
            key, lambda: choose_ranges(self._observe(plan), plan.observer, limits, fitted_count)
        )
        return apply_corrections(copy.deepcopy(bare), self._data, plan, limits, Silent())

    def _observe(self, plan: Plan) -> ObservedModel:
        """Shared by plans that differ only in their use of the observed ranges."""

        def observe() -> ObservedModel:
            if plan.equalize is None:
                return observe_model(self._prepare(plan), self._data)
            bare = self._observe(plan.replaced(equalize=None))
            return equalize_model(bare, self._data, plan.equalize)

        return self._observed.get((_structure(plan), plan.equalize), observe)

    def _prepare(self, plan: Plan) -> torch.fx.GraphModule:
        return self._prepared.get(
            _structure(plan), lambda: prepare(self._pt2e, self._source, plan, Silent())
        )


def _structure(plan: Plan) -> tuple[object, ...]:
    """The part of a plan that determines where the prepared graph rounds."""
    return plan.float_layers, plan.per_channel, plan.linear
