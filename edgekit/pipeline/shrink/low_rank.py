"""Layers as products of smaller ones, where that is faster on the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from edgekit.compress.graph import within
from edgekit.compress.low_rank.choice import apply_factors, factorize
from edgekit.cost.shapes import OperatorTimes
from edgekit.documents.verdict import RefusedLayer
from edgekit.errors import ExportError, RuntimeFailure
from edgekit.pipeline.model.predict import run_eager
from edgekit.pipeline.model.subject import Subject
from edgekit.plan import Factors, LowRank, Plan
from edgekit.recipe.tensors import Inputs

# The times of the operators of a subject's model in a plan's precision; None if unknown.
Times = Callable[[Subject, Plan], OperatorTimes | None]


@dataclass(frozen=True)
class Factorized:
    """``factors``: by layer, those that were applied. ``refused``: the layers that stay whole."""

    model: nn.Module
    factors: dict[str, Factors]
    refused: tuple[RefusedLayer, ...]


def factorized(
    subject: Subject,
    wanted: LowRank,
    inputs: Sequence[Inputs],
    precision: Plan,
    times: Times | None,
) -> Factorized:
    """The subject's model with factors for some layers. ``inputs``: calibration inputs, in batches.

    By ``wanted.ratio``, layers whose factors are not faster in ``precision`` stay whole. Without
    their times, those count as faster that have fewer multiply-accumulates.

    Raises SettingError, RuntimeFailure.
    """
    model, example = subject.model, subject.example
    if wanted.factors is not None:
        return Factorized(apply_factors(model, example, wanted.factors, inputs), wanted.factors, ())
    assert wanted.ratio is not None
    found = factorize(model, example, wanted.ratio, inputs, wanted.step)
    factors = {one.layer: one.factors for one in found.layers}
    refused = [RefusedLayer(layer=one.layer, why=one.why) for one in found.refused]
    slower = _slower(subject, replace(subject, model=found.model), factors, precision, times)
    if not slower:
        return Factorized(found.model, factors, tuple(refused))
    kept = {name: one for name, one in factors.items() if name not in slower}
    refused += [RefusedLayer(layer=name, why=why) for name, why in slower.items()]
    return Factorized(apply_factors(model, example, kept, inputs), kept, tuple(refused))


def _slower(
    whole: Subject,
    small: Subject,
    factors: Mapping[str, Factors],
    precision: Plan,
    times: Times | None,
) -> dict[str, str]:
    """The layers whose factors are not faster, with the reason."""
    if times is None:
        return {}
    small = replace(small, example_outputs=run_eager(small.model)(small.example))
    try:
        pair = [times(one, precision) for one in (whole, small)]
    except ExportError:
        raise  # no precision would build
    except RuntimeFailure:
        return {}
    if pair[0] is None or pair[1] is None:
        return {}
    found = {}
    for name in factors:
        before_ms, after_ms = (_of_layer(one, name) for one in (pair[0], pair[1]))
        if after_ms >= before_ms > 0:
            found[name] = f"its factors take {after_ms:.3g} ms, the whole layer {before_ms:.3g} ms"
    return found


def _of_layer(times: OperatorTimes, name: str) -> float:
    """The latency of a layer, or of its factors, in ms; 0 if unknown."""
    return sum(
        operator.latency_ms
        for operator in times.operators
        if operator.shape.layer is not None and within(operator.shape.layer, name)
    )
