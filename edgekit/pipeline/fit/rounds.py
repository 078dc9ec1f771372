"""The search: solve, build the best, measure its true loss and cost, correct, solve again.

Nothing is lowered inside the solver's loop. Losses of single choices are added up; the true loss of
a combination corrects those of its input size. Costs come from a table; those of the one artifact
that each round builds correct them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from edgekit.budget import BudgetName
from edgekit.compress.pruning.channel_choice import macs_of, prune
from edgekit.compress.pruning.importance import by_size
from edgekit.cost.shapes import OperatorTimes
from edgekit.cost.table import CostTable, channel_steps
from edgekit.documents.search import BoundConstraint, SearchPoint
from edgekit.documents.verdict import Relaxation
from edgekit.errors import RuntimeFailure, SettingError
from edgekit.pipeline.fit.channels import coupled
from edgekit.pipeline.fit.costs import LATENCY, WEIGHTS, Basis, memory_bounds, space_of
from edgekit.pipeline.fit.goals import Goals
from edgekit.pipeline.fit.losses import Losses, TrueLoss, measure_losses
from edgekit.pipeline.fit.meter import Meter
from edgekit.pipeline.fit.relax import relaxations
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.predict import run_eager
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.shrink.shrink import smaller
from edgekit.plan import DropBlocks, Plan, Prune, Resize
from edgekit.recipe.image_size import Size, resizing_to
from edgekit.search.constraints import NO_CONSTRAINTS, Constraints
from edgekit.search.solver import solve
from edgekit.search.space import Bound, Choice, Space, at_most
from edgekit.values import Effort

# How many artifacts a search builds at most, and how many models it tries in torch for each.
ROUNDS: dict[Effort, int] = {"quick": 0, "normal": 3, "thorough": 8}
TRIED = 3
# Shares of the multiply-accumulates that are left in the programs that fill the table of costs.
TABLE_SHARES = (0.75, 0.5, 0.25)
# Aim a little below a limit: the last digits of a prediction are no reason for another round.
AIM = 0.985


@dataclass(frozen=True)
class Proposal:
    """A choice at one input size, with the model that it gives. ``loss``: its true loss. ``place``:
    of its point in the record.
    """

    size: Size | None
    choice: Choice
    plan: Plan
    subject: Subject
    loss: float
    place: int


@dataclass(frozen=True)
class SearchResult:
    """``best``: None if nothing fits the goals as far as the costs are known. ``bound``: the
    constraints that took choices away.
    """

    best: Proposal | None
    points: tuple[SearchPoint, ...]
    end: str
    relaxations: tuple[Relaxation, ...] = ()
    bound: tuple[BoundConstraint, ...] = ()


@dataclass
class Search:
    """``quantized``: the precision of the artifacts that are built for their costs."""

    subject: Subject
    context: BuildContext
    meter: Meter
    goals: Goals
    quantized: Plan
    effort: Effort
    constraints: Constraints = NO_CONSTRAINTS
    points: list[SearchPoint] = field(default_factory=list)
    tried: dict[Size | None, list[Choice]] = field(default_factory=dict)
    loss_factors: dict[Size | None, float] = field(default_factory=dict)
    latency_factor: float = 1.0
    memory_shift_mb: float = 0.0
    best: Proposal | None = None

    def run(self, limits: Mapping[BudgetName, float]) -> SearchResult:
        """``limits``: those of the budgets, for relaxations."""
        self.true_loss = TrueLoss(self.subject)
        losses = measure_losses(self.subject, self.context, self.true_loss, self.constraints)
        self.bound = losses.bound
        if not losses.can_remove:
            why = ": constraints keep all of it" if losses.bound else ""
            return self._result(f"nothing can be removed from this model{why}")
        self.basis = self._basis(losses)
        self.spaces = {
            size: space_of(self.basis, losses, size, self._pixels(size)) for size in losses.sizes
        }
        for _ in range(ROUNDS[self.effort]):
            if not self._round():
                break
        if self.best is None:
            result = self._result("nothing that was tried meets all budgets")
            return replace(result, relaxations=relaxations(self.goals, limits, self._is_feasible))
        return self._result("the budgets are met before training")

    def _result(self, end: str) -> SearchResult:
        if self.best is not None:
            place = self.best.place
            self.points[place] = self.points[place].replaced(kept=True)
        return SearchResult(self.best, tuple(self.points), end, bound=self.bound)

    def _pixels(self, size: Size | None) -> float:
        if size is None:
            return 1.0
        return resizing_to(size, self.subject.example).share

    def _round(self) -> bool:
        """Try the most promising choices, and build the best. False: there is nothing better."""
        proposals = self._proposals()
        if not proposals:
            return False
        best = min(proposals, key=lambda one: one.loss)
        if self.best is not None and best.loss >= self.best.loss:
            return False
        self._build(best)
        return True

    def _proposals(self) -> list[Proposal]:
        """The best choice at each input size by the corrected sums, then their true losses."""
        found = []
        for size, space in self.spaces.items():
            choice = self._solve(size, space)
            if choice is not None:
                loss = space.loss_of(choice) * self.loss_factors.get(size, 1.0)
                found.append((loss, size, choice))
        found.sort(key=lambda row: row[0])
        tried = [self._try(size, choice) for _, size, choice in found[:TRIED]]
        return [one for one in tried if one is not None]

    def _is_feasible(self, goals: Goals) -> bool:
        return any(
            solve(space, self._bounds(size, space, goals)) is not None
            for size, space in self.spaces.items()
        )

    def _solve(self, size: Size | None, space: Space) -> Choice | None:
        with self.context.progress.stage("solving"):
            return solve(
                space, self._bounds(size, space, self.goals), other_than=self.tried.get(size, ())
            )

    def _bounds(self, size: Size | None, space: Space, goals: Goals) -> tuple[Bound, ...]:
        bounds = list[Bound]()
        if goals.latency_ms is not None and self.basis.table is not None:
            bounds += at_most(**{LATENCY: AIM * goals.latency_ms / self.latency_factor})
        if goals.size_mb is not None:
            too_much_mb = goals.base_size_mb - goals.size_mb
            bounds += at_most(**{WEIGHTS: self.basis.weights_mb - too_much_mb})
        if goals.peak_memory_mb is not None:
            limit_mb = goals.peak_memory_mb - self.memory_shift_mb
            base_mb = goals.base_memory_mb
            bounds += memory_bounds(self.basis, space, self._pixels(size), limit_mb, base_mb)
        return tuple(bounds)

    def _try(self, size: Size | None, choice: Choice) -> Proposal | None:
        """Build the model in torch and compare its outputs with the original's."""
        self.tried.setdefault(size, []).append(choice)
        plan = self._plan(size, choice)
        try:
            small = (
                smaller(self.subject, self.context, plan)
                if plan.changes_the_model
                else self.subject
            )
        except (RuntimeFailure, SettingError) as error:
            self.context.progress.note(f"not tried: {error.message}")
            return None
        loss = self.true_loss.of(small)
        expected = self.spaces[size].loss_of(choice)
        if expected > 0:
            self.loss_factors[size] = loss / expected
        whole = macs_of(self.subject.model, self.subject.example)
        point = SearchPoint(
            input_size=size,
            dropped=tuple(sorted(choice.dropped)),
            macs=round(macs_of(small.model, small.example) / whole, 4),
            loss=round(loss, 5),
            why="another choice loses less",
        )
        self.points.append(point)
        return Proposal(size, choice, plan, small, loss, len(self.points) - 1)

    def _plan(self, size: Size | None, choice: Choice) -> Plan:
        space = self.spaces[size]
        dropped = tuple(sorted(choice.dropped))
        widths = {
            group.group: choice.widths[group.group]
            for group in space.groups
            if choice.widths[group.group] < max(group.widths)
            and not any(f"{group.group}.".startswith(f"{block}.") for block in dropped)
        }
        return self.quantized.replaced(
            resize=Resize(size=size) if size is not None else None,
            drop_blocks=DropBlocks(blocks=dropped) if dropped else None,
            prune=Prune(widths=widths, importance="l1") if widths else None,
            structure=self.subject.structure_digest,
        )

    def _build(self, proposal: Proposal) -> None:
        """Lower the proposal for its costs, and correct the next round by them."""
        cost = self.meter.cost(proposal.subject, self.quantized)
        expected = self.spaces[proposal.size].cost(LATENCY, proposal.choice)
        if cost.latency is not None and expected > 0:
            self.latency_factor = cost.latency.value / expected
        memory_mb = self.goals.memory_mb(cost)
        misses = self.goals.misses(cost)
        if "peak_memory_mb" in misses and memory_mb is not None and self.goals.peak_memory_mb:
            self.memory_shift_mb += memory_mb - self.goals.peak_memory_mb
        why = (
            f"more than {', '.join(misses)} allow"
            if misses
            else "the least loss within all budgets"
        )
        self.points[proposal.place] = self.points[proposal.place].replaced(
            latency_ms=cost.latency.value if cost.latency else None,
            source=cost.latency.source if cost.latency else None,
            peak_memory_mb=memory_mb,
            size_mb=round(self.goals.bundle_mb(cost), 3),
            why=why,
        )
        if not misses and (self.best is None or proposal.loss < self.best.loss):
            self.best = proposal

    def _basis(self, losses: Losses) -> Basis:
        """The operators of the whole model, and a table from it and some narrower versions."""
        operators = tuple(coupled(self.goals.base.shapes, losses.groups))
        whole = self.goals.base.times
        if whole is None:
            return Basis(operators, None, self.goals.base.memory, 0.0)
        programs = [whole]
        for share in TABLE_SHARES if losses.groups else ():
            times = self._times_at(share)
            if times is not None:
                programs.append(times)
        table = CostTable(tuple(programs), self.goals.base.source, channel_steps(self.meter.target))
        return Basis(operators, table, self.goals.base.memory, max(0.0, whole.rest_ms))

    def _times_at(self, share: float) -> OperatorTimes | None:
        """The operators of a uniformly narrower model, whose outputs do not matter."""
        wanted = Prune(ratio=1 - share, spread="uniform", importance="l1", compensate=False)
        try:
            pruned = prune(self.subject.model, self.subject.example, wanted, by_size(1)).model
        except (RuntimeFailure, SettingError):
            return None
        outputs = run_eager(pruned)(self.subject.example)
        narrower = replace(self.subject, model=pruned, example_outputs=outputs)
        return self.meter.cost(narrower, self.quantized).times
