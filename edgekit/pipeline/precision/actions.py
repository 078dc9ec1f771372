"""The operations of the ladder: build, search, train and compare. They make no choices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edgekit.documents.verdict import Blame
from edgekit.errors import RecipeError, RuntimeFailure
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.predict import to_bytes
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.precision.built_repairs import best_built
from edgekit.pipeline.precision.candidate import Candidate, make
from edgekit.pipeline.precision.lower import lower
from edgekit.pipeline.precision.payoff import Payoff, compare, is_larger
from edgekit.pipeline.precision.quantize import trained
from edgekit.pipeline.precision.searches import CachedSearches
from edgekit.pipeline.training.checkpoint import Scores
from edgekit.plan import Plan, Precision
from edgekit.search.float_layers import FloatLayers
from edgekit.search.float_operators import FloatOperators
from edgekit.search.repairs import RepairSearchResult
from edgekit.values import Effort


class Searches(Protocol):
    """The searches for one plan. Each runs on first use."""

    @property
    def repairs(self) -> RepairSearchResult: ...

    @property
    def blame(self) -> tuple[Blame, ...]: ...

    @property
    def float_layers(self) -> FloatLayers: ...

    @property
    def float_operators(self) -> FloatOperators: ...


class Actions(Protocol):
    """The operations that the ladder uses.

    ``base``: the changes made to the model before. ``can_search``: int8 can be simulated, searched
    and trained (Runtime.pt2e). ``can_repair``: the runtime applies repairs. ``by_points``: losses
    are in points, from evaluate() or of classes. ``may_mix_inputs``: training may draw inputs in
    any order.
    """

    @property
    def base(self) -> Plan: ...

    @property
    def can_search(self) -> bool: ...

    @property
    def can_repair(self) -> bool: ...

    @property
    def has_calibration(self) -> bool: ...

    @property
    def by_points(self) -> bool: ...

    @property
    def may_mix_inputs(self) -> bool: ...

    def note(self, text: str) -> None: ...

    def make(self, plan: Plan) -> Candidate:
        """Build and judge a plan.

        Raises RuntimeFailure, ParityError, ExportError (no precision would build).
        """
        ...

    def searches(self, plain: Plan, build_s: float) -> Searches:
        """``build_s``: the build time of plain int8, in seconds."""
        ...

    def built_repairs(self, plain: Plan, build_s: float) -> Plan:
        """The best of some plans with repairs, each built and run; without ``can_search``.
        ``build_s``: the build time of plain int8, in seconds.
        """
        ...

    def train(self, plan: Plan, limit_s: float | None) -> tuple[Plan, Scores]:
        """Train int8. Return the plan of the trained weights, and the held-out losses.

        Raises TrainingError.
        """
        ...

    def payoff(self, candidate: Candidate) -> Payoff:
        """Compare size and latency of ``candidate`` with those of fp32."""
        ...

    def priced(self, blame: tuple[Blame, ...]) -> tuple[Blame, ...]:
        """The rows with the extra latency of each float layer, if a device can measure it."""
        ...

    def no_calibration(self) -> RecipeError: ...


@dataclass(frozen=True)
class BuildActions:
    """The operations for one subject, with the real runtime, and the device if one is named."""

    subject: Subject
    context: BuildContext
    base: Plan
    effort: Effort

    @property
    def can_search(self) -> bool:
        return self.context.runtime.pt2e is not None

    @property
    def can_repair(self) -> bool:
        return bool(self.context.runtime.repairs)

    @property
    def has_calibration(self) -> bool:
        return bool(self.subject.calibration)

    @property
    def by_points(self) -> bool:
        return self.subject.recipe.has("evaluate") or "classes" in self.subject.fidelity.kinds

    @property
    def may_mix_inputs(self) -> bool:
        """False for a model with states: states of different steps would be mixed."""
        return not self.subject.states

    def note(self, text: str) -> None:
        self.context.progress.note(text)

    def make(self, plan: Plan) -> Candidate:
        return make(self.subject, self.context, plan)

    def searches(self, plain: Plan, build_s: float) -> Searches:
        return CachedSearches(self.subject, self.context, plain, self.effort, build_s)

    def built_repairs(self, plain: Plan, build_s: float) -> Plan:
        return best_built(self.subject, self.context, plain, self.effort, build_s)

    def train(self, plan: Plan, limit_s: float | None) -> tuple[Plan, Scores]:
        return trained(self.subject, self.context, plan, limit_s)

    def payoff(self, candidate: Candidate) -> Payoff:
        device, artifact = self.context.device, candidate.artifact
        weights = sum(p.numel() * p.element_size() for p in self.subject.model.parameters())
        if device is None and len(artifact.data) < weights:
            return Payoff()
        try:
            floating = lower(self.subject, self.context, self._plain("fp32")).artifact
        except RuntimeFailure as failure:
            return Payoff(why_not=f"not compared with fp32: {failure.message}")
        if device is None:
            return Payoff(is_larger(len(artifact.data), len(floating.data)))
        return compare(device, artifact, floating, self._example_bytes, self.context.progress)

    def priced(self, blame: tuple[Blame, ...]) -> tuple[Blame, ...]:
        device, progress = self.context.device, self.context.progress
        if device is None or not any(row.fix == "float" for row in blame):
            return blame
        pair = [self._plain("int8"), self._plain("fp32")]
        try:
            int8, floating = (lower(self.subject, self.context, plan).artifact for plan in pair)
        except RuntimeFailure as failure:
            progress.note(f"latency of float layers unknown: {failure.message}")
            return blame
        prices = device.layer_costs_ms(int8, floating, self._example_bytes, progress)
        return tuple(
            row.replaced(cost_latency_ms=prices.get(row.layer)) if row.fix == "float" else row
            for row in blame
        )

    def no_calibration(self) -> RecipeError:
        return RecipeError(
            f"{self.subject.recipe.path} has no calibration(), which static int8 needs",
            "give typical inputs with --calibration FILE.npz, add calibration() to the recipe "
            "(edgekit init shows one), or build with --precision fp32",
        )

    def _plain(self, precision: Precision) -> Plan:
        return self.base.in_precision(precision)

    @property
    def _example_bytes(self) -> list[bytes]:
        return [to_bytes(tensor) for tensor in self.subject.example]
