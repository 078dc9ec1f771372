"""What is accepted without labels: by what varies over inputs, whole and group by group."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.fidelity.comparison import Fidelity, class_axis, looks_like_classes, profile
from edgekit.fidelity.groups import Noise, Spread


def fidelity(values, kind="values", batched=True) -> Fidelity:
    return Fidelity((profile("output", kind, False, batched, values),))


def compared(actual, floats, kind="values", batched=True):
    pairs = [[value] for value in actual], [[value] for value in floats]
    return fidelity(floats, kind, batched).compare(*pairs)


def outputs(seed: int, shape, count: int = 20, mean: float = 0.0, deviation: float = 1.0):
    random = np.random.default_rng(seed)
    return [mean + deviation * random.standard_normal((1, *shape)) for _ in range(count)]


def off_by(values, deviation: float, seed: int = 9):
    random = np.random.default_rng(seed)
    return [value + deviation * random.standard_normal(value.shape) for value in values]


def test_a_constant_part_is_no_signal() -> None:
    """A box that moves by 1 px around 40: an error of 1.5 px keeps nothing of that."""
    boxes = outputs(1, (4,), mean=40, deviation=1)
    assert compared(off_by(boxes, 1.5), boxes).loss == 100
    assert compared(off_by(boxes, 0.05), boxes).loss == 0


def test_small_scores_beside_large_boxes_are_held_against_themselves() -> None:
    boxes = outputs(1, (4, 30), mean=320, deviation=80)
    scores = outputs(2, (3, 30), mean=0.5, deviation=0.1)
    floats = [np.concatenate(pair, 1) for pair in zip(boxes, scores, strict=True)]
    rounded = [np.round(value / 2.5) * 2.5 for value in floats]
    found = compared(rounded, floats)
    assert found.sqnr_db > 35
    assert found.loss == 100
    worst = found.findings[0].worst_group
    assert (worst.axis, worst.index >= 4) == (1, True)
    assert worst.sqnr_db < 0
    apart = [
        np.concatenate([np.round(v[:, :4] / 2.5) * 2.5, np.round(v[:, 4:] * 255) / 255], 1)
        for v in floats
    ]
    assert compared(apart, floats).loss == 0


@pytest.mark.parametrize(
    "shape, place", [((6, 500), (0, 5)), ((500, 6), (1, 5)), ((2, 9, 300), (1, 7))]
)
def test_any_axis_up_to_256_has_groups(shape, place) -> None:
    floats = outputs(1, shape)
    wrong = [value.copy() for value in floats]
    axis, index = place
    for value in wrong:
        np.moveaxis(value, axis + 1, 0)[index] = 0
    worst = compared(wrong, floats).findings[0].worst_group
    assert (worst.axis, worst.index) == (axis + 1, index)
    assert worst.sqnr_db < 1


def test_longer_axes_have_none() -> None:
    assert compared(*[outputs(1, (257,))] * 2).findings[0].worst_group is None


@pytest.mark.parametrize("error, loss", [(0.002, 0), (0.02, 100)])
def test_what_hardly_varies_is_held_against_its_size(error, loss) -> None:
    """Within 1 % of its own size, whatever the step of the whole output is."""
    floats = [np.concatenate([v, np.full((1, 1, 50), 3.0)], 1) for v in outputs(1, (2, 50))]
    wrong = [value.copy() for value in floats]
    for value in wrong:
        value[:, 2] += 3.0 * error
    assert compared(wrong, floats).loss == loss


def test_a_group_of_zeros_must_stay_so() -> None:
    floats = [np.concatenate([v, np.zeros((1, 1, 50))], 1) for v in outputs(1, (2, 50))]
    assert compared(floats, floats).loss == 0
    assert compared([value + 1e-3 for value in floats], floats).loss == 100


def test_an_output_without_batch_axis() -> None:
    floats = [value[0] for value in outputs(1, (400, 6))]
    wrong = [value.copy() for value in floats]
    for value in wrong:
        value[:, 5] = 0
    found = compared(wrong, floats, batched=False)
    assert found.loss == 100
    assert (found.findings[0].worst_group.axis, found.findings[0].worst_group.index) == (1, 5)


def test_scalars_and_single_inputs() -> None:
    floats = [np.array(float(value)) for value in range(1, 9)]
    assert compared(floats, floats, batched=False).loss == 0
    assert compared([value * 1.5 for value in floats], floats, batched=False).loss == 100
    one = outputs(1, (4,), count=1)
    assert compared([one[0] * 1.01], one).loss == 0
    assert compared([one[0] * 2], one).loss == 100


def test_nan_is_far_from_everything_and_equal_infinities_are_equal() -> None:
    floats = outputs(1, (4,))
    assert compared([value * np.nan for value in floats], floats).loss == 100
    masked = [np.where(np.arange(4) == 0, -np.inf, value) for value in floats]
    assert compared(masked, masked).loss == 0


def test_integers_must_be_equal() -> None:
    floats = [np.arange(10)[None] for _ in range(4)]
    wrong = [value + (np.arange(10) == 0) for value in floats]
    assert compared(floats, floats).loss == 0
    assert compared(wrong, floats).loss == pytest.approx(10)


def test_classes_count_by_their_winner() -> None:
    scores = outputs(1, (5,))
    assert compared([2 * value + 1 for value in scores], scores, "classes").loss == 0
    wrong = [-value if index < 5 else value for index, value in enumerate(scores)]
    found = compared(wrong, scores, "classes")
    assert found.loss == 25
    assert found.agreement == 75
    assert found.divergence > 0


def test_classes_of_pixels_lie_in_the_second_axis() -> None:
    assert [class_axis(count) for count in (2, 3, 4)] == [1, 2, 1]
    scores = outputs(1, (3, 8, 8), count=4)
    assert compared([value * 2 for value in scores], scores, "classes").loss == 0


def test_the_worst_of_several_outputs_counts() -> None:
    one, other = outputs(1, (4,)), outputs(2, (4,))
    both = Fidelity(
        tuple(profile(n, "values", True, True, v) for n, v in (("a", one), ("b", other)))
    )
    pairs = [[a, 0 * b] for a, b in zip(one, other, strict=True)]
    found = both.compare(pairs, [[a, b] for a, b in zip(one, other, strict=True)])
    assert found.loss == 100
    assert [output.sqnr_db is None for output in found.findings] == [True, False]


def trained_scores(count: int, classes: int):
    random = np.random.default_rng(3)
    scores = random.standard_normal((count, 1, classes))
    for index in range(count):
        scores[index, 0, random.integers(classes)] += 2.5 * np.sqrt(2 * np.log(classes))
    return list(scores)


def test_evident_classes() -> None:
    for classes in (10, 100, 1000):
        assert looks_like_classes(trained_scores(40, classes))
    exp = [np.exp(scores) for scores in trained_scores(40, 2)]
    assert looks_like_classes([value / value.sum() for value in exp])
    assert looks_like_classes([np.log(value / value.sum()) for value in exp])


def test_logits_of_few_inputs_are_evident_where_each_shows_another_class() -> None:
    assert looks_like_classes(trained_scores(8, 1000))
    assert not looks_like_classes(trained_scores(2, 1000))


def test_what_is_no_classes() -> None:
    assert not looks_like_classes(outputs(1, (4,), 40, mean=40))  # boxes, no winner ahead
    steady = [value + np.array([0, 9.0, 0, 0]) for value in outputs(1, (4,), 40)]
    assert not looks_like_classes(steady)  # always the same largest
    assert not looks_like_classes(outputs(1, (128,), 40))  # embeddings
    time = np.linspace(0, 1, 128)
    waves = [np.sin(6.28 * (9 * time + phase))[None] for phase in np.linspace(0, 1, 40)]
    assert not looks_like_classes(waves)
    assert not looks_like_classes(outputs(1, (3, 8, 8), 40))
    assert not looks_like_classes(outputs(1, (2,), 40))  # of two, nothing can be told
    assert not looks_like_classes(outputs(1, (10,), 1))


@pytest.mark.parametrize("seed", range(20))
def test_boxes_of_small_objects_are_values(seed) -> None:
    """Now cx is by far the largest, now cy: by their winners they were classes."""
    random = np.random.default_rng(seed)
    centre, size = random.uniform(0, 640, (64, 2)), random.uniform(10, 60, (64, 2))
    boxes = np.concatenate([centre, size], 1)
    for scale, shift in ((1, 0), (1 / 640, 0), (1, -320)):
        assert not looks_like_classes([(scale * box + shift)[None] for box in boxes])


@pytest.mark.parametrize("count", [3, 9, 64, 128])
def test_amounts_are_values(count) -> None:
    """Spectra and activations have clear winners too."""
    random = np.random.default_rng(5)
    assert not looks_like_classes(list(np.exp(random.standard_normal((64, 1, count)))))
    assert not looks_like_classes(list(random.exponential(1, (64, 1, count))))


def test_logits_of_which_few_ever_win_are_values() -> None:
    """A robot of forty joints, of which two move."""
    joints = trained_scores(64, 2)
    still = outputs(1, (38,), 64, deviation=0.01)
    assert not looks_like_classes(
        [np.concatenate(pair, 1) for pair in zip(joints, still, strict=True)]
    )


def test_streams_equal_the_formulas() -> None:
    values = np.random.default_rng(4).normal(100, 1, (30, 3, 5))
    actual = values + 0.1
    spread, noise = Spread(True), Noise(True)
    for part in range(0, 30, 7):
        spread.add(values[part : part + 7])
        noise.add(actual[part : part + 7], values[part : part + 7])
    assert spread.varying.whole == pytest.approx(values.var(0, ddof=1).mean())
    assert spread.varying.groups[0] == pytest.approx(values.var(0, ddof=1).mean(1))
    assert spread.magnitude.groups[1] == pytest.approx(np.square(values).mean((0, 1)))
    assert noise.energy.whole == pytest.approx(0.01)
    assert noise.energy.elements(0) == 150
