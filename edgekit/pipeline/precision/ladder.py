"""The precision ladder: which rung is taken, judged on the artifact, and why.

int8             as the runtime's quantizer does it
mixed            operators without weights float, where they lose most (search/float_operators.py)
int8 repaired    what mending without labels makes of it (search/repairs.py)
int8 distilled   the best of these, trained towards the float model (--effort thorough)
int8 trained     the best of these, trained by the recipe's training() (--qat)
mixed            guilty layers float beside the repairs, as few as needed (search/float_layers.py)
fp32             the model as it is
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from edgekit.documents.verdict import Blame, Rung
from edgekit.errors import (
    ExportError,
    ParityError,
    RecipeError,
    RuntimeFailure,
    TrainingError,
)
from edgekit.fidelity.comparison import WHOLE_LIMIT
from edgekit.pipeline.model.context import Tools
from edgekit.pipeline.model.predict import to_bytes
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.precision.candidate import EVALUATE, Candidate, make
from edgekit.pipeline.precision.lower import lower
from edgekit.pipeline.precision.payoff import Payoff, compare, is_larger
from edgekit.pipeline.precision.quantize import trained
from edgekit.pipeline.precision.repairs import Mending, applied
from edgekit.pipeline.training.int8 import DISTILLATION
from edgekit.plan import Effort, Plan, Precision, PrecisionChoice, Training

DEFAULT_MAX_DROP = 1.0
# Plain int8 that loses more is mended also where nobody named a limit, and its layers blamed.
NOTICEABLE_DROP = 0.5
# What is chosen on a simulation is judged on the artifact: of what passes, this much.
NEARLY_PASSING = 0.7


@dataclass(frozen=True)
class Request:
    """What was asked for. ``training``: train int8 too, for ``limit_s`` seconds at most.
    ``base``: what was done to the model before, and its seed and structure; ``lost``: the points
    that this cost.
    """

    choice: PrecisionChoice
    max_drop: float | None
    effort: Effort
    training: Training | None = None
    limit_s: float | None = None
    base: Plan = field(default_factory=lambda: Plan(precision="fp32"))
    lost: float = 0.0


@dataclass(frozen=True)
class Climbed:
    """``blame``: of plain int8, where it loses noticeably; else empty."""

    candidate: Candidate
    ladder: tuple[Rung, ...]
    blame: tuple[Blame, ...] = ()


def climb(subject: Subject, tools: Tools, request: Request) -> Climbed:
    """Build the precision that was asked for, or the first rung of ``auto`` that is good enough.

    Raises what building raises; under ``auto`` a failing int8 only means the next rung.
    """
    return _Climb(subject, tools, request).run()


def replay(subject: Subject, tools: Tools, plan: Plan, why: str) -> Climbed:
    """What a plan says, whatever comes of it."""
    candidate = make(subject, tools, plan)
    return Climbed(candidate, (_rung(_Tried(plan.precision, candidate, why), True),))


@dataclass
class _Tried:
    """A rung: what became of it, or why nothing did. ``preferred``: better than what it came from
    by a measure that losses do not tell.
    """

    name: str
    candidate: Candidate | None
    reason: str
    payoff: str | None = None
    preferred: bool = False


@dataclass
class _Climb:
    subject: Subject
    tools: Tools
    request: Request
    tried: list[_Tried] = field(default_factory=list)
    failure: RuntimeFailure | None = None
    mending: Mending | None = None
    start: Mending | None = None
    blames: bool = False
    build_s: float = 0.0

    def run(self) -> Climbed:
        choice = self.request.choice
        if choice == "fp32":
            return self._take_float("asked for (--precision fp32)")
        if not self.subject.calibration:
            return self._without_calibration()
        self._try_int8()
        best = self._best()
        if choice != "int8" and self.mending is not None and not self._is_good(best):
            self._try_mixed(best)
            best = self._best()
        if choice == "auto":
            return self._take_what_pays(best)
        if best is None:
            assert self.failure is not None
            raise self.failure
        return self._take(best)

    @property
    def _limit(self) -> float:
        asked = self.request.max_drop
        limit = DEFAULT_MAX_DROP if asked is None else asked
        # int8 that was asked for is mended where it loses noticeably, whatever is allowed
        limit = min(limit, NOTICEABLE_DROP) if self.request.choice == "int8" else limit
        # where compression lost more before, no precision brings that back
        return max(limit, self.request.lost + NOTICEABLE_DROP)

    def _is_good(self, tried: _Tried | None) -> bool:
        if tried is None or tried.candidate is None:
            return False
        return tried.preferred or tried.candidate.loss <= self._limit

    def _best(self) -> _Tried | None:
        """Of all that was tried: what is preferred, else the first with the least loss."""
        made = [tried for tried in self.tried if tried.candidate is not None]
        preferred = [tried for tried in made if tried.preferred]
        return min(preferred or made, key=_loss_and_divergence, default=None)

    def _try_int8(self) -> None:
        start_s = time.perf_counter()
        plain = self._try(self._plan("int8"), "int8")
        self.build_s = time.perf_counter() - start_s
        quick = self.request.effort == "quick"
        if not quick and (plain is not None or isinstance(self.failure, ParityError)):
            self.blames = plain is None or _loss(plain) - self.request.lost > NOTICEABLE_DROP
            self.mending = self.start = self._mending(self._plan("int8"))
            if not self._is_good(plain):
                self._try_operators(self.mending)
            if not self._is_good(self._best()):
                self._try_repaired(self.start)
        start = self._best()
        if start is None or start.candidate is None:
            return
        if self.request.training is not None:
            self._try_trained(start, start.candidate, self.request.training, "int8 trained")
        elif self._may_distill and not self._is_good(start):
            self._try_trained(start, start.candidate, DISTILLATION, "int8 distilled")

    def _mending(self, plan: Plan) -> Mending:
        return Mending(self.subject, self.tools, plan, self.request.effort, self.build_s)

    @property
    def _may_distill(self) -> bool:
        """Training mixes inputs, and with them the states of unlike moments."""
        return self.request.effort == "thorough" and not self.subject.states

    def _try_operators(self, mending: Mending) -> None:
        """Operators without weights in float, where rounding them loses most: no bytes, and far
        quicker than repairs, which then start from there.
        """
        if self.request.choice == "int8":
            return
        found = mending.float_operators
        if not found.worth:
            return
        plan = self._plan("mixed").replaced(float_layers=found.layers)
        self.start = self._mending(plan)
        if found.enough:
            self._try(plan, "mixed")

    def _try_repaired(self, mending: Mending) -> None:
        plan = mending.repairs.plan
        name = "mixed repaired" if plan.float_layers else "int8 repaired"
        if plan.is_plain:
            self._fail(name, "no repair brings it nearer to the float model")
        else:
            self._try(plan, name)

    def _try_trained(self, start: _Tried, int8: Candidate, training: Training, name: str) -> None:
        try:
            plan = int8.plan.replaced(train=training)
            plan, scores = trained(self.subject, self.tools, plan, self.request.limit_s)
        except TrainingError as error:
            if self.request.training is not None:
                raise
            self._fail(name, error.message)
            return
        if plan.train is None or plan.train.stop == 0:
            self._fail(name, "training made nothing better on the data that were kept apart")
            return
        found = self._try(plan, name)
        by_labels = training.objective != "float_model" and int8.judged_by != EVALUATE
        if found is not None and by_labels and self._is_good(start) and scores:
            # agreement with the float model does not tell what labels taught
            found.preferred = True
            found.reason += f"; loss on data kept apart {scores[0][1]:.3g}, {_lowest(scores):.3g}"

    def _try_mixed(self, start: _Tried | None) -> None:
        """As few layers as are expected to do; twice as many where that was not enough."""
        assert self.start is not None
        bought, repaired = self.start.purchases, self.start.repairs.plan
        if not bought.layers:
            self._fail("mixed", "no layer that is kept float brings it nearer to the float model")
            return
        loss = _loss(start) if start is not None else 100.0
        count = bought.enough(self._limit / loss if loss > 0 else 1.0, self._passing)
        while True:
            kept = tuple(sorted({*repaired.float_layers, *bought.layers[count - 1]}))
            change = {"precision": "mixed", "float_layers": kept}
            found = self._try(repaired.replaced(**change), "mixed")
            if found is None or self._is_good(found):
                return
            # repairs were chosen beside layers that are float now: without them it may be nearer
            if not repaired.is_plain:
                bare = self._try(self._plan("mixed").replaced(**change), "mixed")
                if self._is_good(bare):
                    return
            if count == len(bought.layers):
                return
            count = min(2 * count, len(bought.layers))

    @property
    def _passing(self) -> float:
        """The divergence that is good enough by itself; 0 where points decide."""
        points = self.subject.recipe.has("evaluate") or "classes" in self.subject.fidelity.kinds
        return 0.0 if points else NEARLY_PASSING * WHOLE_LIMIT

    def _try(self, plan: Plan, name: str) -> _Tried | None:
        """Build and judge one rung; what fails is told, and remembered if it is the first."""
        try:
            candidate = make(self.subject, self.tools, plan)
        except ExportError:
            raise  # the float model would fail the same way
        except RuntimeFailure as failure:
            self.failure = self.failure or failure
            self._fail(name, failure.message)
            return None
        how = ", ".join((*plan.repairs, *(f"{layer} float" for layer in plan.float_layers)))
        allowed = f"; allowed are {self._limit:.3g}" if candidate.drop is not None else ""
        if allowed and self.request.lost:
            allowed += f", as compression cost {self.request.lost:.3g}"
        reason = f"{candidate.said}{allowed}" + (f" ({how})" if how else "")
        tried = _Tried(name, candidate, reason)
        self.tried.append(tried)
        if not self._is_good(tried):
            self.tools.progress.note(f"{name}: {reason}")
        return tried

    def _fail(self, name: str, reason: str) -> None:
        self.tried.append(_Tried(name, None, reason))
        self.tools.progress.note(f"{name} is not taken: {reason}")

    def _take_what_pays(self, best: _Tried | None) -> Climbed:
        """``auto``: the rungs that follow would pay less."""
        last = "the last rung of auto: the model as it is"
        if best is None or best.candidate is None or not self._is_good(best):
            return self._take_float(last)
        payoff = self._payoff(best.candidate)
        best.payoff = payoff.said
        if payoff.pays:
            return self._take(best)
        best.reason = f"it does not pay: {payoff.said}"
        self.tools.progress.note(f"{best.name} is not taken: {best.reason}")
        return self._take_float(last)

    def _payoff(self, candidate: Candidate) -> Payoff:
        arena = self.tools.arena
        weights = sum(p.numel() * p.element_size() for p in self.subject.model.parameters())
        if arena is None and len(candidate.artifact.data) < weights:
            return Payoff()
        try:
            floating = lower(self.subject, self.tools, self._plan("fp32")).artifact
        except RuntimeFailure as failure:
            return Payoff(why_not=f"not compared with fp32: {failure.message}")
        if arena is None:
            return Payoff(is_larger(len(candidate.artifact.data), len(floating.data)))
        return compare(
            arena, candidate.artifact, floating, self._example_bytes, self.tools.progress
        )

    def _without_calibration(self) -> Climbed:
        if self.request.choice in ("int8", "mixed") or self.request.training is not None:
            raise RecipeError(
                f"{self.subject.recipe.path} has no calibration(), which static int8 needs",
                "give typical inputs with --calibration FILE.npz, add calibration() to the recipe "
                "(edgekit init shows one), or build with --precision fp32",
            )
        self._fail("int8", "there is no calibration data: no calibration(), no --calibration")
        return self._take_float("the last rung of auto: the model as it is")

    def _take_float(self, reason: str) -> Climbed:
        candidate = make(self.subject, self.tools, self._plan("fp32"))
        taken = _Tried("fp32", candidate, reason)
        self.tried.append(taken)
        return self._take(taken)

    def _take(self, taken: _Tried) -> Climbed:
        """The rungs in the order in which they were tried, the one that is taken at the end."""
        assert taken.candidate is not None
        asked = self.request.choice
        if taken.name == asked and self._is_good(taken) and asked != "fp32":
            taken.reason = f"asked for (--precision {asked}): {taken.reason}"
        others = [tried for tried in self.tried if tried is not taken]
        for tried in others:
            if self._is_good(tried) and tried.payoff is None:
                tried.reason += f"; {taken.name} is better"
        ladder = (*(_rung(tried, False) for tried in others), _rung(taken, True))
        blame = self._priced_blame() if self.blames else ()
        return Climbed(taken.candidate, ladder, applied(blame, taken.candidate.plan))

    def _priced_blame(self) -> tuple[Blame, ...]:
        """With what a layer that stays float takes longer, where a device can tell."""
        assert self.mending is not None
        rows, arena = self.mending.blame, self.tools.arena
        if arena is None or not any(row.fix == "float" for row in rows):
            return rows
        pair = [self._plan("int8"), self._plan("fp32")]
        try:
            int8, floating = (lower(self.subject, self.tools, plan).artifact for plan in pair)
        except RuntimeFailure as failure:
            self.tools.progress.note(f"layers are not priced: {failure.message}")
            return rows
        prices = arena.layer_prices_ms(int8, floating, self._example_bytes, self.tools.progress)
        return tuple(
            row.replaced(cost_latency_ms=prices.get(row.layer)) if row.fix == "float" else row
            for row in rows
        )

    def _plan(self, precision: Precision) -> Plan:
        return self.request.base.replaced(precision=precision)

    @property
    def _example_bytes(self) -> list[bytes]:
        return [to_bytes(tensor) for tensor in self.subject.example]


def _loss(tried: _Tried) -> float:
    assert tried.candidate is not None
    return tried.candidate.loss


def _loss_and_divergence(tried: _Tried) -> tuple[float, float]:
    assert tried.candidate is not None
    return tried.candidate.loss, tried.candidate.divergence


def _lowest(scores: tuple[tuple[int, float], ...]) -> float:
    return min(score for _, score in scores)


def _rung(tried: _Tried, taken: bool) -> Rung:
    candidate = tried.candidate
    return Rung(
        precision=tried.name,
        taken=taken,
        reason=tried.reason,
        drop=candidate.drop if candidate else None,
        judged_by=candidate.judged_by if candidate else None,
        payoff=tried.payoff,
        fidelity=candidate.fidelity if candidate else (),
    )
