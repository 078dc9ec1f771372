"""The subject of a build: the recipe's model and inputs, and the float model's results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from edgekit.cache import content_key
from edgekit.compress.batches import batch_rows
from edgekit.compress.divergence import profile_outputs
from edgekit.compress.pruning.channel_choice import macs_of
from edgekit.documents.verdict import Judge
from edgekit.errors import RecipeError
from edgekit.fidelity.comparison import Fidelity, OutputHints, OutputKind
from edgekit.pipeline.model.batched import Batched
from edgekit.pipeline.model.predict import (
    CountedRun,
    Outputs,
    Predictor,
    Run,
    Structure,
    run_all,
    run_eager,
    structure_of,
)
from edgekit.pipeline.normal_form.normalize import NormalForm, normal_form
from edgekit.pipeline.normal_form.unwrap import plain, unwrapped
from edgekit.pipeline.state.explicit import State
from edgekit.pipeline.state.find import find_state
from edgekit.pipeline.state.sequence import Carried, Following, along
from edgekit.pipeline.state.trial import try_twice
from edgekit.progress import Progress
from edgekit.recipe.arguments import Arguments, parameters_of
from edgekit.recipe.calibration_file import (
    hold_out,
    read_calibration,
    split_for_training,
    spread_over,
)
from edgekit.recipe.image_size import Resizing
from edgekit.recipe.recipe import Recipe
from edgekit.recipe.tensors import Inputs, describe_all
from edgekit.recipe.user_code import user_code_errors
from edgekit.runtimes.base import FloatModel

# The number of calibration inputs that parity checks beside the example.
PARITY_INPUTS = 8
# The number of calibration inputs that determine what varies in the outputs.
PROFILED_INPUTS = 64


class OutputsOfFloat:
    """The float model's outputs, profiled on first use. Later versions of the subject (pruned,
    trained) are compared with the same outputs.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        example: Inputs,
        calibration: Sequence[Inputs],
        names: Sequence[str],
        hints: OutputHints,
    ) -> None:
        self._model, self._names, self._hints = model, names, hints
        self._inputs = spread_over(calibration, PROFILED_INPUTS) or [example]

    def on(self, example: Inputs, calibration: Sequence[Inputs]) -> OutputsOfFloat:
        """The same model on other inputs."""
        return OutputsOfFloat(self._model, example, calibration, self._names, self._hints)

    def without_inputs(self) -> OutputsOfFloat:
        """The same outputs, profiled now, without the inputs that they were profiled on."""
        other = OutputsOfFloat(self._model, (), (), self._names, self._hints)
        other.__dict__["fidelity"] = self.fidelity
        return other

    @cached_property
    def fidelity(self) -> Fidelity:
        floats = run_all(Batched(self._model), self._inputs)
        rows = batch_rows(run_eager(self._model), self._inputs)
        return profile_outputs(floats, rows, self._names, self._hints)


@dataclass(frozen=True)
class Subject:
    """The recipe's model in normal form, with its inputs and the float model's results.

    ``calibration``: empty without calibration(). ``fp32_accuracy``: None without evaluate().
    ``fp32_judged_by``: what ran the float model for it (float_accuracy.py). ``notes``: changes made
    to the recipe's model on reading it. ``resizing``: from the recipe's images to those of
    ``example`` and ``calibration``; None if they are the same.
    """

    recipe: Recipe
    model: torch.nn.Module
    example: Inputs
    example_outputs: Outputs
    arguments: Arguments
    structure: Structure
    calibration: tuple[Inputs, ...]
    fp32_accuracy: float | None
    notes: tuple[str, ...]
    outputs_of_float: OutputsOfFloat
    states: tuple[State, ...] = ()
    fp32_judged_by: Judge = "torch"
    resizing: Resizing | None = None

    @property
    def input_names(self) -> tuple[str, ...]:
        return (*self.arguments.names, *(state.name for state in self.states))

    @property
    def example_without_states(self) -> Inputs:
        """The example without states."""
        return self.example[: len(self.arguments.names)]

    @property
    def initial_states(self) -> Inputs:
        return tuple(state.initial for state in self.states)

    @property
    def fidelity_without_states(self) -> Fidelity:
        """The fidelity without states, which count by their effect on later outputs."""
        return Fidelity(self.fidelity.outputs[: len(self.structure.names) - len(self.states)])

    @property
    def fidelity(self) -> Fidelity:
        return self.outputs_of_float.fidelity

    @cached_property
    def _held_out(self) -> tuple[list[Inputs], list[Inputs]]:
        return hold_out(self.calibration)

    @property
    def fitted(self) -> list[Inputs]:
        """Calibration inputs that ranges and repairs are fitted to."""
        return self._held_out[0]

    @property
    def judged(self) -> list[Inputs]:
        """Calibration inputs that nothing is fitted to, if there are enough of them."""
        return self._held_out[1]

    @cached_property
    def for_training(self) -> tuple[list[Inputs], list[Inputs]]:
        """``fitted``, split into inputs that train and inputs that judge the training, where there
        are no labels.
        """
        return split_for_training(self.fitted)

    @property
    def fitted_before_training(self) -> list[Inputs]:
        """What weights and norms are fitted to before a training: not what judges it. A refit of
        all layers reproduces the float model on its own inputs, and each step of the training
        would look worse than none.
        """
        return self.fitted if self.recipe.has("training") else self.for_training[0]

    @property
    def float_model(self) -> FloatModel:
        """What a runtime quantizes."""
        return FloatModel(self.model, self.example, self.calibration, self.fitted)

    def evaluate(self, run: Run) -> float | None:
        if not self.recipe.has("evaluate"):
            return None
        return self.recipe.evaluate(self.predictor(run))

    def predictor(self, run: Run) -> Predictor:
        """The ``predict`` of ``run``, at the start of a sequence."""
        carried = Carried(run, self.initial_states) if self.states else run
        return Predictor(
            carried, self.example_without_states, self.arguments, self.structure, self.resizing
        )

    def in_sequence(self, run: Run) -> Run:
        """``run`` for calibration inputs, with its own states fed back, if any."""
        return Following(run, self.calibration, self.initial_states) if self.states else run

    def training(self, epoch: int) -> Iterator[tuple[Inputs, Any]]:
        """One epoch of the recipe's training()."""
        return self.recipe.training(epoch, self.example_without_states, self.arguments)

    @property
    def structure_digest(self) -> str:
        """A digest of the layers' names and the shapes of their weights, but not the values."""
        state = (*self.model.named_parameters(), *self.model.named_buffers())
        parts = [f"{name} {list(tensor.shape)}".encode() for name, tensor in state]
        return content_key(parts)[:16]

    @property
    def parity_inputs(self) -> list[Inputs]:
        """The example, and PARITY_INPUTS evenly spread calibration inputs."""
        step = max(1, len(self.calibration) // PARITY_INPUTS)
        return [self.example, *self.calibration[::step][:PARITY_INPUTS]]


def read_subject(
    recipe: Recipe,
    wants_calibration: bool,
    progress: Progress,
    calibration_file: Path | None = None,
) -> Subject:
    """Read the recipe's model and data, and run the model; nothing is evaluated yet.

    ``calibration_file`` replaces the recipe's calibration(). Raises RecipeError.
    """
    with progress.stage("loading the model and its data"):
        arguments, form = _read_model(recipe)
        outputs, structure = structure_of(form.outputs)
        _check_finite(recipe, outputs, structure)
        with user_code_errors(recipe.path, "the model, run twice on example_inputs(),"):
            trial = try_twice(recipe.path, form.model, form.example)
        calibration: list[Inputs] = []
        if wants_calibration and calibration_file is not None:
            calibration = read_calibration(calibration_file, form.example, arguments.names)
        elif wants_calibration and recipe.has("calibration"):
            calibration = recipe.calibration(form.example, arguments)
        _check_variety(calibration, calibration_file or recipe.path)
        with user_code_errors(recipe.path, "the model, run on one input after the other,"):
            stateful = find_state(recipe.path, form, arguments.names, calibration, trial)
    for note in form.notes:
        progress.note(note)
    declared = _declared(recipe, structure)
    subject = Subject(
        recipe=recipe,
        model=stateful.model,
        example=form.example,
        example_outputs=outputs,
        arguments=arguments,
        structure=structure,
        calibration=tuple(calibration),
        fp32_accuracy=None,
        notes=form.notes,
        outputs_of_float=OutputsOfFloat(
            stateful.model, form.example, calibration, structure.names, declared
        ),
    )
    return (
        _with_states(subject, stateful.states, declared, progress) if stateful.states else subject
    )


def _with_states(
    subject: Subject,
    states: tuple[State, ...],
    declared: OutputHints,
    progress: Progress,
) -> Subject:
    """The subject of a model that takes states after its inputs. The calibration inputs are the
    steps of one sequence, and get the float model's states.
    """
    names = [state.name for state in states]
    initial = tuple(state.initial for state in states)
    progress.note(f"the model has state, which becomes inputs and outputs: {', '.join(names)}")
    eager, example = run_eager(subject.model), (*subject.example, *initial)
    with progress.stage("running the calibration inputs in sequence"):
        calibration = along(eager, subject.calibration, initial)
    names_of_outputs = subject.structure.names
    structure = replace(
        subject.structure, names=(*names_of_outputs, *_next_names(names, names_of_outputs))
    )
    unknown: list[OutputKind | None] = [None] * len(names_of_outputs)
    values: list[OutputKind | None] = ["values"] * len(names)
    kinds = (*(declared.kinds or unknown), *values)
    return replace(
        subject,
        example=example,
        example_outputs=eager(example),
        structure=structure,
        calibration=tuple(calibration),
        outputs_of_float=OutputsOfFloat(
            subject.model, example, calibration, structure.names, replace(declared, kinds=kinds)
        ),
        states=states,
    )


def _next_names(states: Sequence[str], outputs: Sequence[str]) -> list[str]:
    """The names of the outputs that hold the new states, different from the model's ``outputs``."""
    names: list[str] = []
    for state in states:
        name = f"{state}_next"
        while name in (*outputs, *names):
            name += "_state"
        names.append(name)
    return names


def _declared(recipe: Recipe, structure: Structure) -> OutputHints:
    """The output kinds that the recipe declares. With the default loss of training(), which is
    cross-entropy, outputs are classes along the second axis, also for (N, classes, length).
    """
    kinds = recipe.output_kinds(structure.names)
    by_labels = recipe.has("training") and not recipe.has("loss")
    if kinds is not None or not by_labels:
        return OutputHints(kinds)
    classes: list[OutputKind] = ["classes" for _ in structure.names]
    return OutputHints(tuple(classes), class_axis=1)


def with_accuracy(subject: Subject, progress: Progress) -> Subject:
    """The subject with its float model's accuracy on evaluate(), measured in torch."""
    with progress.stage("evaluating the float model") as stage:
        counted = CountedRun(Batched(subject.model), stage)
        return replace(subject, fp32_accuracy=subject.evaluate(counted))


def _read_model(recipe: Recipe) -> tuple[Arguments, NormalForm]:
    notes: list[str] = []
    model = unwrapped(recipe.model(), notes)
    _check_weights(recipe, model)
    arguments, example = recipe.example(parameters_of(model.forward))
    with user_code_errors(recipe.path, f"the model on example_inputs() ({describe_all(example)})"):
        args, keywords = arguments.rebuild(example)
        model = plain(model, tuple(args), keywords, notes)
        form = normal_form(model, arguments, example)
    return arguments, replace(form, notes=(*notes, *form.notes))


def _check_weights(recipe: Recipe, model: torch.nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not is_lazy(tensor) and tensor.is_floating_point() and bool(torch.isnan(tensor).any()):
            raise RecipeError(
                f"{recipe.path}: the model's {name} contains NaN",
                "its training did not converge, or the file is damaged",
            )


def _check_variety(calibration: Sequence[Inputs], path: Path) -> None:
    """Raise RecipeError if all calibration inputs are identical: they give useless ranges."""
    first = calibration[0] if len(calibration) > 1 else ()
    if first and all(
        torch.equal(tensor, like)
        for inputs in calibration
        for tensor, like in zip(inputs, first, strict=True)
    ):
        raise RecipeError(
            f"{path}: the {len(calibration)} calibration inputs are all the same",
            "yield some tens of typical inputs that differ from each other",
        )


def _check_finite(recipe: Recipe, outputs: Outputs, structure: Structure) -> None:
    for name, tensor in zip(structure.names, outputs, strict=True):
        if bool(torch.isnan(tensor).any()):
            raise RecipeError(
                f"{recipe.path}: the model's output {name} is NaN for example_inputs()",
                "check that its weights are loaded and that the inputs are normalised for it",
            )


def some_inputs(
    subject: Subject, data: Sequence[Inputs], fewest: int, most: int, macs: float
) -> list[Inputs]:
    """Evenly spread items of ``data``: as many as ``macs`` multiply-accumulates allow, but between
    ``fewest`` and ``most``.
    """
    affordable = int(macs / max(1, macs_of(subject.model, subject.example)))
    return spread_over(data, max(fewest, min(most, affordable)))
