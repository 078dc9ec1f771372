"""The attempts of the ladder: their results as text and in documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.documents.verdict import Rung
from edgekit.pipeline.precision.candidate import Candidate
from edgekit.pipeline.training.checkpoint import Scores


@dataclass
class Attempt:
    """One attempt of the ladder. ``candidate``: None if it failed. ``reason``: its result, or why
    it failed. ``preferred``: better than its starting point, although the losses do not show it.
    """

    name: str
    candidate: Candidate | None
    reason: str
    payoff: str | None = None
    preferred: bool = False

    @property
    def built_candidate(self) -> Candidate:
        assert self.candidate is not None
        return self.candidate

    @property
    def loss(self) -> float:
        return self.built_candidate.loss

    def rung(self, chosen: bool) -> Rung:
        candidate = self.candidate
        return Rung(
            precision=self.name,
            taken=chosen,
            reason=self.reason,
            drop=candidate.drop if candidate else None,
            judged_by=candidate.judged_by if candidate else None,
            payoff=self.payoff,
            fidelity=candidate.fidelity if candidate else (),
        )


def reason_of(candidate: Candidate, limit: float, lost: float) -> str:
    """The loss of a candidate, its limit, its repairs and its float layers, as text. ``lost``: the
    points that compression lost before.
    """
    plan = candidate.plan
    kind = "float" if plan.float_as == "fp32" else "float (fp16)"
    floats = [f"{kind}: {', '.join(plan.float_layers)}"] if plan.float_layers else []
    how = ", ".join([*plan.repairs.values(), *floats])
    allowed = f"limit {limit:.3g}" if candidate.drop is not None else ""
    if allowed and lost:
        allowed += f": compression cost {lost:.3g}"
    return candidate.text + (f" ({allowed})" if allowed else "") + (f"; {how}" if how else "")


def scores_text(scores: Scores) -> str:
    """The first and the lowest held-out loss of a training, as text."""
    return f"held-out loss {scores[0][1]:.3g} before, {min(s for _, s in scores):.3g} after"


def rungs(attempts: Sequence[Attempt], chosen: Attempt) -> tuple[Rung, ...]:
    """The attempts in the order in which they were tried; the chosen one is last."""
    others = [attempt.rung(False) for attempt in attempts if attempt is not chosen]
    return (*others, chosen.rung(True))
