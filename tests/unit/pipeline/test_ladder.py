"""The ladder's choices, with a actions that builds nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from edgekit.documents.verdict import Accuracy, Blame
from edgekit.errors import ExportError, ParityError, RecipeError, RuntimeFailure, TrainingError
from edgekit.pipeline.precision.candidate import EVALUATE, Candidate
from edgekit.pipeline.precision.ladder import LadderResult, Request, build_planned, run_ladder
from edgekit.pipeline.precision.payoff import Payoff
from edgekit.plan import Plan, Training
from edgekit.search.float_layers import FloatLayers
from edgekit.search.float_operators import FloatOperators
from edgekit.search.repairs import RepairSearchResult

LABELS = Training(objective="labels", steps=10, learning_rate=0.1)
NO_OPERATORS = FloatOperators((), 50.0, 1.0, 1.0)
BLAMED = Blame(
    layer="head", kind="weights", drop=2.0, sqnr_db=None, fix="float",
    cost_latency_ms=None, cost_size_mb=0.1, applied=False,
)  # fmt: skip


def kind(plan: Plan) -> str:
    """What a plan is on the ladder: what the doubles tell losses by."""
    words = [plan.precision]
    words += ["repaired"] if plan.equalize else []
    words += ["trained"] if plan.train else []
    return " ".join([*words, *plan.float_layers])


@dataclass
class Searching:
    repairs: RepairSearchResult
    float_layers: FloatLayers
    float_operators: FloatOperators
    blame: tuple[Blame, ...] = (BLAMED,)


@dataclass
class Double:
    """Losses by the kind of plan, or what is raised; 9 points where nothing is said."""

    losses: dict[str, float | Exception] = field(default_factory=dict)
    repair: bool = True
    layers: tuple[tuple[str, ...], ...] = ()
    operators: FloatOperators = NO_OPERATORS
    pays: Payoff = field(default_factory=Payoff)
    stop: int = 5
    training_error: TrainingError | None = None
    judged_by: str | None = EVALUATE
    base: Plan = field(default_factory=lambda: Plan(precision="fp32"))
    can_search: bool = True
    can_repair: bool = True
    has_calibration: bool = True
    by_points: bool = True
    may_mix_inputs: bool = True
    built: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def make(self, plan: Plan) -> Candidate:
        name = kind(plan)
        self.built.append(name)
        found = self.losses.get(name, 0.0 if name == "fp32" else 9.0)
        if isinstance(found, Exception):
            raise found
        artifact: Any = SimpleNamespace(data=b"")
        parity: Any = None
        return Candidate(plan, artifact, parity, Accuracy(), found, self.judged_by, 1)

    def searches(self, plain: Plan, build_s: float) -> Searching:
        repaired = plain.replaced(equalize=0.5) if self.repair else plain
        bought = FloatLayers(self.layers, tuple(1.0 / 2**i for i in range(len(self.layers))), 2.0)
        return Searching(RepairSearchResult(repaired, 1.0, 0.5), bought, self.operators)

    def built_repairs(self, plain: Plan, build_s: float) -> Plan:
        return plain.replaced(equalize=0.5) if self.repair else plain

    def train(
        self, plan: Plan, limit_s: float | None
    ) -> tuple[Plan, tuple[tuple[int, float], ...]]:
        if self.training_error is not None:
            raise self.training_error
        assert plan.train is not None
        return plan.replaced(train=plan.train.replaced(stop=self.stop)), ((0, 2.0), (5, 1.0))

    def payoff(self, candidate: Candidate) -> Payoff:
        return self.pays

    def priced(self, blame: tuple[Blame, ...]) -> tuple[Blame, ...]:
        return blame

    def no_calibration(self) -> RecipeError:
        return RecipeError("no calibration()")


def climbed(double: Double, choice: str = "auto", **asked: Any) -> LadderResult:
    request: Any = Request(choice, **asked)  # type: ignore[arg-type]
    found = run_ladder(double, request)
    assert [rung.taken for rung in found.ladder][-1]
    assert sum(rung.taken for rung in found.ladder) == 1
    return found


def taken(found: LadderResult) -> str:
    return kind(found.candidate.plan)


def test_good_int8_is_all_that_auto_builds() -> None:
    double = Double({"int8": 0.2})
    assert taken(climbed(double)) == "int8"
    assert double.built == ["int8"]


def test_layers_of_the_base_stay_float_in_every_rung_but_fp32() -> None:
    base = Plan(precision="mixed", float_layers=("stem",))
    double = Double({"mixed stem": 0.2}, base=base)
    found = climbed(double)
    assert (taken(found), double.built) == ("mixed stem", ["mixed stem"])
    assert [rung.precision for rung in found.ladder] == ["mixed"]
    enough = FloatOperators((":cat",), 0.0, 0.001, 1.0)
    double = Double(base=base, operators=enough, layers=(("head",),))
    assert taken(climbed(double)) == "fp32"
    assert double.built[-1] == "fp32"
    assert all("stem" in name for name in double.built[:-1]), double.built
    assert any("stem :cat" in name for name in double.built)
    assert any("head stem" in name for name in double.built)


def test_fp32_builds_nothing_else() -> None:
    double = Double()
    assert taken(climbed(double, "fp32")) == "fp32"
    assert double.built == ["fp32"]


def test_repairs_come_before_float_layers() -> None:
    double = Double({"int8": 3.0, "int8 repaired": 0.4}, layers=(("head",),))
    found = climbed(double)
    assert taken(found) == "int8 repaired"
    assert [rung.precision for rung in found.ladder] == ["int8", "int8 repaired"]


def test_a_runtime_without_repairs_goes_from_int8_to_fp32() -> None:
    enough = FloatOperators((":cat",), 0.0, 0.001, 1.0)
    none: Any = {"can_search": False, "can_repair": False}
    double = Double({"int8": 3.0}, operators=enough, layers=(("head",),), **none)
    found = climbed(double, effort="thorough")
    assert double.built == ["int8", "fp32"]
    assert [rung.precision for rung in found.ladder] == ["int8", "int8 repaired", "fp32"]
    assert found.blame == ()
    good = Double({"int8": 0.2}, **none)
    assert [rung.precision for rung in climbed(good).ladder] == ["int8"]
    # int8 that was asked for stays, whatever it loses
    assert taken(climbed(Double({"int8": 3.0}, **none), "int8")) == "int8"


def test_a_runtime_that_quantizes_after_conversion_builds_each_repair() -> None:
    losses: dict[str, float | Exception] = {"int8": 3.0, "int8 repaired": 0.4}
    double = Double(losses, layers=(("head",),), can_search=False)
    assert taken(climbed(double)) == "int8 repaired"
    assert double.built == ["int8", "int8 repaired"]
    assert climbed(Double(losses, can_search=False)).blame == ()
    no_gain = Double({"int8": 3.0}, repair=False, can_search=False)
    assert taken(climbed(no_gain)) == "fp32"
    assert no_gain.built == ["int8", "fp32"]
    quick = Double(losses, can_search=False)
    climbed(quick, effort="quick")
    assert "int8 repaired" not in quick.built
    assert climbed(Double({"int8": 0.2}, can_search=False)).ladder[0].taken


def test_operators_in_float_come_before_repairs() -> None:
    enough = FloatOperators((":cat",), 0.0, 0.001, 1.0)
    double = Double({"int8": 3.0, "mixed :cat": 0.1}, operators=enough)
    assert taken(climbed(double)) == "mixed :cat"
    assert "int8 repaired" not in double.built


def test_int8_that_was_asked_for_has_no_float_operator() -> None:
    enough = FloatOperators((":cat",), 0.0, 0.001, 1.0)
    double = Double({"int8": 3.0, "int8 repaired": 1.0}, operators=enough)
    assert taken(climbed(double, "int8")) == "int8 repaired"


def test_layers_are_bought_until_it_is_good() -> None:
    layers = (("a",), ("a", "b"), ("a", "b", "c"))
    double = Double({"int8": 4.0, "int8 repaired": 3.0, "mixed a b": 0.5}, layers=layers)
    found = climbed(double)
    assert taken(found) == "mixed a b"
    assert found.ladder[-1].precision == "mixed"


def test_layers_are_tried_without_the_repairs_too() -> None:
    double = Double(
        {"int8": 4.0, "int8 repaired": 3.0, "mixed repaired a": 2.0, "mixed a": 0.3},
        layers=(("a",),),
    )
    assert taken(climbed(double)) == "mixed a"


def test_float_layers_end_where_nothing_gets_better() -> None:
    layers = tuple(tuple("abcdefgh"[:count]) for count in range(1, 9))
    losses: dict[str, float | Exception] = {
        "int8": 2.0,
        "int8 repaired": 1.4,
        "mixed repaired a": 1.2,
        "mixed a": 1.3,
        "mixed repaired a b": 1.2,
    }
    double = Double(losses, layers=layers)
    assert taken(climbed(double)) == "fp32"
    # and the start that was worse is not tried with more layers
    assert [name for name in double.built if name.startswith("mixed")] == list(losses)[2:]


@pytest.mark.parametrize("repair", [True, False])
def test_all_layers_were_not_enough(repair: bool) -> None:
    double = Double({"int8": 4.0}, repair=repair, layers=(("a",), ("a", "b")))
    found = climbed(double)
    assert taken(found) == "fp32"
    assert [name for name in double.built if name.startswith("mixed")]
    assert any("no repair" in rung.reason for rung in found.ladder) != repair


def test_the_least_loss_is_taken_where_nothing_is_good_and_int8_was_asked_for() -> None:
    double = Double({"int8": 4.0, "int8 repaired": 2.0})
    assert taken(climbed(double, "int8")) == "int8 repaired"


def test_mixed_that_was_asked_for_keeps_layers_float() -> None:
    double = Double({"int8": 4.0, "int8 repaired": 2.0, "mixed repaired a": 1.5}, layers=(("a",),))
    assert taken(climbed(double, "mixed")) == "mixed repaired a"


def test_what_does_not_pay_is_not_taken() -> None:
    double = Double({"int8": 0.0}, pays=Payoff(larger=True))
    found = climbed(double)
    assert taken(found) == "fp32"
    assert "does not pay" in found.ladder[0].reason


def test_int8_that_was_asked_for_need_not_pay() -> None:
    double = Double({"int8": 0.0}, pays=Payoff(larger=True))
    assert taken(climbed(double, "int8")) == "int8"


@pytest.mark.parametrize(("max_drop", "expected"), [(None, "fp32"), (3.0, "int8"), (0.0, "fp32")])
def test_the_limit_is_the_users(max_drop: float | None, expected: str) -> None:
    double = Double({"int8": 2.5}, repair=False)
    assert taken(climbed(double, max_drop=max_drop)) == expected


def test_what_compression_lost_before_is_allowed_again() -> None:
    double = Double({"int8": 2.5}, repair=False)
    assert taken(climbed(double, lost=2.2)) == "int8"


def test_quick_repairs_nothing_and_blames_nobody() -> None:
    double = Double({"int8": 4.0})
    found = climbed(double, effort="quick")
    assert taken(found) == "fp32"
    assert double.built == ["int8", "fp32"]
    assert found.blame == ()


def test_layers_are_blamed_where_plain_int8_loses_noticeably() -> None:
    assert climbed(Double({"int8": 0.4})).blame == ()
    (row,) = climbed(Double({"int8": 0.8})).blame
    assert row.layer == "head"
    assert not row.applied


def test_a_layer_that_is_float_has_its_fix_applied() -> None:
    double = Double({"int8": 4.0, "mixed repaired head": 0.1}, layers=(("head",),))
    (row,) = climbed(double).blame
    assert row.applied


def test_int8_that_cannot_be_lowered_means_the_next_rung_of_auto() -> None:
    double = Double({"int8": RuntimeFailure("no kernel")})
    found = climbed(double)
    assert taken(found) == "fp32"
    assert "no kernel" in found.ladder[0].reason
    assert double.built == ["int8", "fp32"]


def test_int8_without_parity_is_repaired() -> None:
    double = Double({"int8": ParityError("19 dB"), "int8 repaired": 0.1})
    assert taken(climbed(double)) == "int8 repaired"


def test_the_first_failure_is_raised_where_int8_was_asked_for() -> None:
    double = Double({"int8": ParityError("first"), "int8 repaired": RuntimeFailure("second")})
    with pytest.raises(ParityError, match="first"):
        climbed(double, "int8")


def test_a_model_that_cannot_be_exported_ends_the_build() -> None:
    with pytest.raises(ExportError):
        climbed(Double({"int8": ExportError("control flow")}))


def test_without_calibration() -> None:
    double = Double(has_calibration=False)
    found = climbed(double)
    assert taken(found) == "fp32"
    assert "calibration" in found.ladder[0].reason
    for asked in ({"choice": "int8"}, {"choice": "auto", "training": LABELS}):
        with pytest.raises(RecipeError):
            climbed(Double(has_calibration=False), **asked)


@pytest.mark.parametrize(
    ("half", "loss", "expected"), [(True, 0.1, "fp16"), (True, 3.0, "fp32"), (False, 0.1, "fp32")]
)
def test_half_precision_comes_before_fp32_where_the_target_computes_in_it(
    half, loss, expected
) -> None:
    double = Double({"fp16": loss}, repair=False)
    found = climbed(double, half=half)
    assert taken(found) == expected
    assert ("fp16" in double.built) == half
    assert [rung.precision for rung in found.ladder][-1] == expected


def test_good_int8_comes_before_half_precision() -> None:
    double = Double({"int8": 0.2, "fp16": 0.0})
    assert taken(climbed(double, half=True)) == "int8"
    assert double.built == ["int8"]


def test_half_precision_that_fails_or_does_not_pay_means_fp32() -> None:
    failing = Double({"fp16": ParityError("overflow")}, repair=False)
    found = climbed(failing, half=True)
    assert taken(found) == "fp32"
    assert ("fp16", "overflow") in [(rung.precision, rung.reason) for rung in found.ladder]
    slower = Double({"fp16": 0.0}, repair=False, pays=Payoff(larger=True))
    assert taken(climbed(slower, half=True)) == "fp32"


def test_half_precision_that_was_asked_for_is_built_for_any_target() -> None:
    double = Double({"fp16": 5.0}, has_calibration=False)
    assert taken(climbed(double, "fp16")) == "fp16"
    assert double.built == ["fp16"]
    with pytest.raises(ParityError):
        climbed(Double({"fp16": ParityError("overflow")}), "fp16")


def test_without_calibration_half_precision_is_not_tried() -> None:
    assert taken(climbed(Double(has_calibration=False), half=True)) == "fp32"


def test_float_layers_are_in_half_precision_where_the_target_computes_in_it() -> None:
    losses: dict[str, float | Exception] = {"mixed repaired head": 0.1}
    double = Double(losses, layers=(("head",),))
    assert climbed(double).candidate.plan.float_as == "fp32"
    assert climbed(double, half=True).candidate.plan.float_as == "fp16"


def test_float_layers_that_fail_in_half_precision_are_in_fp32() -> None:
    @dataclass
    class Failing(Double):
        def make(self, plan: Plan) -> Candidate:
            if plan.float_as == "fp16":
                raise ParityError("overflow")
            return super().make(plan)

    double = Failing({"mixed repaired head": 0.1}, layers=(("head",),))
    plan = climbed(double, half=True).candidate.plan
    assert (plan.precision, plan.float_as) == ("mixed", "fp32")


def test_training_that_was_asked_for_is_taken_where_better() -> None:
    double = Double({"int8": 0.9, "int8 repaired": 0.8, "int8 trained": 0.1})
    assert taken(climbed(double, training=LABELS)) == "int8 trained"
    worse = Double({"int8": 0.1, "int8 trained": 0.9})
    assert taken(climbed(worse, training=LABELS)) == "int8"


def test_training_that_made_nothing_better_is_not_built() -> None:
    double = Double({"int8": 0.1}, stop=0)
    found = climbed(double, training=LABELS)
    assert double.built == ["int8"]
    assert "did not improve" in found.ladder[0].reason


def test_labels_are_preferred_to_agreement_with_the_float_model() -> None:
    losses = {"int8": 0.1, "int8 trained": 0.9}
    double = Double(losses, judged_by="output as classes")
    found = climbed(double, training=LABELS)
    assert taken(found) == "int8 trained"
    assert "held-out loss 2 before, 1 after" in found.ladder[-1].reason


def test_training_that_fails_ends_the_build_only_where_it_was_asked_for() -> None:
    failing = {"int8": 4.0}
    with pytest.raises(TrainingError):
        climbed(Double(failing, training_error=TrainingError("NaN")), training=LABELS)
    found = climbed(Double(failing, training_error=TrainingError("NaN")), effort="thorough")
    assert taken(found) == "fp32"
    assert any("NaN" in rung.reason for rung in found.ladder)


@pytest.mark.parametrize(("mixing", "expected"), [(True, "int8 repaired trained"), (False, "fp32")])
def test_thorough_distils_where_inputs_may_be_mixed(mixing: bool, expected: str) -> None:
    losses: dict[str, float | Exception] = {"int8": 4.0, "int8 repaired": 3.0}
    losses["int8 repaired trained"] = 0.2
    double = Double(losses, may_mix_inputs=mixing)
    assert taken(climbed(double, effort="thorough")) == expected


def test_other_good_rungs_are_told_to_be_worse() -> None:
    double = Double({"int8": 0.9, "int8 repaired": 0.8, "int8 trained": 0.1})
    first = climbed(double, training=LABELS).ladder[0]
    assert first.reason.endswith("int8 trained is better")


def test_a_plan_is_built_as_it_stands() -> None:
    plan = Plan(precision="int8", equalize=0.5)
    found = build_planned(Double({"int8 repaired": 50.0}), plan, "the plan")
    assert found.candidate.plan == plan
    assert found.ladder[0].reason == "the plan"


def test_outputs_that_are_values_stop_at_what_passes() -> None:
    """Where no points decide, layers are bought until the divergence is expected to pass."""
    layers = tuple(tuple("abcdefgh"[: count + 1]) for count in range(8))

    def first_mixed(make: Callable[[], Double]) -> str:
        double = make()
        climbed(double, "mixed")
        return next(name for name in double.built if name.startswith("mixed"))

    losses: dict[str, float | Exception] = {"int8": 100.0, "int8 repaired": 100.0}
    by_points = first_mixed(lambda: Double(losses, layers=layers))
    by_values = first_mixed(lambda: replace(Double(losses, layers=layers), by_points=False))
    assert len(by_values) <= len(by_points)


@pytest.mark.parametrize("precision", ["int8", "fp16", "fp32", "mixed"])
def test_the_type_of_float_layers_is_decided_anew_in_another_precision(precision) -> None:
    found = Plan(precision="mixed", float_layers=("head",), float_as="fp16")
    assert found.in_precision(precision).float_as == "fp32"
