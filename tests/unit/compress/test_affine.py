"""The reference of quantization, by its properties."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from edgekit.compress.quantization.affine import (  # noqa: E402
    Grid,
    dequantize,
    in_groups,
    quantize,
    range_of,
    round_trip,
    steps_for,
)
from edgekit.errors import RecipeError  # noqa: E402

FINITE = st.floats(-(2.0**99), 2.0**99, allow_nan=False, width=32)
VALUES = st.lists(FINITE, min_size=1, max_size=40)
GRIDS = st.builds(Grid, bits=st.integers(2, 16), symmetric=st.booleans())


def steps_of(tensor, grid, axis=None):
    return steps_for(*range_of(tensor, axis), grid, axis)


@given(VALUES, GRIDS)
@settings(deadline=None, max_examples=300)
def test_a_round_trip_stays_within_half_a_step(values, grid) -> None:
    tensor = torch.tensor(values)
    steps = steps_of(tensor, grid)
    error = (round_trip(tensor, steps).double() - tensor.double()).abs()
    # the zero point is rounded too: at the ends that may cost another half
    ends = 0.5 if grid.symmetric else 1.0
    slack = 1e-6 * tensor.double().abs().max() + 1e-38
    assert bool((error <= ends * steps.scale.double() * (1 + 1e-6) + slack).all())


@given(VALUES, GRIDS)
@settings(deadline=None)
def test_what_is_inside_the_steps_is_off_by_half_a_step(values, grid) -> None:
    tensor = torch.tensor(values)
    steps = steps_of(tensor, grid)
    told = dequantize(torch.arange(grid.low, grid.high + 1), steps)
    inside = (tensor >= told.min()) & (tensor <= told.max())
    error = (round_trip(tensor, steps).double() - tensor.double()).abs()[inside]
    slack = 1e-6 * tensor.double().abs().max() + 1e-38
    assert bool((error <= 0.5 * steps.scale.double() * (1 + 1e-6) + slack).all())


@given(VALUES, GRIDS)
@settings(deadline=None)
def test_zero_is_exact_and_the_integers_fit(values, grid) -> None:
    tensor = torch.tensor([0.0, *values])
    steps = steps_of(tensor, grid)
    stored = quantize(tensor, steps)
    assert round_trip(tensor, steps)[0] == 0
    assert stored.min() >= grid.low
    assert stored.max() <= grid.high


@given(VALUES, GRIDS)
@settings(deadline=None)
def test_a_second_round_trip_changes_nothing(values, grid) -> None:
    tensor = torch.tensor(values)
    steps = steps_of(tensor, grid)
    once = round_trip(tensor, steps)
    assert torch.equal(quantize(once, steps), quantize(tensor, steps))


@pytest.mark.parametrize("value", [0.0, 3.0, -2.5, 1e-30, 1e30])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("count", [1, 5])
def test_a_constant_tensor_is_told_as_it_is(value, symmetric, count) -> None:
    tensor = torch.full((count,), value)
    steps = steps_of(tensor, Grid(8, symmetric))
    assert torch.allclose(round_trip(tensor, steps), tensor, rtol=1e-5, atol=0)


def test_two_bits_tell_three_or_four_values() -> None:
    tensor = torch.tensor([-1.0, -0.4, 0.4, 1.0])
    assert quantize(tensor, steps_of(tensor, Grid(2, symmetric=True))).tolist() == [-1, 0, 0, 1]
    wide = torch.linspace(0, 3, 50)
    assert sorted(set(quantize(wide, steps_of(wide, Grid(2))).tolist())) == [-2, -1, 0, 1]


def test_each_channel_has_its_own_steps() -> None:
    weight = torch.stack([torch.linspace(-1, 1, 9), torch.linspace(-1e-4, 1e-4, 9)])
    grid = Grid(8, symmetric=True)
    whole = (round_trip(weight, steps_of(weight, grid)) - weight)[1].abs().max()
    channels = (round_trip(weight, steps_of(weight, grid, axis=0)) - weight)[1].abs().max()
    assert channels < 1e-6 < whole


def test_groups_of_a_linear_have_their_own_steps() -> None:
    weight = torch.cat([torch.randn(4, 8), 100 * torch.randn(4, 8)], dim=1)
    grid = Grid(4, symmetric=True)
    grouped = in_groups(weight, 8)
    told = round_trip(grouped, steps_of(grouped, grid, axis=0)).reshape(weight.shape)
    rows = round_trip(weight, steps_of(weight, grid, axis=0))
    assert (told - weight)[:, :8].abs().max() < (rows - weight)[:, :8].abs().max() / 10
    with pytest.raises(ValueError, match="groups of"):
        in_groups(weight, 5)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_what_has_no_range_is_refused(wrong) -> None:
    with pytest.raises(RecipeError, match="NaN or infinite"):
        range_of(torch.tensor([1.0, wrong]))
    with pytest.raises(RecipeError, match="NaN or infinite"):
        quantize(torch.tensor([wrong]), steps_of(torch.tensor([1.0]), Grid()))
    with pytest.raises(RecipeError, match="empty"):
        range_of(torch.empty(0))


@pytest.mark.parametrize("bits", [1, 17])
def test_bits_that_no_runtime_has(bits) -> None:
    with pytest.raises(ValueError, match="2 to 16"):
        Grid(bits)
