"""The choice of ranks: the least error of the outputs of all layers for the MACs that are removed.

Each layer has some candidates: forms (factors.py) and ranks in the steps of kernels. Layers start
as they are, and the step with the least relative error for each multiply-accumulate (MAC) that it
saves is next, along the lower convex hull of each layer's candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from edgekit.compress.copying import copy_of
from edgekit.compress.low_rank.factors import (
    CONVOLUTIONS,
    Layer,
    Places,
    factorized,
    forms_of,
    highest_ranks,
    macs_of_factors,
    relative_error,
)
from edgekit.compress.moments import can_read, moments, watching
from edgekit.compress.pruning.channel_choice import macs_by_layer, refusal_lines
from edgekit.compress.pruning.channel_groups import (
    LAYERS,
    TRANSPOSED,
    UnprunableLayer,
    outputs_of,
    summary,
    with_own_weights,
)
from edgekit.errors import RuntimeFailure, SettingError, nearest
from edgekit.plan import FactorForm, Factors
from edgekit.recipe.tensors import Inputs

# So many ranks of each form are tried.
LEVELS = 8
# The eigenvectors of larger matrices take minutes.
MOST_RANKS = 4096
FACTORIZED = (nn.Linear, *CONVOLUTIONS)


@dataclass(frozen=True)
class FactorizedLayer:
    """``macs`` and ``macs_before``: multiply-accumulates of one inference. ``error``: the energy of
    the error of its outputs relative to theirs; of its weights if no inputs were given, or too few.
    """

    layer: str
    factors: Factors
    macs: int
    macs_before: int
    error: float


@dataclass(frozen=True)
class LowRankResult:
    """A model in which each factorized layer is an nn.Sequential of its factors, of the same name.

    ``refused``: layers that cannot be factorized, or for which it saves nothing.
    """

    model: nn.Module
    layers: tuple[FactorizedLayer, ...]
    refused: tuple[UnprunableLayer, ...]


def factorize(
    model: nn.Module,
    example: Inputs,
    ratio: float,
    inputs: Sequence[Inputs] = (),
    step: int = 16,
) -> LowRankResult:
    """A copy without ``ratio`` of the multiply-accumulates (MACs) of all layers that can be
    factorized. Ranks are multiples of ``step``. ``inputs``: calibration inputs, in batches.

    Raises RuntimeFailure (no layer can be factorized), SettingError (so many MACs cannot be
    removed).
    """
    macs = macs_by_layer(model, example)
    places = _places(model, example)
    layers, refused = _layers(model, example, places)
    readable = [name for name, layer in layers.items() if can_read(layer)]
    known = moments(model, readable, inputs) if inputs else {}
    candidates: dict[str, list[FactorizedLayer]] = {}
    for name, layer in layers.items():
        found = _candidates(name, layer, places[name], macs[name], known.get(name), step)
        if found:
            candidates[name] = found
        else:
            why = f"no rank in steps of {step} saves multiply-accumulates"
            refused.append(UnprunableLayer(name, why))
    if not candidates:
        why = refusal_lines(refused) or "  it has no linear layers or convolutions"
        raise RuntimeFailure(f"no layer can be factorized:\n{why}")
    chosen = _choose(candidates, ratio)
    factors = {one.layer: one.factors for one in chosen}
    return LowRankResult(with_factors(model, factors, known), tuple(chosen), tuple(refused))


def apply_factors(
    model: nn.Module,
    example: Inputs,
    factors: Mapping[str, Factors],
    inputs: Sequence[Inputs] = (),
) -> nn.Module:
    """A copy with these layers factorized. ``inputs``: calibration inputs, in batches.

    Raises SettingError: there is no such layer, it cannot be factorized, or not so.
    """
    layers, refused = _layers(model, example, _places(model, example), list(factors))
    for name, one in factors.items():
        _refuse_unsuitable(model, name, one, layers, {row.layer: row.why for row in refused})
    readable = [name for name in factors if can_read(layers[name])]
    known = moments(model, readable, inputs) if inputs else {}
    return with_factors(model, factors, known)


def _refuse_unsuitable(
    model: nn.Module,
    name: str,
    factors: Factors,
    layers: Mapping[str, Layer],
    refused: Mapping[str, str],
) -> None:
    if name not in layers:
        known = [one for one, part in model.named_modules() if isinstance(part, LAYERS)]
        why = refused.get(
            name, "the model has no such layer, or it is neither linear nor a convolution"
        )
        hint = nearest(name, known) if name not in refused else None
        raise SettingError(f"the plan factorizes {name}: {why}", hint)
    forms = forms_of(layers[name])
    if factors.form not in forms:
        raise SettingError(
            f"the plan factorizes {name} as {factors.form}: it can be {' or '.join(forms)}"
        )
    highest = highest_ranks(layers[name], factors.form)
    if any(rank > most for rank, most in zip(factors.ranks, highest, strict=True)):
        raise SettingError(
            f"the plan factorizes {name} with the ranks {list(factors.ranks)}: they can be at most "
            f"{list(highest)}"
        )


def with_factors(
    model: nn.Module, factors: Mapping[str, Factors], known: Mapping[str, torch.Tensor]
) -> nn.Module:
    """A copy with these layers factorized. ``known``: second moments of layers' inputs."""
    smaller = copy_of(model)
    for name, one in factors.items():
        layer = cast(Layer, smaller.get_submodule(name))
        smaller.set_submodule(name, factorized(layer, one, known.get(name)))
    return smaller.eval()


def _layers(
    model: nn.Module,
    example: Inputs,
    places: Mapping[str, Places],
    only: Sequence[str] | None = None,
) -> tuple[dict[str, Layer], list[UnprunableLayer]]:
    """The layers that can be factorized, in the model's order, and those that cannot. ``only``:
    look at no others.
    """
    layers: dict[str, Layer] = {}
    refused: list[UnprunableLayer] = []
    if isinstance(model, torch.fx.GraphModule) and not places:
        return {}, [UnprunableLayer("", "an exported program has no layers that are modules")]
    own = set(with_own_weights(model))
    for name, layer in model.named_modules():
        if not isinstance(layer, (*LAYERS, *TRANSPOSED)) or (only is not None and name not in only):
            continue
        why = _why_not(layer, name in own, name in places) or _fails(model, example, name)
        if why is None:
            layers[name] = cast(Layer, layer)
        else:
            refused.append(UnprunableLayer(name, why))
    return layers, refused


def _why_not(layer: nn.Module, own: bool, runs: bool) -> str | None:
    if type(layer) not in FACTORIZED:
        return f"{type(layer).__name__}: only linear layers and convolutions are factorized"
    if getattr(layer, "groups", 1) > 1:
        return "it is a grouped convolution"
    if not own:
        return "its weights are shared"
    if not runs:
        return "it does not run by itself: another module reads its weights"
    plain = cast(Layer, layer)
    if max(max(highest_ranks(plain, form)) for form in forms_of(plain)) > MOST_RANKS:
        return f"its rank may exceed {MOST_RANKS}"
    return None


def _fails(model: nn.Module, example: Inputs, name: str) -> str | None:
    """Why the model does not run if the layer is factorized."""
    layer = cast(Layer, model.get_submodule(name))
    factors = Factors(form=forms_of(layer)[0], ranks=(1,))
    try:
        trial = with_factors(model, {name: factors}, {})
        outputs_of(trial, example)
    except Exception as error:
        return f"the model does not run with its factors: {summary(error)}"
    return None


def _places(model: nn.Module, example: Inputs) -> dict[str, Places]:
    found: dict[str, Places] = {}

    def watch(name: str, layer: nn.Module, read: torch.Tensor, output: torch.Tensor) -> None:
        before = found.get(name, Places(0, 0, 0))
        outputs, inputs = cast(Layer, layer).weight.shape[:2]
        written = output.numel() // outputs
        found[name] = Places(
            before.read + read.numel() // inputs,
            before.between + written * read.shape[-1] // output.shape[-1],
            before.written + written,
        )

    layers = {name: part for name, part in model.named_modules() if type(part) in FACTORIZED}
    with watching(layers, watch), torch.no_grad():
        model(*example)
    return found


def _candidates(
    name: str,
    layer: Layer,
    places: Places,
    macs_before: int,
    moment: torch.Tensor | None,
    step: int,
) -> list[FactorizedLayer]:
    found = []
    for form in forms_of(layer):
        for factors in _ranks(layer, form, step):
            macs = macs_of_factors(layer, factors, places)
            if macs < macs_before:
                error = relative_error(layer, factors, moment)
                found.append(FactorizedLayer(name, factors, macs, macs_before, error))
    return found


def _ranks(layer: Layer, form: FactorForm, step: int) -> Iterator[Factors]:
    """Evenly spread ranks up to the highest; those of ``tucker`` in proportion."""
    highest = highest_ranks(layer, form)
    seen = set()
    for level in range(1, LEVELS + 1):
        ranks = tuple(step * round(rank * level / LEVELS / step) for rank in highest)
        if all(0 < r <= most for r, most in zip(ranks, highest, strict=True)):
            seen.add(ranks)
    return (Factors(form=form, ranks=ranks) for ranks in sorted(seen))


def _choose(
    candidates: Mapping[str, Sequence[FactorizedLayer]], ratio: float
) -> list[FactorizedLayer]:
    chosen: dict[str, FactorizedLayer] = {}
    whole = sum(options[0].macs_before for options in candidates.values())
    macs = whole
    while macs > (1 - ratio) * whole:
        steps = {name: _next(options, chosen.get(name)) for name, options in candidates.items()}
        possible = {name: step for name, step in steps.items() if step is not None}
        if not possible:
            raise SettingError(
                f"{ratio:.0%} of the multiply-accumulates cannot be factorized away: at most "
                f"{1 - macs / whole:.0%}"
            )
        name = min(possible, key=lambda one: possible[one][0])
        _, option = possible[name]
        macs -= (chosen[name].macs if name in chosen else option.macs_before) - option.macs
        chosen[name] = option
    return [chosen[name] for name in candidates if name in chosen]


def _next(
    options: Sequence[FactorizedLayer], current: FactorizedLayer | None
) -> tuple[float, FactorizedLayer] | None:
    """The next point of the lower convex hull: its error for each MAC that it saves, and itself."""
    macs = current.macs if current else options[0].macs_before
    error = current.error if current else 0.0
    slopes = [((one.error - error) / (macs - one.macs), one) for one in options if one.macs < macs]
    return min(slopes, key=lambda pair: (pair[0], pair[1].macs), default=None)
