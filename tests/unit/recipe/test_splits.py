"""Which calibration inputs train, and which judge the training."""

from __future__ import annotations

import pytest

from edgekit.recipe.calibration_file import MOST_JUDGE_TRAINING, split_for_training


@pytest.mark.parametrize("count", [2, 7, 9, 10, 80, 575, 1000])
def test_no_input_both_trains_and_judges(count) -> None:
    trains, judges = split_for_training(range(count))
    assert sorted([*trains, *judges]) == list(range(count))
    assert trains
    assert 1 <= len(judges) <= MOST_JUDGE_TRAINING


def test_a_single_input_does_both() -> None:
    assert split_for_training([3]) == ([3], [3])
