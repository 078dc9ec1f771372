"""The precision ladder: it chooses a rung by judging artifacts.

int8             plain int8 of the runtime's quantizer
mixed            float operators without weights, where int8 loses most (search/float_operators.py)
int8 repaired    int8 with repairs that need no labels (search/repairs.py)
int8 distilled   the best of these, trained towards the float model (--effort thorough)
int8 trained     the best of these, trained by the recipe's training() (--qat)
mixed            repairs, and as few float layers as needed (search/float_layers.py)
fp16             half precision, if the target's cores compute in it
fp32             the model as it is

This module only chooses. actions.py builds, searches and measures; attempt.py describes results.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from edgekit.documents.verdict import Blame, Rung
from edgekit.errors import ExportError, ParityError, RuntimeFailure, TrainingError
from edgekit.fidelity.comparison import WHOLE_LIMIT
from edgekit.pipeline.precision.actions import Actions, Searches
from edgekit.pipeline.precision.attempt import Attempt, reason_of, rungs, scores_text
from edgekit.pipeline.precision.candidate import EVALUATE, Candidate
from edgekit.pipeline.precision.searches import applied
from edgekit.pipeline.training.int8 import DISTILLATION
from edgekit.plan import Plan, Precision, Training
from edgekit.values import Effort, PrecisionChoice

DEFAULT_MAX_DROP = 1.0
# If plain int8 loses more points, its sensitive layers are reported. If int8 was requested, it is
# also repaired.
NOTICEABLE_DROP = 0.5
# Float layers are chosen on a simulation, but judged on the artifact. So they aim at this share of
# the limit.
NEARLY_PASSING = 0.7
# The loss, in points, that is assumed of int8 that could not be built.
UNKNOWN_LOSS = 100.0
LAST = "no other precision of auto passed"
NO_REPAIRS = "this runtime quantizes after conversion, and edgekit has no repairs for it"


@dataclass(frozen=True)
class Request:
    """The requested precision and its limits. ``training``: also train int8, for at most
    ``limit_s`` seconds. ``lost``: the points that compression lost before. ``half``: the target and
    the runtime compute in half precision.
    """

    choice: PrecisionChoice
    max_drop: float | None = None
    effort: Effort = "normal"
    training: Training | None = None
    limit_s: float | None = None
    lost: float = 0.0
    half: bool = False

    @property
    def limit(self) -> float:
        """The points that a precision may lose."""
        limit = DEFAULT_MAX_DROP if self.max_drop is None else self.max_drop
        # requested int8 is repaired if its loss is noticeable, even if a higher loss is allowed
        limit = min(limit, NOTICEABLE_DROP) if self.choice == "int8" else limit
        # no precision recovers what compression lost before
        return max(limit, self.lost + NOTICEABLE_DROP)


@dataclass(frozen=True)
class LadderResult:
    """``blame``: the sensitive layers, if plain int8 loses noticeably; else empty."""

    candidate: Candidate
    ladder: tuple[Rung, ...]
    blame: tuple[Blame, ...] = ()


def run_ladder(actions: Actions, request: Request) -> LadderResult:
    """Build the requested precision, or the first rung of ``auto`` that is good enough.

    Raises what building raises. Under ``auto``, a failing int8 only leads to the next rung.
    """
    return _Ladder(actions, request).run()


def build_planned(actions: Actions, plan: Plan, why: str) -> LadderResult:
    """Build a given plan. It is chosen, whatever it loses."""
    candidate = actions.make(plan)
    return LadderResult(candidate, (Attempt(plan.precision, candidate, why).rung(True),))


@dataclass
class _Ladder:
    actions: Actions
    request: Request
    tried: list[Attempt] = field(default_factory=list)
    failure: RuntimeFailure | None = None
    plain: Searches | None = None
    start: Searches | None = None
    blames: bool = False
    build_s: float = 0.0

    def run(self) -> LadderResult:
        choice = self.request.choice
        if choice == "fp32":
            return self._choose_float("requested (--precision fp32)")
        if choice == "fp16":
            return self._choose(self._attempt(self._plan("fp16"), "fp16"))
        if not self.actions.has_calibration:
            return self._without_calibration()
        self._try_int8()
        best = self._best()
        if choice != "int8" and self.start is not None and not self._is_good(best):
            self._try_mixed(best, self.start)
            best = self._best()
        if choice == "auto":
            return self._choose_what_pays(best)
        if best is None:
            assert self.failure is not None
            raise self.failure
        return self._choose(best)

    def _is_good(self, attempt: Attempt | None) -> bool:
        if attempt is None or attempt.candidate is None:
            return False
        return attempt.preferred or attempt.loss <= self.request.limit

    def _best(self) -> Attempt | None:
        """The best attempt: of the preferred ones if any, the first with the least loss."""
        successful = [attempt for attempt in self.tried if attempt.candidate is not None]
        preferred = [attempt for attempt in successful if attempt.preferred]
        return min(
            preferred or successful,
            key=lambda one: (one.loss, one.built_candidate.divergence),
            default=None,
        )

    def _try_int8(self) -> None:
        start_s = time.perf_counter()
        start = self._plan("int8")  # mixed, if a constraint keeps layers float
        plain = self._try(start, start.precision)
        self.build_s = time.perf_counter() - start_s
        quick = self.request.effort == "quick"
        if not self.actions.can_search:
            if not self._is_good(plain):
                self._try_built(start, plain, quick)
            return
        if not quick and (plain is not None or isinstance(self.failure, ParityError)):
            self.blames = plain is None or plain.loss - self.request.lost > NOTICEABLE_DROP
            self.plain = self.start = self._searches(start)
            if not self._is_good(plain):
                self._try_operators(self.plain)
            if not self._is_good(self._best()):
                self._try_repaired(self.start.repairs.plan)
        self._train(self._best())

    def _train(self, start: Attempt | None) -> None:
        if start is None:
            return
        if self.request.training is not None:
            self._try_trained(start, self.request.training, "int8 trained")
        elif self._may_distill and not self._is_good(start):
            self._try_trained(start, DISTILLATION, "int8 distilled")

    def _searches(self, plan: Plan) -> Searches:
        return self.actions.searches(plan, self.build_s)

    @property
    def _may_distill(self) -> bool:
        return self.request.effort == "thorough" and self.actions.may_mix_inputs

    def _try_operators(self, searches: Searches) -> None:
        """Keep operators without weights float where rounding them loses most.

        This adds no bytes, and is far faster than repairs, which then start from this plan.
        """
        if self.request.choice == "int8":
            return
        found = searches.float_operators
        if not found.worth:
            return
        plan = self._plan("mixed")
        plan = plan.replaced(float_layers=(*plan.float_layers, *found.layers))
        self.start = self._searches(plan)
        if found.enough:
            self._try(plan, "mixed")

    def _try_built(self, start: Plan, plain: Attempt | None, quick: bool) -> None:
        """Repairs of a runtime that quantizes after conversion."""
        if not self.actions.can_repair:
            self._fail("int8 repaired", NO_REPAIRS)
        elif plain is not None and not quick:
            self._try_repaired(self.actions.built_repairs(start, self.build_s))

    def _try_repaired(self, plan: Plan) -> None:
        name = "mixed repaired" if plan.float_layers else "int8 repaired"
        if plan.is_plain:
            self._fail(name, "no repair brings it closer to the float model")
        else:
            self._try(plan, name)

    def _try_trained(self, start: Attempt, training: Training, name: str) -> None:
        int8 = start.built_candidate
        try:
            plan, scores = self.actions.train(
                int8.plan.replaced(train=training), self.request.limit_s
            )
        except TrainingError as error:
            if self.request.training is not None:
                raise
            self._fail(name, error.message)
            return
        if plan.train is None or plan.train.stop == 0:
            self._fail(name, "training did not improve the held-out loss")
            return
        found = self._try(plan, name)
        by_labels = training.objective != "float_model" and int8.judged_by != EVALUATE
        if found is not None and by_labels and self._is_good(start) and scores:
            # agreement with the float model does not show what labels improved
            found.preferred = True
            found.reason += f"; {scores_text(scores)}"

    def _try_mixed(self, best: Attempt | None, start: Searches) -> None:
        """Try as few float layers as should be enough, then twice as many each time, until a
        result is good or no better than the one before.
        """
        found, repaired = start.float_layers, start.repairs.plan
        if not found.layers:
            self._fail("mixed", "no float layer brings it closer to the float model")
            return
        loss = best.loss if best is not None else UNKNOWN_LOSS
        share = self.request.limit / loss if loss > 0 else 1.0
        least = math.inf if best is None else loss
        # the repairs were chosen while these layers were int8: without them it may be better
        starts = [repaired] if repaired.is_plain else [repaired, self._plan("mixed")]
        for layers in found.growing(found.enough(share, self._passing)):
            attempt = self._try_float(layers, starts)
            if attempt is None or self._is_good(attempt) or attempt.loss >= least:
                return
            least, starts = attempt.loss, [attempt.built_candidate.plan]

    def _try_float(self, layers: tuple[str, ...], starts: list[Plan]) -> Attempt | None:
        """The best of ``starts`` with these layers float; the first that is good, if one is."""
        found = list[Attempt]()
        for start in starts:
            names = tuple(sorted({*start.float_layers, *layers}))
            attempt = self._try(start.replaced(precision="mixed", float_layers=names), "mixed")
            if attempt is None or self._is_good(attempt):
                return attempt
            found.append(attempt)
        return min(found, key=lambda one: one.loss)

    @property
    def _passing(self) -> float:
        """The divergence that is good enough by itself; 0 if points decide."""
        return 0.0 if self.actions.by_points else NEARLY_PASSING * WHOLE_LIMIT

    def _try(self, plan: Plan, name: str) -> Attempt | None:
        """Build and judge one rung. A failure is reported, and the first one is stored.

        Where the target computes in half precision, so do the float layers of mixed.
        """
        if plan.precision == "mixed" and self.request.half and plan.float_as == "fp32":
            found = self._try(plan.replaced(float_as="fp16"), name)
            if found is not None:
                return found
        try:
            attempt = self._attempt(plan, name)
        except ExportError:
            raise  # the float model would fail the same way
        except RuntimeFailure as failure:
            self.failure = self.failure or failure
            self._fail(name, failure.message)
            return None
        if not self._is_good(attempt):
            self.actions.note(f"{name}: {attempt.reason}")
        return attempt

    def _attempt(self, plan: Plan, name: str) -> Attempt:
        candidate = self.actions.make(plan)
        reason = reason_of(candidate, self.request.limit, self.request.lost)
        attempt = Attempt(name, candidate, reason)
        self.tried.append(attempt)
        return attempt

    def _fail(self, name: str, reason: str) -> None:
        self.tried.append(Attempt(name, None, reason))
        self.actions.note(f"{name} not chosen: {reason}")

    def _choose_what_pays(self, best: Attempt | None) -> LadderResult:
        """Choose ``best`` if it pays, else fp16 if that does, else fp32. The int8 rungs between
        would pay even less than ``best``.
        """
        if best is not None and self._pays(best):
            return self._choose(best)
        half = self._try(self._plan("fp16"), "fp16") if self.request.half else None
        if half is not None and self._pays(half):
            return self._choose(half)
        return self._choose_float(LAST)

    def _pays(self, attempt: Attempt) -> bool:
        """Whether an attempt is good, and no larger or slower than fp32."""
        if not self._is_good(attempt):
            return False
        payoff = self.actions.payoff(attempt.built_candidate)
        attempt.payoff = payoff.text
        if not payoff.pays:
            attempt.reason = f"it does not pay: {payoff.text}"
            self.actions.note(f"{attempt.name} not chosen: {attempt.reason}")
        return payoff.pays

    def _without_calibration(self) -> LadderResult:
        if self.request.choice in ("int8", "mixed") or self.request.training is not None:
            raise self.actions.no_calibration()
        self._fail("int8", "no calibration data: neither calibration() nor --calibration")
        return self._choose_float(LAST)

    def _choose_float(self, reason: str) -> LadderResult:
        attempt = Attempt("fp32", self.actions.make(self._plan("fp32")), reason)
        self.tried.append(attempt)
        return self._choose(attempt)

    def _choose(self, chosen: Attempt) -> LadderResult:
        requested = self.request.choice
        if chosen.name == requested and self._is_good(chosen) and requested != "fp32":
            chosen.reason = f"requested (--precision {requested}): {chosen.reason}"
        for other in self.tried:
            if other is not chosen and self._is_good(other) and other.payoff is None:
                other.reason += f"; {chosen.name} is better"
        candidate = chosen.built_candidate
        return LadderResult(candidate, rungs(self.tried, chosen), self._blame(candidate.plan))

    def _blame(self, plan: Plan) -> tuple[Blame, ...]:
        if not self.blames or self.plain is None:
            return ()
        return applied(self.actions.priced(self.plain.blame), plan)

    def _plan(self, precision: Precision) -> Plan:
        return self.actions.base.in_precision(precision)
