"""A stateful model, run along a sequence: each step's new states are the next step's states."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from edgekit.recipe.tensors import Inputs

Outputs = list[torch.Tensor]
Run = Callable[[Inputs], Outputs]


class Carried:
    """A run without states in its signature: it carries them itself. ``run`` takes states after the
    inputs and returns new states after the outputs.
    """

    def __init__(self, run: Run, initial: Sequence[torch.Tensor]) -> None:
        self._run, self._initial = run, tuple(initial)
        self.states: tuple[torch.Tensor, ...] = self._initial

    def __call__(self, inputs: Inputs) -> Outputs:
        results = self._run((*inputs, *self.states))
        count = len(results) - len(self._initial)
        self.states = tuple(results[count:])
        return results[:count]

    def reset(self) -> None:
        """Start a new sequence."""
        self.states = self._initial


def along(run: Run, steps: Sequence[Inputs], initial: Sequence[torch.Tensor]) -> list[Inputs]:
    """Each step's inputs, followed by the states before it, as ``run`` computes them."""
    carried, extended = Carried(run, initial), []
    for inputs in steps:
        extended.append((*inputs, *carried.states))
        carried(inputs)
    return extended


class Following:
    """A run over a sequence with its own states, so that their errors accumulate as on a device.

    ``steps``: the sequence. Each step includes states of another run, which are ignored.
    """

    def __init__(self, run: Run, steps: Sequence[Inputs], initial: Sequence[torch.Tensor]) -> None:
        self._carried, self._steps = Carried(run, initial), steps
        self._answers: dict[int, Outputs] = {}

    def __call__(self, inputs: Inputs) -> Outputs:
        """The outputs and new states of ``inputs``, which must be one of the steps."""
        while id(inputs) not in self._answers:
            step = self._steps[len(self._answers)]
            own_inputs = step[: len(step) - len(self._carried.states)]
            self._answers[id(step)] = [*self._carried(own_inputs), *self._carried.states]
        return self._answers[id(inputs)]
