"""Stateful models: tensors that forward changes from call to call become inputs and outputs.

A model that writes nothing is run twice. A model that writes in every run is run along a sequence
and traced operator by operator (dependence.py). Tensors that outputs are computed from are state;
others stay fixed, such as a cache that the first run fills, or a tensor kept for display. In doubt
a tensor is state. For a Python number it is checked whether anything depends on it
(python_numbers.py). An error names values that outputs depend on and that cannot be inputs, because
their shape changes or they are not tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from edgekit.errors import RecipeError
from edgekit.pipeline.normal_form.flat_call import Around
from edgekit.pipeline.normal_form.normalize import NormalForm
from edgekit.pipeline.normal_form.randomness import draw_some, random_numbers_kept
from edgekit.pipeline.normal_form.slots import (
    Marks,
    Slot,
    Values,
    duplicate,
    kept,
    own_copy,
    placed,
    read,
    same,
    slots_of,
    tensors_in,
    write,
)
from edgekit.pipeline.state.dependence import Origins, Work
from edgekit.pipeline.state.explicit import PART, State, with_states
from edgekit.pipeline.state.naming import named_states, reason_against
from edgekit.pipeline.state.python_numbers import Asked, Number, changing, mapped, matters
from edgekit.pipeline.state.runs import (
    Outputs,
    alike,
    altered,
    flat_outputs,
    near_outputs,
    run_model,
)
from edgekit.pipeline.state.trial import Trial, random_error
from edgekit.recipe.tensors import Inputs

# The number of steps to run a model that writes: limited by this work (elements that operators read
# and write), so that a large model does not run for long.
LEAST_STEPS, MOST_STEPS, WORK = 3, 32, 200_000_000


@dataclass(frozen=True)
class Stateful:
    """``model`` takes its inputs and then the states; it returns its outputs and then the new
    states. Without ``states`` its signature is unchanged.
    """

    model: nn.Module
    states: tuple[State, ...] = ()


def find_state(
    path: Path, form: NormalForm, names: Sequence[str], others: Sequence[Inputs], trial: Trial
) -> Stateful:
    """Turn the state of a model, if any, into inputs and outputs, and fill its caches.

    ``names``: of its inputs. ``others``: further inputs in sequence.

    Raises RecipeError: a state cannot be an input.
    """
    if not trial.first | trial.second:
        return Stateful(form.model)
    with random_numbers_kept():
        draw_some()  # other numbers than the trial's
        return _Inquiry(path, form.model, form.example, names, others, trial).run()


@dataclass
class _Inquiry:
    """One search for state. ``steps``: inputs in sequence. ``outputs``: of the original model for
    each step. ``values``: all slots written so far, after each step.
    """

    path: Path
    model: nn.Module
    example: Inputs
    names: Sequence[str]
    others: Sequence[Inputs]
    trial: Trial
    outputs: list[Outputs] = field(default_factory=list)
    values: list[Values] = field(default_factory=list)

    def run(self) -> Stateful:
        self._follow()
        self._check_caches()
        groups = self._states()
        self._check_numbers(groups)
        self._check_random(groups)
        inside = isinstance(self.model, Around)
        states = named_states(self._before, groups, f"{PART}." if inside else "", self.names)
        stateful = Stateful(self._stateful_model(states), states)
        self._check_same(stateful)
        return stateful

    @cached_property
    def steps(self) -> list[Inputs]:
        inputs = [self.example, *self.others[: MOST_STEPS - 1]]
        return inputs + [altered(self.example, seed) for seed in range(MOST_STEPS - len(inputs))]

    def _follow(self) -> None:
        """Run a copy along the steps. If only caches are written, the trial has run the only step
        needed.
        """
        written = set(self.trial.first | self.trial.second)
        if not self.trial.second:
            self.outputs, self.values = [flat_outputs(self.trial.result)], [self.trial.filled]
            return
        copied, work = own_copy(self.model), Work()
        for count, step in enumerate(self.steps):
            if count >= LEAST_STEPS and count * work.elements > WORK:
                return
            marks = Marks.of(copied)
            try:
                with nullcontext() if count else work:
                    outputs = flat_outputs(run_model(copied, step))
            except Exception:
                if count < LEAST_STEPS:
                    raise
                return  # a cache of fixed size may be full
            self.outputs.append(outputs)
            written |= marks.written(copied)
            self.values.append(kept(copied, written))

    @cached_property
    def _before(self) -> Values:
        """The initial values of all written slots."""
        slots = slots_of(self.model)
        written = [*(slot for slot in slots if slot in self.values[-1])]
        written += sorted(self.values[-1].keys() - slots.keys())
        return {slot: slots.get(slot) for slot in written}

    @cached_property
    def _after(self) -> Values:
        """The values after the first step."""
        return self._before | self.values[0]

    @cached_property
    def _moving(self) -> list[Slot]:
        """Slots that later steps write too."""
        if not self.trial.second:
            return []
        later = [values | self._before for values in self.values[1:]]
        changed = {s for s in self._before if any(not same(v[s], self._after[s]) for v in later)}
        moving = changed | self.trial.second
        return [slot for slot in self._before if slot in moving]

    @cached_property
    def _tensors(self) -> list[Slot]:
        """Moving slots whose values are tensors of constant shapes."""
        forms = {
            slot: {_form(v.get(slot, self._before[slot])) for v in self.values}
            for slot in self._moving
        }
        return [
            slot for slot in self._moving if forms[slot] == {_form(self._before[slot])} != {None}
        ]

    @cached_property
    def _groups(self) -> list[tuple[Slot, ...]]:
        """The tensor slots, grouped: slots that hold the same tensor are one state."""
        by_tensor: dict[int, list[Slot]] = {}
        for slot in self._tensors:
            by_tensor.setdefault(id(self._before[slot]), []).append(slot)
        groups: list[tuple[Slot, ...]] = []
        for slots in by_tensor.values():
            one = all(alike(values[s], values[slots[0]]) for values in self.values for s in slots)
            groups += [tuple(slots)] if one else [(slot,) for slot in slots]
        return groups

    @cached_property
    def _base(self) -> Values:
        """All written slots at the start of a sequence, with filled caches."""
        return self._after | {slot: self._before[slot] for slot in self._tensors}

    @cached_property
    def _scratch(self) -> nn.Module:
        return own_copy(self.model)

    def _copies(self, values: Values) -> Values:
        """Copies of values; the slots of a group share one copy."""
        copies = {slot: duplicate(value) for slot, value in values.items()}
        for group in self._groups:
            copies |= dict.fromkeys(group, copies[group[0]])
        return copies

    @cached_property
    def _points(self) -> list[tuple[Inputs, Values]]:
        """Each step with the slots' values before it."""
        starts = [self._base, *(self._before | values for values in self.values[:-1])]
        return list(zip(self.steps, starts, strict=False))

    def _check_caches(self) -> None:
        """Raise RecipeError if a cache depends on the input that filled it, and outputs on it."""
        once = [slot for slot in self._before if slot not in self._moving]
        if not once:
            return
        try:
            fresh = own_copy(self.model)
            outputs = flat_outputs(run_model(fresh, self.steps[1]))
        except Exception:  # the model rejects the generated input
            return
        differs = [slot for slot in once if not same(read(fresh, slot), self._after[slot])]
        with placed(self._scratch, self._copies(self._base)):
            filled = flat_outputs(run_model(self._scratch, self.steps[1]))
        if differs and not near_outputs(outputs, filled):
            raise self._refused(differs)

    def _states(self) -> list[tuple[Slot, ...]]:
        """The groups that outputs depend on, directly or through other slots."""
        if not self._moving:
            return []
        needed, feeding = self._dependence()
        while more := set[Slot]().union(*(feeding[slot] for slot in needed)) - needed:
            needed |= more
        others = [slot for slot in self._moving if slot in needed and slot not in self._tensors]
        if others:
            raise self._refused(others)
        return [group for group in self._groups if needed & set(group)]

    def _dependence(self) -> tuple[set[Slot], dict[Slot, set[Slot]]]:
        """The slots that outputs are computed from, and those that each slot is computed from."""
        needed: set[Slot] = set()
        feeding: dict[Slot, set[Slot]] = {slot: set() for slot in self._moving}
        for inputs, values in self._points:
            copies, origins = self._copies(values), Origins()
            for slot in self._moving:
                origins.mark(self._marked(slot, copies[slot]), slot)
            with placed(self._scratch, copies):
                try:
                    with origins:
                        result = run_model(self._scratch, inputs)
                except Exception:  # an operator cannot be traced
                    return set(self._tensors), feeding
                needed |= origins.of(result) | origins.read
                for slot, sources in feeding.items():
                    sources |= origins.of(read(self._scratch, slot))
        return needed, feeding

    def _marked(self, slot: Slot, value: Any) -> list[torch.Tensor]:
        """The tensors of a slot to trace. Of a slot that cannot be a state, only those that later
        steps changed.
        """
        tensors = list(tensors_in(value))
        if slot in self._tensors:
            return tensors
        first = tensors_in(self._after[slot])
        return [t for t, old in zip_longest(tensors, first) if t is not None and not same(t, old)]

    def _check_numbers(self, states: Sequence[Sequence[Slot]]) -> None:
        """Raise RecipeError if anything depends on a Python number that changes."""
        numbers = [slot for slot in self._moving if slot not in self._tensors]
        carried = [slot for group in states for slot in group]
        watched = carried + [s for s in numbers if isinstance(self._base[s], (str, type(None)))]
        if numbers and self._matter(numbers, watched):
            raise self._refused([s for s in numbers if self._matter([s], watched)] or numbers)

    def _matter(self, slots: Sequence[Slot], watched: Sequence[Slot]) -> bool:
        """Whether anything depends on these slots, at the first or the last step."""
        return any(
            matters(partial(self._run_asked, slots, watched, *point), _same_results)
            for point in (self._points[0], self._points[-1])
        )

    def _run_asked(
        self,
        slots: Sequence[Slot],
        watched: Sequence[Slot],
        inputs: Inputs,
        values: Values,
        asked: Asked,
    ) -> tuple[Outputs, list[Any], set[Slot]]:
        """Run with numbers that record their use. Return the outputs, the watched values, and slots
        that were never written before.
        """
        model, copies = own_copy(self.model), self._copies(values)
        copies |= {slot: self._recording(slot, copies[slot], asked) for slot in slots}
        with placed(model, copies):
            marks = Marks.of(model)
            outputs = flat_outputs(run_model(model, inputs))
            new = marks.written(model) - self._before.keys()
            return outputs, [duplicate(read(model, slot)) for slot in watched], new

    def _recording(self, slot: Slot, value: Any, asked: Asked) -> Any:
        """``value`` with each changing number replaced by one that records its use in ``asked``."""
        moved = changing(step.get(slot) for step in self.values)

        def replace(path: str, number: Any) -> Any:
            return Number(number, asked) if path in moved else number

        return mapped(value, replace)

    def _check_random(self, states: Sequence[Sequence[Slot]]) -> None:
        for slot in (slot for group in states for slot in group):
            if not alike(self.values[0][slot], self.trial.filled.get(slot, self._before[slot])):
                raise random_error(self.path, self.model, self.example)

    def _stateful_model(self, states: Sequence[State]) -> nn.Module:
        model = own_copy(self.model)
        carried = {slot for state in states for slot in state.slots}
        for slot, value in self._base.items():
            if slot not in self._moving:
                write(model, slot, duplicate(value))
        held = {s: duplicate(self._base[s]) for s in self._moving if s not in carried}
        if not states and not held:
            return model
        return with_states(model, states, held, len(self.example))

    def _check_same(self, stateful: Stateful) -> None:
        """Raise RecipeError if the outputs differ from those of the original model at any step."""
        state = [state.initial for state in stateful.states]
        others = [slot for slot in self._moving if slot not in self._tensors]
        for step, outputs in zip(self.steps, self.outputs, strict=False):
            try:
                results = flat_outputs(run_model(stateful.model, (*step, *state)))
            except Exception as error:
                if not others:  # no slot can be the cause
                    raise
                raise self._refused(others) from error
            if not near_outputs(results[: len(outputs)], outputs):
                raise self._refused(others or self._moving or list(self._before))
            state = results[len(outputs) :]

    def _refused(self, slots: Sequence[Slot]) -> RecipeError:
        reason, hint = reason_against(
            slots[0], self._before[slots[0]], [v.get(slots[0]) for v in self.values]
        )
        names = ", ".join(map(str, slots))
        return RecipeError(
            f"{self.path}: the model changes {names} when it is called, and its outputs depend on "
            f"that: {reason}",
            hint,
        )


def _form(value: Any) -> Any:
    """Structure, shapes and types of a value if all of it is tensors; else None."""
    leaves, tree = pytree.tree_flatten(value)
    if not leaves or not all(torch.is_tensor(t) and t.layout == torch.strided for t in leaves):
        return None
    return str(tree), tuple((tuple(t.shape), str(t.dtype)) for t in leaves)


def _same_results(a: tuple[Outputs, list[Any], set[Slot]], b: Any) -> bool:
    alike = all(
        same(x, y) or (flat_outputs(x) and alike(x, y)) for x, y in zip(a[1], b[1], strict=True)
    )
    return near_outputs(a[0], b[0]) and alike and a[2] == b[2]
