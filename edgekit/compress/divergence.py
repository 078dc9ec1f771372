"""How far a quantized model is from the float one: what every choice is made by, without labels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from edgekit.compress.simulate import Outputs
from edgekit.measurement.agreement import WORST_SQNR_DB


def is_classes(outputs: Outputs) -> bool:
    """One score for each of several classes, as far as the shape tells."""
    return (
        len(outputs) == 1
        and outputs[0].dim() == 2
        and outputs[0].shape[1] > 1
        and outputs[0].is_floating_point()
    )


def divergence(actual: Sequence[Outputs], floats: Sequence[Outputs]) -> float:
    """0 where they are equal. For classes the mean Kullback-Leibler divergence of the scores'
    softmax, in nats; else noise to signal, the worst output counting.
    """
    if is_classes(floats[0]):
        a, b = torch.cat([o[0] for o in actual]), torch.cat([o[0] for o in floats])
        logs = [torch.log_softmax(scores.double(), 1) for scores in (a, b)]
        return float((logs[1].exp() * (logs[1] - logs[0])).sum(1).mean())
    return max(
        (noise_to_signal([o[i] for o in actual], [o[i] for o in floats]) for i in _real(floats[0])),
        default=0.0,
    )


def agreement(actual: Sequence[Outputs], floats: Sequence[Outputs]) -> float | None:
    """Of 100 inputs, how many get the same class; None where the outputs are no classes."""
    if not is_classes(floats[0]):
        return None
    a, b = (torch.cat([o[0].argmax(1) for o in outputs]) for outputs in (actual, floats))
    return 100.0 * float((a == b).double().mean())


def sqnr_db(actual: Sequence[Outputs], floats: Sequence[Outputs]) -> float | None:
    """Signal to noise of the worst output; None where they are equal."""
    noises = [
        noise_to_signal([o[i] for o in actual], [o[i] for o in floats])
        for i in range(len(floats[0]))
    ]
    if not all(math.isfinite(noise) for noise in noises):
        return WORST_SQNR_DB
    return -10 * math.log10(max(noises)) if max(noises) > 0 else None


def noise_to_signal(actual: Sequence[torch.Tensor], floats: Sequence[torch.Tensor]) -> float:
    noise = sum(
        float((a.double() - b.double()).square().sum()) for a, b in zip(actual, floats, strict=True)
    )
    signal = sum(float(b.double().square().sum()) for b in floats)
    return noise / signal if signal else float(noise > 0)


def _real(outputs: Outputs) -> list[int]:
    return [index for index, tensor in enumerate(outputs) if tensor.is_floating_point()]
