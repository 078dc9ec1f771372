from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgekit.fidelity.agreement import (
    OutputsAgreement,
    QuantizedAgreement,
    device_passes,
    float_passes,
    group_steps,
    half_passes,
)
from edgekit.measure.latency import summarize

finite = st.floats(-1e6, 1e6, width=32)


def compare(actual, reference) -> OutputsAgreement:
    agreement = OutputsAgreement(1)
    agreement.add([np.asarray(actual)], [np.asarray(reference)])
    return agreement


def int8_passes(actual, reference, floats=None) -> bool:
    """One output, a list of values for each input."""
    agreement = QuantizedAgreement([False])
    for a, b, c in zip(actual, reference, floats or reference, strict=True):
        agreement.add([np.asarray(a)], [np.asarray(b)], [np.asarray(c)])
    return agreement.passes


@given(arrays(np.float32, 16, elements=finite))
def test_equal_outputs_are_bit_equal(values) -> None:
    agreement = compare(values, values.copy())
    assert agreement.worst().sqnr_db is None
    assert agreement.worst().max_abs_diff == 0
    assert float_passes(agreement)
    assert int8_passes([values], [values.copy()])


@given(arrays(np.float32, 16, elements=finite), arrays(np.float32, 16, elements=finite))
def test_numbers_are_the_formulas(actual, reference) -> None:
    agreement = compare(actual, reference)
    a, b = actual.astype(np.float64), reference.astype(np.float64)
    assert agreement.worst().max_abs_diff == np.abs(a - b).max()
    noise, signal = np.square(a - b).sum(), np.square(b).sum()
    if noise > 0 and signal > 0:
        expected = max(-300, 10 * math.log10(signal / noise))
        assert agreement.worst().sqnr_db == pytest.approx(expected)


def test_float_rule_is_relative_to_the_largest() -> None:
    assert float_passes(compare([100.0, 0.1], [100.0, 0.0]))
    assert not float_passes(compare([100.0, 0.11], [100.0, 0.0]))


def test_int8_rule_is_20_db() -> None:
    assert int8_passes([[1.0999]], [[1.0]])
    assert not int8_passes([[1.11]], [[1.0]])


def test_the_worst_output_counts() -> None:
    agreement = OutputsAgreement(2)
    agreement.add([np.ones(4), np.ones(4)], [np.ones(4), np.full(4, 5.0)])
    assert agreement.worst().max_abs_diff == 4
    two = QuantizedAgreement([False, False])
    two.add(*[[np.ones(4), np.full(4, value)] for value in (1.0, 5.0, 5.0)])
    assert not two.passes


def test_nan_where_the_reference_has_none_fails_everything() -> None:
    agreement = compare([1.0, np.nan], [1.0, 2.0])
    assert not float_passes(agreement)
    assert not int8_passes([[1.0, np.nan]], [[1.0, 2.0]])
    assert math.isfinite(agreement.worst().max_abs_diff)
    assert float_passes(compare([np.nan, np.inf, 1.0], [np.nan, np.inf, 1.0]))


def test_a_wrong_size_fails() -> None:
    assert not float_passes(compare([1.0], [1.0, 1.0]))


def test_zero_reference_with_noise_fails() -> None:
    assert not float_passes(compare([0.1], [0.0]))
    assert not int8_passes([[0.1]], [[0.0]])


def test_device_rule_counts_steps() -> None:
    pair = [np.array([1.0, 0.0])], [np.array([1.0, 0.2])]
    assert device_passes(*pair, [0.1])
    assert not device_passes(*pair, [0.09])
    assert not device_passes(*pair, [None])
    assert device_passes(pair[1], pair[1], [None])


def test_device_rule_of_float_ends_counts_steps_of_each_group() -> None:
    """Scores of 0 to 1 beside boxes of 0 to 640: a step of the boxes is no step of the scores."""
    (golden,) = detections(1, 1)
    steps = [group_steps(golden.ravel(), golden.shape)]
    wrong = golden.copy()
    wrong[:, 4:] += 0.1
    near = golden + 0.5 * steps[0]
    assert device_passes([near], [golden], steps)
    assert not device_passes([wrong], [golden], steps)


def test_a_group_that_is_constant_may_differ_in_its_last_bits() -> None:
    golden = np.concatenate([np.full((1, 1, 64), 3.0), np.linspace(0, 1, 64)[None, None]], 1)
    steps = [group_steps(golden, golden.shape)]
    assert device_passes([golden * (1 + 1e-6)], [golden], steps)
    moved = golden + np.array([[[0.01], [0]]])
    assert not device_passes([moved], [golden], steps)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_device_that_gives_no_number_fails(value) -> None:
    golden = np.arange(8.0)
    for step in (0.5, None, group_steps(golden, (1, 8))):
        assert not device_passes([np.where(golden == 3, value, golden)], [golden], [step])


def detections(seed: int, count: int = 9) -> list[np.ndarray]:
    """Boxes from 0 to 640 and scores from 0 to 1 in one tensor, for so many inputs."""
    random = np.random.default_rng(seed)
    boxes = 320 + 100 * random.standard_normal((count, 1, 4, 50))
    scores = 0.5 + 0.1 * random.standard_normal((count, 1, 2, 50))
    return list(np.concatenate([boxes, scores], 2))


def noisy(values, boxes: float, scores: float, seed: int = 5):
    random = np.random.default_rng(seed)
    deviation = np.array([boxes] * 4 + [scores] * 2)[:, None]
    return [value + deviation * random.standard_normal(value.shape) for value in values]


def three(actual, reference, floats) -> bool:
    agreement = QuantizedAgreement([True])
    for a, b, c in zip(actual, reference, floats, strict=True):
        agreement.add([a], [b], [c])
    return agreement.passes


def test_chaotic_rounding_passes_where_it_is_as_near_to_the_float_model() -> None:
    """Two right implementations, each 18 dB from the float model, 15 dB from one another."""
    floats = detections(1)
    for seed in range(20):
        reference = noisy(floats, 42, 0.012, 2 * seed)
        assert three(noisy(floats, 42, 0.012, 2 * seed + 1), reference, floats)
    assert not three(noisy(floats, 60, 0.012), noisy(floats, 42, 0.012, 6), floats)


@pytest.mark.parametrize("wrong", ["zero", "constant", "half", "swapped", "negated"])
def test_a_wrong_kernel_in_small_scores_beside_large_boxes_fails(wrong) -> None:
    floats = detections(1)
    reference = noisy(floats, 3, 0.01)
    actual = [value.copy() for value in reference]
    for value in actual:
        scores = value[:, 4:]
        value[:, 4:] = {
            "zero": 0 * scores,
            "constant": 0 * scores + 0.5,
            "half": scores / 2,
            "swapped": scores[:, ::-1],
            "negated": 1 - scores,
        }[wrong]
    whole = OutputsAgreement(1)
    for a, b in zip(actual, reference, strict=True):
        whole.add([a], [b])
    assert whole.worst().sqnr_db > 50
    assert not three(actual, reference, floats)


def boxes(seed: int, mean: float = 300.0, deviation: float = 2.0, count: int = 9):
    random = np.random.default_rng(seed)
    return list(mean + deviation * random.standard_normal((count, 1, 4)))


def test_a_constant_in_place_of_what_varies_fails() -> None:
    """300 in place of 300 +- 2 is off by less than a percent of its size, and tells nothing."""
    reference = boxes(1)
    constant = [np.full_like(value, 300.0) for value in reference]
    assert not three(constant, reference, off_by(reference, 0.02))
    steady = boxes(2, deviation=0.01)
    assert three([value + 1 for value in steady], steady, steady)
    assert not three([value + 4 for value in steady], steady, steady)


def off_by(values, deviation, seed: int = 7):
    random = np.random.default_rng(seed)
    return [value + deviation * random.standard_normal(value.shape) for value in values]


@pytest.mark.parametrize("infinite", ["reference", "floats", "both"])
def test_an_infinity_does_not_let_garbage_pass(infinite) -> None:
    """No distance to the float model is more than an infinite one."""
    floats = [value[..., :1000] for value in np.random.default_rng(1).normal(size=(9, 1, 1000))]
    reference = off_by(floats, 0.01)
    for value, wanted in zip(reference, floats, strict=True):
        if infinite in ("reference", "both"):
            value[0, 5] = -np.inf
        if infinite in ("floats", "both"):
            wanted[0, 5] = -np.inf
    assert three(reference, reference, floats)
    assert three(off_by(reference, 0.01), reference, floats)
    assert not three(off_by([50 * value for value in reference], 1), reference, floats)
    finite = [np.maximum(value, -30) for value in reference]
    assert three(finite, reference, floats) == (infinite == "floats")


def test_a_wrong_kernel_in_a_small_group_of_few_elements_fails() -> None:
    """Two noises of nine elements may differ by 10 dB; a group that tells nothing is wrong."""
    size = np.where(np.arange(10) == 0, 0.05, 1.0)
    random = np.random.default_rng(1)
    floats = list(size * random.standard_normal((9, 1, 10)))
    reference = off_by(floats, size * np.where(np.arange(10) == 0, 0.35, 0.1))
    wrong = [value * (np.arange(10) > 0) for value in reference]
    assert three(reference, reference, floats)
    assert not three(wrong, reference, floats)


def test_summary_covers_all_rounds() -> None:
    summary = summarize([[1.0] * 20, [2.0] * 20, [1.5] * 20])
    assert summary.median == 1.5
    assert summary.interval == (1.0, 2.0)
    assert len(summary.samples) == 60
    assert summary.min == 1.0


def test_one_sample() -> None:
    assert summarize([[3.0]]).interval == (3.0, 3.0)


def test_an_index_that_rounding_moves_is_no_wrong_kernel():
    reference = np.arange(1000).reshape(1, 1000) % 10
    artifact = reference.copy()
    artifact[0, 3] = 9
    assert int8_passes([artifact], [reference])
    assert not int8_passes([np.zeros_like(reference)], [reference])


def with_noise(level_db: float) -> OutputsAgreement:
    return compare([1.0 + 10 ** (-level_db / 20)], [1.0])


@pytest.mark.parametrize(("level_db", "passes"), [(60.0, True), (25.5, True), (24.5, False)])
def test_half_precision_needs_25_decibels(level_db, passes) -> None:
    assert half_passes(with_noise(level_db)) == passes


def test_half_precision_may_be_as_noisy_as_it_is_in_torch() -> None:
    assert half_passes(with_noise(20.0), with_noise(20.5))
    assert not half_passes(with_noise(20.0), with_noise(22.0))
    assert half_passes(with_noise(30.0), compare([1.0], [1.0]))
    assert not half_passes(compare([math.nan], [1.0]), with_noise(60.0))


def test_each_output_in_half_precision_counts() -> None:
    agreement = OutputsAgreement(2)
    agreement.add([np.ones(4), np.zeros(4)], [np.ones(4), np.ones(4)])
    assert not half_passes(agreement)
