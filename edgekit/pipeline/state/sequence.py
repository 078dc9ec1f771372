"""A model with state, run along a sequence: the states that a step gives are those of the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from edgekit.recipe.tensors import Inputs

Outputs = list[torch.Tensor]
Run = Callable[[Inputs], Outputs]


class Carried:
    """A run that takes and gives a model's own tensors only. ``run`` takes states after the
    inputs, and gives new ones after the outputs.
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
    """Each step with the states that ``run`` finds there."""
    carried, found = Carried(run, initial), []
    for inputs in steps:
        found.append((*inputs, *carried.states))
        carried(inputs)
    return found


class Following:
    """A run that answers inputs of a sequence as they are answered in sequence, by the states
    that it gave itself: errors of states add up as they do on a device.

    ``steps`` are the sequence, each with states of another run, which are left out.
    """

    def __init__(self, run: Run, steps: Sequence[Inputs], initial: Sequence[torch.Tensor]) -> None:
        self._carried, self._steps = Carried(run, initial), steps
        self._answers: dict[int, Outputs] = {}

    def __call__(self, inputs: Inputs) -> Outputs:
        """``inputs`` is one of the steps."""
        while id(inputs) not in self._answers:
            step = self._steps[len(self._answers)]
            own = step[: len(step) - len(self._carried.states)]
            self._answers[id(step)] = [*self._carried(own), *self._carried.states]
        return self._answers[id(inputs)]
