"""Whether quantizing pays: what decides, and what is only said."""

from __future__ import annotations

import pytest

from edgekit.pipeline.precision.payoff import Payoff, is_larger


@pytest.mark.parametrize(
    ("payoff", "pays", "said"),
    [
        (Payoff(False, (0.5, 0.45, 0.55)), True, "0.50x"),
        (Payoff(False, (1.2, 1.1, 1.3), float_ms=4.0), False, "1.20x"),
        (Payoff(False, (1.2, 1.1, 1.3), float_ms=0.01), True, "1.20x"),
        (Payoff(False, (1.02, 0.97, 1.06)), True, "1.02x"),
        (Payoff(), True, "no device named"),
        (Payoff(larger=True), False, "larger"),
        (Payoff(True, (0.5, 0.4, 0.6)), False, "larger"),
    ],
)
def test_slower_or_larger_does_not_pay(payoff, pays, said) -> None:
    assert payoff.pays is pays
    assert said in payoff.text


@pytest.mark.parametrize(
    ("quantized", "floating", "larger"), [(6928, 6032, False), (9000, 8000, True), (100, 99, False)]
)
def test_a_file_is_larger_by_pages(quantized, floating, larger) -> None:
    assert is_larger(quantized, floating) is larger
