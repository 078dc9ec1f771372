"""The choice of blocks to remove: those that are most recoverable for their cost.

As in PRACTISE (G.-H. Wang and J. Wu, 2022, arXiv:2202.07861), a block's worth is what its removal
costs after a brief recovery without labels, because the loss before any recovery ranks blocks
wrongly. Theirs trains 1x1 adaptors that fold into the layers around the gap. Here it is in closed
form: all layers behind the gap are refitted (pruning/refit.py). That includes what such adaptors
can do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from edgekit.compress.batches import can_batch, concatenate
from edgekit.compress.depth.blocks import find_blocks, is_kept, outermost, without_blocks
from edgekit.compress.pruning.channel_choice import macs_by_layer, refusal_lines
from edgekit.compress.pruning.channel_groups import UnprunableLayer, outputs_of, with_own_weights
from edgekit.compress.pruning.compensate import compensate
from edgekit.compress.pruning.refit import Advance, Refit, silent
from edgekit.compress.pruning.trials import OutputLoss, fitted_and_judged
from edgekit.errors import RuntimeFailure, SettingError
from edgekit.fidelity.comparison import NO_HINTS, OutputHints
from edgekit.recipe.tensors import Inputs

# The batch that is fitted has at most so many inputs and values, because of its memory.
MOST_FITTED, MOST_VALUES = 256, 10_000_000
TINY = 1e-12
# With fewer places of a layer for each of its columns, blocks of MobileNetV2 lost more after the
# refit than before: the places of an image are alike.
PLACES_PER_COLUMN = 12


@dataclass(frozen=True)
class DepthResult:
    """A model without some blocks; the weights of the others are unchanged (``compensate`` with all
    its layers recovers most of the loss, training more).

    ``dropped``: their names, in the order of removal. ``losses``: for each of them, how far the
    outputs move without it and those before it, after refitting (``OutputLoss``). ``refused``:
    modules that look like blocks but cannot be removed.
    """

    model: nn.Module
    dropped: tuple[str, ...]
    losses: tuple[float, ...]
    refused: tuple[UnprunableLayer, ...]


def drop_blocks(
    model: nn.Module,
    example: Inputs,
    count: int,
    inputs: Sequence[Inputs],
    costs: Mapping[str, float] | None = None,
    advance: Advance = silent,
    hints: OutputHints = NO_HINTS,
    keep: Sequence[str] = (),
) -> DepthResult:
    """A copy without ``count`` blocks, chosen one after the other: next is the block whose removal
    adds the least loss for each unit of the cost that it saves.

    ``costs``: of each block that may be removed, such as its latency; default: the
    multiply-accumulates of all blocks. ``keep``: modules that are not removed, nor in part.

    Raises RuntimeFailure (no block can be removed), SettingError (fewer than ``count`` can).
    """
    blocks, refused = find_blocks(model, example)
    costs = costs or block_macs(model, example, blocks)
    blocks = [block for block in blocks if block in costs and not is_kept(block, keep)]
    if not blocks and keep:
        raise SettingError(f"all blocks that could be removed are kept: {', '.join(keep)}")
    if not blocks:
        why = refusal_lines(refused) or "  it has no residual blocks"
        raise RuntimeFailure(f"no block of this model can be removed:\n{why}")
    trials = BlockTrials(model, example, inputs, hints)
    search = _Search(trials, blocks, costs)
    for done in range(count):
        if not search.drop_next():
            raise SettingError(
                f"{count} blocks cannot be removed from this model: at most {done}",
                "remove fewer blocks, or channels as well",
            )
        advance(done + 1, count)
    smaller = without_blocks(model, example, search.dropped)
    return DepthResult(smaller, tuple(search.dropped), tuple(search.losses), tuple(refused))


def refuse_unknown_blocks(model: nn.Module, example: Inputs, names: Sequence[str]) -> None:
    """Raise SettingError if one of ``names`` is not a block that can be removed."""
    if not names:
        return
    blocks, refused = find_blocks(model, example)
    for name in sorted(set(names) - set(blocks)):
        why = {one.layer: one.why for one in refused}.get(name, "it is not a residual block")
        raise SettingError(
            f"the module '{name}' cannot be removed: {why}",
            f"these can: {', '.join(blocks)}" if blocks else None,
        )


def block_macs(model: nn.Module, example: Inputs, blocks: Sequence[str]) -> dict[str, float]:
    """The multiply-accumulates of each block."""
    macs = macs_by_layer(model, example)
    return {
        block: float(
            sum(count for name, count in macs.items() if f"{name}.".startswith(f"{block}."))
        )
        for block in blocks
    }


class BlockTrials:
    """Fits on one half of the inputs and judges on the other."""

    def __init__(
        self,
        model: nn.Module,
        example: Inputs,
        inputs: Sequence[Inputs],
        hints: OutputHints = NO_HINTS,
    ) -> None:
        fitted, judged = fitted_and_judged(inputs)
        values = sum(tensor.numel() for tensor in fitted[0])
        fitted = fitted[: max(1, min(MOST_FITTED, MOST_VALUES // max(1, values)))]
        self.model, self.example, self.fitted = model, example, fitted
        self.outputs = OutputLoss(model, judged, hints)
        batches = can_batch(partial(outputs_of, model), self.fitted)
        self.refit: Refit | None = None
        if batches:
            names, batch = with_own_weights(model), concatenate(self.fitted)
            self.refit = Refit(model, names, example, batch, PLACES_PER_COLUMN)

    def loss(self, dropped: Sequence[str]) -> float:
        """How far the outputs move without these blocks, after refitting."""
        smaller = without_blocks(self.model, self.example, dropped)
        if self.refit is not None:
            self.refit.apply(smaller, self.example)
        else:
            unchanged: dict[str, list[int]] = {name: [] for name in with_own_weights(smaller)}
            compensate(self.model, smaller, unchanged, self.example, self.fitted)
        return self.outputs.of(smaller)


class _Search:
    """Greedy, and lazy: a score from before the last removal is a bound, because losses grow with
    every removal. Only the best block is measured again, until it stays the best.
    """

    def __init__(
        self, trials: BlockTrials, blocks: Sequence[str], costs: Mapping[str, float]
    ) -> None:
        self.trials, self.costs = trials, costs
        self.dropped: list[str] = []
        self.losses: list[float] = []
        self.trial = {block: self._measure(block) for block in blocks}

    def drop_next(self) -> bool:
        """Remove one more block; False: none is left."""
        while self.trial:
            best = min(self.trial, key=lambda block: self.trial[block].score)
            trial = self.trial[best]
            if trial.after < len(self.dropped):
                self.trial[best] = self._measure(best)
                continue
            self.dropped = [*self.dropped, best]
            self.losses.append(trial.loss)
            self.trial = {
                block: trial
                for block, trial in self.trial.items()
                if block in outermost([*self.dropped, block]) and block != best
            }
            return True
        return False

    def _measure(self, block: str) -> _Trial:
        loss = self.trials.loss([*self.dropped, block])
        inside = [one for one in self.dropped if one.startswith(f"{block}.")]
        saved = self.costs[block] - sum(self.costs[one] for one in outermost(inside))
        added = max(0.0, loss - (self.losses[-1] if self.losses else 0.0))
        return _Trial(len(self.dropped), loss, (added / max(saved, TINY), -saved))


@dataclass(frozen=True)
class _Trial:
    """The loss without a block and ``after`` others, and its score: the least is removed next."""

    after: int
    loss: float
    score: tuple[float, float]
