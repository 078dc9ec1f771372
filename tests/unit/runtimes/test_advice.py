"""What is said of operators outside the delegate."""

from __future__ import annotations

from edgekit.program import OutsideOperator
from edgekit.runtimes.executorch.advice import INSTEAD, INSTEAD_OF_LAYER, MOST, advise


def outside(operator: str, layer: str = "", count: int = 1) -> OutsideOperator:
    return OutsideOperator(operator=operator, layer=layer, count=count)


def test_nothing_where_all_is_delegated() -> None:
    assert advise([], {"head": "Linear"}) == ()


def test_operators_of_one_cause_are_one_advice() -> None:
    rows = [
        outside("aten::native_layer_norm.out", "block.0.norm", 1),
        outside("aten::native_layer_norm.out", "block.1.norm", 1),
        outside("aten::split_with_sizes_copy.out", "block.0", 2),
    ]
    split, norms = sorted(advise(rows, {}), key=lambda advice: advice.operators, reverse=True)
    assert norms.operators == ("aten::native_layer_norm.out",)
    assert norms.layers == ("block.0.norm", "block.1.norm")
    assert norms.count == split.count == 2
    assert split.instead == INSTEAD["split_with_sizes_copy"]


def test_a_layers_class_goes_before_its_operators() -> None:
    rows = [outside("aten::split_with_sizes_copy.out", "gru", 8), outside("aten::full.out", "gru")]
    (advice,) = advise(rows, {"gru": "GRU"})
    assert advice.instead == INSTEAD_OF_LAYER["GRU"]
    assert advice.count == 9
    assert advice.operators == ("aten::split_with_sizes_copy.out", "aten::full.out")


def test_padding_and_instance_norm_are_told_by_what_they_become() -> None:
    reflect = [outside(f"aten::{name}.out", "conv") for name in ("arange", "abs", "sub", "index")]
    replicate = [outside(f"aten::{name}.out", "pad") for name in ("arange", "clamp", "index")]
    norm = [
        outside("aten::repeat.out", "norm", 2),
        outside("aten::_native_batch_norm_legit.no_stats_out", "norm"),
    ]
    found = {advice.layers: advice for advice in advise([*reflect, *replicate, *norm], {})}
    assert found[("conv",)].instead == INSTEAD["reflection"]
    assert found[("pad",)].instead == INSTEAD["replication"]
    assert found[("norm",)].instead == INSTEAD["_native_batch_norm_legit"]
    assert found[("norm",)].count == 3
    (alone,) = advise([outside("aten::index.Tensor_out", "pick")], {})
    assert alone.instead is None


def test_what_is_not_known_is_named_and_comes_last() -> None:
    rows = [outside("aten::cumsum.out", "odd", 5), outside("aten::mean.out", "", 1)]
    known, unknown = advise(rows, {})
    assert known.operators == ("aten::mean.out",)
    assert unknown.operators == ("aten::cumsum.out",)
    assert unknown.instead is None


def test_it_stays_short() -> None:
    assert len(advise([outside(f"aten::odd{index}.out") for index in range(40)], {})) == MOST
