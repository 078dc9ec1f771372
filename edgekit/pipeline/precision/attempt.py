"""Explaining the ladder: what became of each rung, in words and as documents have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.documents.verdict import Rung
from edgekit.pipeline.precision.candidate import Candidate
from edgekit.pipeline.training.checkpoint import Scores


@dataclass
class Attempt:
    """A rung: what became of it, or why nothing did. ``preferred``: better than what it came from
    by a measure that losses do not tell.
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

    def rung(self, taken: bool) -> Rung:
        candidate = self.candidate
        return Rung(
            precision=self.name,
            taken=taken,
            reason=self.reason,
            drop=candidate.drop if candidate else None,
            judged_by=candidate.judged_by if candidate else None,
            payoff=self.payoff,
            fidelity=candidate.fidelity if candidate else (),
        )


def reason_of(candidate: Candidate, limit: float, lost: float) -> str:
    """What a candidate loses, what is allowed, and how it was made. ``lost``: in points, before
    any precision was chosen.
    """
    plan = candidate.plan
    floats = [f"float: {', '.join(plan.float_layers)}"] if plan.float_layers else []
    how = ", ".join([*plan.repairs, *floats])
    allowed = f"limit {limit:.3g}" if candidate.drop is not None else ""
    if allowed and lost:
        allowed += f": compression cost {lost:.3g}"
    return candidate.text + (f" ({allowed})" if allowed else "") + (f"; {how}" if how else "")


def scores_text(scores: Scores) -> str:
    """The first and the best loss of a training on held-out data."""
    return f"held-out loss {scores[0][1]:.3g} before, {min(s for _, s in scores):.3g} after"


def rungs(attempts: Sequence[Attempt], taken: Attempt) -> tuple[Rung, ...]:
    """In the order in which they were tried, the one that is taken at the end."""
    others = [attempt.rung(False) for attempt in attempts if attempt is not taken]
    return (*others, taken.rung(True))
