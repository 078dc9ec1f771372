"""The search: solve, build, measure their true losses and costs, correct, solve again.

Nothing is lowered inside the solver's loop. Losses of single choices are added up; the true loss of
a combination corrects those of its input size. Costs come from a table; those of the artifacts
that each round builds correct them, for each input size. Losses before training rank different
means wrongly (a block against channels, or against a smaller image), so the best of each kind are
finalists, which a short training compares (finalists.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Literal, NamedTuple

from edgekit.budget import BudgetName
from edgekit.compress.graph import within
from edgekit.cost.table import CostTable, channel_steps
from edgekit.documents.search import BoundConstraint, SearchPoint
from edgekit.documents.verdict import Relaxation
from edgekit.errors import DeviceError, RuntimeFailure, StoreError
from edgekit.pipeline.fit.channels import coupled
from edgekit.pipeline.fit.costs import LATENCY, WEIGHTS, Basis, memory_bounds, space_of
from edgekit.pipeline.fit.evaluator import Evaluator
from edgekit.pipeline.fit.goals import Goals
from edgekit.pipeline.fit.laboratory import TRIED, CostTrial, ModelTrial, NoCost
from edgekit.pipeline.fit.losses import Losses, measure_losses
from edgekit.pipeline.fit.meter import Cost
from edgekit.pipeline.fit.relax import Relaxed, relaxations, values_of
from edgekit.pipeline.model.subject import Subject
from edgekit.plan import DropBlocks, Plan, Prune, Resize
from edgekit.progress import Progress
from edgekit.recipe.image_size import Size, resizing_to
from edgekit.search.constraints import NO_CONSTRAINTS, Constraints
from edgekit.search.solver import solve
from edgekit.search.space import Bound, Choice, Space, at_most
from edgekit.values import Effort

# How many rounds a search has.
ROUNDS: dict[Effort, int] = {"quick": 0, "normal": 3, "thorough": 6}
FINALISTS: dict[Effort, int] = {"quick": 0, "normal": 4, "thorough": 6}
# Shares of the multiply-accumulates that are left in the programs that fill the table of costs.
TABLE_SHARES = (0.75, 0.5, 0.25)
# Aim a little below a limit: the last digits of a prediction are no reason for another round.
AIM = 0.985


class Kind(NamedTuple):
    """An input size, and the means that are used at it."""

    size: Size | None
    means: Literal["all", "channels", "blocks"]


@dataclass(frozen=True)
class Proposal:
    """A choice at one input size, with its plan. ``loss``: its true loss. ``place``: of its point
    in the record.
    """

    kind: Kind
    choice: Choice
    plan: Plan
    loss: float
    place: int


@dataclass(frozen=True)
class SearchResult:
    """``finalists``: proposals that fit the goals, with the least loss of their kind; none if
    nothing fits, as far as the costs are known. ``bound``: the constraints that took choices away.
    """

    finalists: tuple[Proposal, ...]
    points: tuple[SearchPoint, ...]
    end: str
    relaxations: tuple[Relaxation, ...] = ()
    bound: tuple[BoundConstraint, ...] = ()


@dataclass
class Search:
    evaluator: Evaluator
    goals: Goals
    effort: Effort
    constraints: Constraints = NO_CONSTRAINTS
    points: list[SearchPoint] = field(default_factory=list)
    tried: dict[Size | None, list[Choice]] = field(default_factory=dict)
    loss_factors: dict[Size | None, float] = field(default_factory=dict)
    latency_factors: dict[Size | None, float] = field(default_factory=dict)
    memory_shift_mb: float = 0.0
    feasible: list[Proposal] = field(default_factory=list)
    seen: set[Kind] = field(default_factory=set)
    bound: tuple[BoundConstraint, ...] = ()
    basis: Basis = field(init=False)
    spaces: Mapping[Kind, Space] = field(init=False)

    @property
    def subject(self) -> Subject:
        return self.evaluator.subject

    @property
    def progress(self) -> Progress:
        return self.evaluator.meter.context.progress

    def run(self, limits: Mapping[BudgetName, float]) -> SearchResult:
        """``limits``: those of the budgets, for relaxations."""
        losses = measure_losses(self.subject, self.evaluator, self.progress, self.constraints)
        self.bound = losses.bound
        if not losses.can_remove:
            why = ": constraints keep all of it" if losses.bound else ""
            return self._result(f"nothing can be removed from this model{why}")
        self.basis = self._basis(losses)
        self.spaces = {
            kind: space_of(self.basis, part, kind.size, self._pixels(kind.size))
            for kind, part in kinds(losses).items()
        }
        for _ in range(ROUNDS[self.effort]):
            if not self._round():
                break
        if not self.feasible:
            result = self._result("nothing that was tried meets all budgets")
            relaxed = relaxations(self.goals, self._is_feasible)
            found = tuple(self._relaxation(one, limits) for one in relaxed)
            if not self.feasible:
                return replace(result, points=tuple(self.points), relaxations=found)
        return self._result("the budgets are met before training")

    def _result(self, end: str) -> SearchResult:
        best = finalists(self.feasible, FINALISTS[self.effort])
        return SearchResult(best, tuple(self.points), end, bound=self.bound)

    def _pixels(self, size: Size | None) -> float:
        if size is None:
            return 1.0
        return resizing_to(size, self.subject.example).share

    def _round(self) -> bool:
        """Try the most promising choices, and lower them. False: there are none."""
        proposals = self._try(self._choices())
        if proposals:
            self._build(proposals)
        return bool(proposals)

    def _choices(self) -> list[tuple[Kind, Choice]]:
        """The best choices of their kinds by the corrected sums. Channels alone and blocks alone
        are tried once in any case.
        """
        found = []
        for kind, space in self.spaces.items():
            choice = self._solve(kind, space)
            if choice is None:
                continue
            loss = space.loss_of(choice) * self.loss_factors.get(kind.size, 1.0)
            known = [one.loss for one in self.feasible if one.kind == kind]
            if not known or loss < min(known):
                found.append((loss, kind, choice))
        found.sort(key=lambda row: (row[1].means == "all" or row[1] in self.seen, row[0]))
        different: dict[tuple[object, ...], tuple[Kind, Choice]] = {}
        for _, kind, choice in found:
            different.setdefault(id_of(kind.size, choice), (kind, choice))
        return list(different.values())[: TRIED[self.effort]]

    def _is_feasible(self, goals: Goals) -> bool:
        return any(
            solve(space, self._bounds(kind.size, space, goals)) is not None
            for kind, space in self.spaces.items()
            if kind.means == "all"
        )

    def _relaxation(self, relaxed: Relaxed, limits: Mapping[BudgetName, float]) -> Relaxation:
        """With the effort ``thorough``, verified by lowering and timing what would fit."""
        predicted = relaxed.relaxation(self.goals, limits)
        if self.effort != "thorough":
            return predicted
        choices = [
            (space.loss_of(choice), kind, choice)
            for kind, space in self.spaces.items()
            if (choice := solve(space, self._bounds(kind.size, space, relaxed.goals))) is not None
        ]
        _, kind, choice = min(choices, key=lambda row: row[0])
        try:
            costs = self._build(self._try([(kind, choice)]))
        except (RuntimeFailure, StoreError, DeviceError) as error:
            self.progress.note(f"not verified: {error.message}")
            return predicted
        built = values_of(costs[0], self.goals, relaxed.names) if costs else {}
        if len(built) < len(relaxed.names) or set(self.goals.misses(costs[0])) - set(relaxed.names):
            return predicted
        return relaxed.relaxation(self.goals, limits, built)

    def _solve(self, kind: Kind, space: Space) -> Choice | None:
        bounds = self._bounds(kind.size, space, self.goals)
        tried = [one for one in self.tried.get(kind.size, ()) if space.has(one)]
        with self.progress.stage("solving"):
            return solve(space, bounds, other_than=tried)

    def _bounds(self, size: Size | None, space: Space, goals: Goals) -> tuple[Bound, ...]:
        bounds = list[Bound]()
        if goals.latency_ms is not None and self.basis.table is not None:
            known = self.latency_factors
            factor = known.get(size, median(known.values()) if known else 1.0)
            bounds += at_most(**{LATENCY: AIM * goals.latency_ms / factor})
        if goals.size_mb is not None:
            too_much_mb = goals.base_size_mb - goals.size_mb
            bounds += at_most(**{WEIGHTS: self.basis.weights_mb - too_much_mb})
        if goals.peak_memory_mb is not None:
            limit_mb = goals.peak_memory_mb - self.memory_shift_mb
            base_mb = goals.base_memory_mb
            bounds += memory_bounds(self.basis, space, self._pixels(size), limit_mb, base_mb)
        return tuple(bounds)

    def _try(self, choices: Sequence[tuple[Kind, Choice]]) -> list[Proposal]:
        """Build the models in torch and compare their outputs with the original's."""
        trials = [ModelTrial(plan=self._plan(kind, choice)) for kind, choice in choices]
        answers = self.evaluator.losses("trying smaller models", trials)
        proposals = []
        self.seen |= {kind for kind, _ in choices}
        for (kind, choice), trial, answer in zip(choices, trials, answers, strict=True):
            self.tried.setdefault(kind.size, []).append(choice)
            if answer.loss is None:
                self.progress.note(f"not tried: {answer.why_not}")
                continue
            expected = self.spaces[kind].loss_of(choice)
            if expected > 0:
                self.loss_factors[kind.size] = answer.loss / expected
            point = SearchPoint(
                input_size=kind.size,
                dropped=tuple(sorted(choice.dropped)),
                macs=round(answer.macs or 0.0, 4),
                loss=round(answer.loss, 5),
                why="another choice loses less",
            )
            self.points.append(point)
            place = len(self.points) - 1
            proposals.append(Proposal(kind, choice, trial.plan, answer.loss, place))
        return proposals

    def _plan(self, kind: Kind, choice: Choice) -> Plan:
        space, size = self.spaces[kind], kind.size
        dropped = tuple(sorted(choice.dropped))
        widths = {
            group.group: choice.widths[group.group]
            for group in space.groups
            if choice.widths[group.group] < max(group.widths)
            and not any(within(group.group, block) for block in dropped)
        }
        return self.evaluator.quantized.replaced(
            resize=Resize(size=size) if size is not None else None,
            drop_blocks=DropBlocks(blocks=dropped) if dropped else None,
            prune=Prune(widths=widths, importance="l1") if widths else None,
            structure=self.subject.structure_digest,
        )

    def _build(self, proposals: Sequence[Proposal]) -> list[Cost]:
        """Lower proposals for their costs, and correct the next round by them."""
        trials = [CostTrial(plan=proposal.plan) for proposal in proposals]
        found = self.evaluator.costs("lowering and timing smaller models", trials)
        costs = []
        for proposal, cost in zip(proposals, found, strict=True):
            if isinstance(cost, NoCost):  # its loss was measured, so that it can be built
                raise RuntimeFailure(cost.why_not)
            self._judge(proposal, cost)
            costs.append(cost)
        self.memory_shift_mb += max((self._excess_mb(cost) for cost in costs), default=0.0)
        return costs

    def _excess_mb(self, cost: Cost) -> float:
        """The memory above the goal; proposals of one round have the same error."""
        goal_mb, found_mb = self.goals.peak_memory_mb, self.goals.memory_mb_of(cost)
        return max(0.0, found_mb - goal_mb) if goal_mb and found_mb is not None else 0.0

    def _judge(self, proposal: Proposal, cost: Cost) -> None:
        expected = self.spaces[proposal.kind].cost(LATENCY, proposal.choice)
        latency_ms = self.goals.latency_ms_of(cost)
        if latency_ms is not None and expected > 0:
            self.latency_factors[proposal.kind.size] = latency_ms / expected
        misses = self.goals.misses(cost)
        self.points[proposal.place] = self.points[proposal.place].replaced(
            latency_ms=cost.latency.value if cost.latency else None,
            latency_interval_ms=cost.latency.interval if cost.latency else None,
            source=cost.latency.source if cost.latency else None,
            peak_memory_mb=self.goals.memory_mb(cost),
            size_mb=round(self.goals.bundle_mb(cost), 3),
            why=f"more than {', '.join(misses)} allow" if misses else "another choice loses less",
        )
        if not misses:
            self.feasible.append(proposal)

    def _basis(self, losses: Losses) -> Basis:
        """The operators of the whole model, and a table from it and some narrower versions."""
        operators = tuple(coupled(self.goals.base.shapes, losses.groups))
        whole = self.goals.base.times
        if whole is None:
            return Basis(operators, None, self.goals.base.memory, 0.0)
        shares = TABLE_SHARES if losses.groups else ()
        trials = [CostTrial(plan=self.evaluator.quantized, share=share) for share in shares]
        found = self.evaluator.costs("lowering and timing narrower models", trials)
        known = [cost.times for cost in found if isinstance(cost, Cost)]
        programs = [whole, *(times for times in known if times is not None)]
        table = CostTable(
            tuple(programs), self.goals.base.source, channel_steps(self.evaluator.meter.target)
        )
        return Basis(operators, table, self.goals.base.memory, max(0.0, whole.rest_ms))


def kinds(losses: Losses) -> dict[Kind, Losses]:
    """The losses of the choices of each kind: all means at each input size, and at the recipe's
    size also channels alone and blocks alone.
    """
    found = {Kind(size, "all"): losses for size in losses.sizes}
    if losses.widths and losses.blocks:
        whole = {group: {max(options): 0.0} for group, options in losses.widths.items()}
        found[Kind(None, "channels")] = replace(losses, blocks={})
        found[Kind(None, "blocks")] = replace(losses, widths=whole)
    return found


def id_of(size: Size | None, choice: Choice) -> tuple[object, ...]:
    return size, tuple(sorted(choice.widths.items())), choice.dropped


def finalists(feasible: Sequence[Proposal], most: int) -> tuple[Proposal, ...]:
    """The best of each kind, from the least loss."""
    best: dict[Kind, Proposal] = {}
    for proposal in sorted(feasible, key=lambda one: one.loss):
        best.setdefault(proposal.kind, proposal)
    return tuple(list(best.values())[:most])
