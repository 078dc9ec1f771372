"""The precision ladder: which rung is taken, judged on the artifact, and why.

int8             as the runtime's quantizer does it
int8 repaired    what mending without labels makes of it (search/repairs.py)
int8 distilled   that, trained towards the float model (--effort thorough)
int8 trained     either, trained by the recipe's training() (--qat), where that is better
mixed            guilty layers float beside the repairs, as few as needed (search/mixed.py)
fp32             the model as it is
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgekit.documents import Accuracy, Blame, Parity, Rung
from edgekit.errors import ExportError, ParityError, RecipeError, RuntimeFailure
from edgekit.pipeline.kept import Tools
from edgekit.pipeline.lowered import Lowered, lower
from edgekit.pipeline.mending import Mending, applied
from edgekit.pipeline.parity import compare, drop_without_labels, require
from edgekit.pipeline.payoff import Payoff
from edgekit.pipeline.predict import Counted, run_serving, to_bytes
from edgekit.pipeline.quantized import trained
from edgekit.pipeline.stage import staged
from edgekit.pipeline.subject import Subject
from edgekit.pipeline.training import DISTILLATION
from edgekit.plan import Effort, Plan, PrecisionChoice, Training
from edgekit.runner.client import Serving
from edgekit.runtimes.base import Artifact

DEFAULT_MAX_DROP = 1.0
# Plain int8 that loses more is mended also where nobody named a limit, and its layers blamed.
NOTICEABLE_DROP = 0.5
EVALUATE = "evaluate"


@dataclass(frozen=True)
class Candidate:
    """One rung built and judged. ``drop`` in points, by ``judged_by``; ``inferences`` is how many
    ``evaluate`` asked for.
    """

    plan: Plan
    artifact: Artifact
    parity: Parity
    accuracy: Accuracy
    drop: float | None
    judged_by: str | None
    inferences: int

    @property
    def accuracy_drop(self) -> float | None:
        """fp32 minus artifact by ``evaluate``; None without it, whatever ``auto`` went by."""
        return self.drop if self.judged_by == EVALUATE else None

    @property
    def loss(self) -> float:
        """What the ladder goes by; a model that nothing can judge is believed."""
        return self.drop if self.drop is not None else 0.0

    @property
    def said(self) -> str:
        return f"it loses {self.loss:.2f} points by {self.judged_by}"


@dataclass(frozen=True)
class Tuning:
    """Quantization-aware training, and how many seconds it may take."""

    training: Training
    limit_s: float | None = None


@dataclass(frozen=True)
class Climbed:
    """``blame``: of plain int8, where it loses noticeably; else empty."""

    candidate: Candidate
    ladder: tuple[Rung, ...]
    blame: tuple[Blame, ...] = ()


def climb(
    subject: Subject,
    tools: Tools,
    choice: PrecisionChoice,
    max_drop: float | None,
    effort: Effort,
    tuning: Tuning | None = None,
) -> Climbed:
    """Build the precision that was asked for, or the first rung of ``auto`` that is good enough;
    ``tuning``: train int8 too, and take what is better.

    Raises what building raises; under ``auto`` a failing int8 only means the next rung.
    """
    limit = DEFAULT_MAX_DROP if max_drop is None else max_drop
    return _Climb(subject, tools, choice, limit, effort, tuning).run()


def replay(subject: Subject, tools: Tools, plan: Plan, why: str) -> Climbed:
    """What a plan says, whatever comes of it."""
    candidate = make(subject, tools, plan)
    return Climbed(candidate, (_rung(candidate, plan.precision, True, why),))


@dataclass
class _Climb:
    subject: Subject
    tools: Tools
    choice: PrecisionChoice
    limit: float
    effort: Effort
    tuning: Tuning | None
    rungs: list[Rung] = field(default_factory=list)
    mending: Mending | None = None
    blames: bool = False
    _failed_parity: bool = False

    def run(self) -> Climbed:
        if self.choice == "fp32":
            return self._take(self._float(), "fp32", "asked for (--precision fp32)")
        if not self.subject.calibration:
            return self._without_calibration()
        plan = self._plan("int8")
        plain = self._try(plan, "int8")
        if plain is not None and self._is_good(plain):
            return self._best(plain, "int8", self._why(plain)) or self._last()
        if self.effort != "quick" and (plain is not None or self._failed_parity):
            self.mending = Mending(self.subject, self.tools, plan)
            self.blames = plain is None or plain.loss > NOTICEABLE_DROP
            mended = self._mend(plain)
            if mended is not None:
                return mended
        elif plain is not None and (self.choice != "auto" or self.tuning is not None):
            reason = f"{plain.said}; --effort quick mends nothing"
            found = self._best(plain, "int8", reason, anyhow=self.choice != "auto")
            if found is not None:
                return found
        if self.choice != "auto":
            raise RuntimeFailure(self.rungs[-1].reason, "build it with --precision fp32")
        return self._last()

    def _last(self) -> Climbed:
        return self._take(self._float(), "fp32", "the last rung of auto: the model as it is")

    def _accept(self, candidate: Candidate, name: str, reason: str) -> Climbed | None:
        """Under ``auto`` only what pays is taken; the rungs that follow would pay less."""
        if self.choice != "auto":
            return self._take(candidate, name, reason)
        payoff = self._payoff(candidate)
        if payoff.pays:
            return self._take(candidate, name, reason, payoff.said)
        self._refuse(candidate, name, f"it does not pay: {payoff.said}", payoff.said)
        return None

    def _payoff(self, candidate: Candidate) -> Payoff:
        arena = self.tools.arena
        weights = sum(p.numel() * p.element_size() for p in self.subject.model.parameters())
        if arena is None and len(candidate.artifact.data) < weights:
            return Payoff(smaller=True)
        floating = lower(self.subject, self.tools, self._plan("fp32")).artifact
        if arena is None:
            return Payoff(smaller=len(candidate.artifact.data) < len(floating.data))
        return arena.compare(candidate.artifact, floating, self._example_bytes, self.tools.progress)

    def _mend(self, plain: Candidate | None) -> Climbed | None:
        """The rungs between plain int8 and fp32."""
        if plain is not None:
            self._refuse(plain, "int8", self._why(plain))
        repaired = self._repaired() or plain
        if repaired is not None:
            if repaired is plain:
                self.rungs.pop()
            name = "int8" if repaired is plain else "int8 repaired"
            found = self._best(repaired, name, self._repairs_said(repaired))
            if found is not None:
                return found
        if self.choice == "int8":
            return None
        mixed = self._mixed(repaired)
        if mixed is not None and (self.choice == "mixed" or self._is_good(mixed)):
            return self._accept(mixed, "mixed", self._mixed_said(mixed)) or self._last()
        if mixed is not None:
            self._refuse(mixed, "mixed", self._mixed_said(mixed))
        if self.choice == "mixed" and repaired is not None:
            return self._take(repaired, "int8", "keeping layers float brings it no nearer")
        return None

    def _best(
        self, int8: Candidate, name: str, reason: str, anyhow: bool = False
    ) -> Climbed | None:
        """Take int8, or what training makes of it; None where neither is good enough, unless it
        is to be taken ``anyhow``.
        """
        found = self._trained(int8)
        if found is not None:
            self._refuse(int8, name, f"{int8.said}; training makes it {found[0].loss:.2f}")
            int8, name = found
            reason = self._repairs_said(int8)
        if anyhow or self.choice == "int8" or self._is_good(int8):
            return self._accept(int8, name, reason) or self._last()
        self._refuse(int8, name, reason)
        return None

    def _trained(self, int8: Candidate) -> tuple[Candidate, str] | None:
        """Int8 trained, where that was asked for or nothing cheaper is left, and it is better."""
        if self.tuning is not None:
            training, name, limit_s = self.tuning.training, "int8 trained", self.tuning.limit_s
        elif self.effort == "thorough" and not self._is_good(int8):
            training, name, limit_s = DISTILLATION, "int8 distilled", None
        else:
            return None
        plan = int8.plan.model_copy(update={"train": training})
        plan = trained(self.subject, self.tools, plan, limit_s)
        if plan.train is None or plan.train.stop == 0:
            self._fail(name, "training made nothing better on the data that were kept apart")
            return None
        candidate = self._try(plan, name)
        if candidate is None:
            return None
        if candidate.judged_by == EVALUATE and candidate.loss >= int8.loss:
            self._refuse(candidate, name, f"{candidate.said}; untrained {int8.loss:.2f}")
            return None
        return candidate, name

    def _repaired(self) -> Candidate | None:
        assert self.mending is not None
        plan = self.mending.repairs.plan
        if plan.is_plain:
            self._fail("int8 repaired", "no repair brings it nearer to the float model")
            return None
        return self._try(plan, "int8 repaired")

    def _mixed(self, repaired: Candidate | None) -> Candidate | None:
        """As few layers as are expected to do; twice as many where that was not enough."""
        assert self.mending is not None
        bought = self.mending.purchases
        if not bought.layers:
            self._fail("mixed", "no layer that is kept float brings it nearer to the float model")
            return None
        loss = repaired.loss if repaired is not None else 100.0
        count = bought.enough(self.limit / loss if loss > 0 else 1.0)
        while True:
            plan = self.mending.repairs.plan.model_copy(
                update={"precision": "mixed", "float_layers": bought.layers[count - 1]}
            )
            found = self._try(plan, "mixed")
            if found is None or self._is_good(found) or count == len(bought.layers):
                return found
            self._refuse(found, "mixed", self._mixed_said(found))
            count = min(2 * count, len(bought.layers))

    def _without_calibration(self) -> Climbed:
        if self.choice in ("int8", "mixed"):
            raise RecipeError(
                f"{self.subject.recipe.path} has no calibration(), which static int8 needs",
                "give typical inputs with --calibration FILE.npz, add calibration() to the recipe "
                "(edgekit init shows one), or build with --precision fp32",
            )
        self._fail("int8", "there is no calibration data: no calibration(), no --calibration")
        return self._last()

    def _plan(self, precision: PrecisionChoice) -> Plan:
        assert precision != "auto"
        structure = self.subject.structure_digest
        return Plan(precision=precision, seed=self.tools.seed, structure=structure)

    def _float(self) -> Candidate:
        return make(self.subject, self.tools, self._plan("fp32"))

    def _try(self, plan: Plan, name: str) -> Candidate | None:
        """Under ``int8`` what fails is an error, but for a parity that repairs may mend."""
        self._failed_parity = False
        try:
            return make(self.subject, self.tools, plan)
        except ExportError:
            raise  # the float model would fail the same way
        except RuntimeFailure as failure:
            self._failed_parity = isinstance(failure, ParityError)
            if self.choice == "int8" and not (self._failed_parity and self.effort != "quick"):
                raise
            self._fail(name, failure.message)
            return None

    def _is_good(self, candidate: Candidate) -> bool:
        limit = self.limit
        if self.choice == "int8":
            limit = min(limit, NOTICEABLE_DROP)
        return candidate.loss <= limit

    def _why(self, candidate: Candidate) -> str:
        if self.choice == "int8" and self._is_good(candidate):
            return "asked for (--precision int8)"
        return f"{candidate.said}; allowed are {self.limit:g}"

    def _repairs_said(self, candidate: Candidate) -> str:
        done = ", ".join(candidate.plan.repairs)
        return f"{candidate.said}; allowed are {self.limit:g}" + (f" ({done})" if done else "")

    def _mixed_said(self, candidate: Candidate) -> str:
        layers = ", ".join(candidate.plan.float_layers)
        return f"{candidate.said}; allowed are {self.limit:g} (float: {layers})"

    def _refuse(
        self, candidate: Candidate, name: str, reason: str, payoff: str | None = None
    ) -> None:
        self.rungs.append(_rung(candidate, name, False, reason, payoff))
        self.tools.progress.note(f"{name} is not taken: {reason}")

    def _fail(self, name: str, reason: str) -> None:
        self.rungs.append(Rung(precision=name, taken=False, reason=reason))
        self.tools.progress.note(f"{name} is not taken: {reason}")

    def _take(
        self, candidate: Candidate, name: str, reason: str, payoff: str | None = None
    ) -> Climbed:
        self.rungs.append(_rung(candidate, name, True, reason, payoff))
        blame = self._priced_blame() if self.blames else ()
        return Climbed(candidate, tuple(self.rungs), applied(blame, candidate.plan))

    def _priced_blame(self) -> tuple[Blame, ...]:
        """With what a layer that stays float takes longer, where a device can tell."""
        assert self.mending is not None
        rows, arena = self.mending.blame, self.tools.arena
        if arena is None or not any(row.fix == "float" for row in rows):
            return rows
        pair = [self._plan("int8"), self._plan("fp32")]
        quantized, floating = (lower(self.subject, self.tools, plan).artifact for plan in pair)
        prices = arena.layer_prices_ms(
            quantized, floating, self._example_bytes, self.tools.progress
        )
        return tuple(
            row.model_copy(update={"cost_latency_ms": prices.get(row.layer)})
            if row.fix == "float"
            else row
            for row in rows
        )

    @property
    def _example_bytes(self) -> list[bytes]:
        return [to_bytes(tensor) for tensor in self.subject.example]


def make(subject: Subject, tools: Tools, plan: Plan) -> Candidate:
    """Lower a plan and judge the artifact. Raises RuntimeFailure, ParityError."""
    lowered = lower(subject, tools, plan)
    if plan.is_quantized and lowered.artifact.program.quantized_operators == 0:
        raise RuntimeFailure(
            "no operator of this model could be quantized to int8",
            "build it with --precision fp32",
        )
    return _judge(subject, tools, plan, lowered)


def _judge(subject: Subject, tools: Tools, plan: Plan, lowered: Lowered) -> Candidate:
    """Run the artifact by its own runner: parity first, then the recipe's metric."""
    with staged(lowered.artifact, tools.host_files) as here, Serving(here) as serving:
        run = run_serving(serving)
        with tools.progress.stage(f"checking parity of {plan.precision}"):
            parity = require(compare(subject, lowered, run, plan.precision))
        with tools.progress.stage(f"evaluating {plan.precision} on the artifact") as stage:
            counted = Counted(run, stage)
            accuracy = Accuracy(fp32=subject.fp32_accuracy, artifact=subject.evaluate(counted))
            drop, judged_by = _drop(accuracy)
            if drop is None and plan.is_quantized:
                drop, judged_by = drop_without_labels(subject, run, parity)
    return Candidate(plan, lowered.artifact, parity, accuracy, drop, judged_by, counted.count)


def _drop(accuracy: Accuracy) -> tuple[float | None, str | None]:
    if accuracy.fp32 is None or accuracy.artifact is None:
        return None, None
    return round(accuracy.fp32 - accuracy.artifact, 9), EVALUATE


def _rung(
    candidate: Candidate, name: str, taken: bool, reason: str, payoff: str | None = None
) -> Rung:
    return Rung(
        precision=name,
        taken=taken,
        reason=reason,
        drop=candidate.drop,
        judged_by=candidate.judged_by,
        payoff=payoff,
    )
