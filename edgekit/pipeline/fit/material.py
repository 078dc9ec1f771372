"""What workers need to compute answers, as bytes that travel once: the model, and its data.

The model is sent with its code: classes of the user's files are pickled by value, so that workers
need neither the recipe nor its folder. Only a worker unpickles it, from the scheduler that the user
named (docs/scale.md says what that trusts).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import load, save

from edgekit.pipeline.fit.laboratory import Laboratory
from edgekit.pipeline.fit.meter import Meter
from edgekit.pipeline.model.cache_key import NoFingerprint, local_modules
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.subject import Subject
from edgekit.plan import Plan
from edgekit.progress import Silent
from edgekit.recipe.tensors import Inputs
from edgekit.runtimes.base import Runtime
from edgekit.runtimes.quiet import quiet
from edgekit.target import Target, host_architecture

if TYPE_CHECKING:
    from edgekit.recipe.recipe import Recipe

LOAD = "edgekit.pipeline.fit.material:load_answers"


@dataclass(frozen=True)
class RecipeFacts:
    """What is left of a recipe on its way to workers: no function of it runs there."""

    path: Path
    digest: str
    seed: int
    name: str

    def has(self, function: str) -> bool:  # noqa: ARG002
        return False


@dataclass(frozen=True)
class Material:
    """``subject``: without calibration inputs, which travel apart."""

    subject: Subject
    quantized: Plan
    target: Target
    runtime: Runtime
    seed: int

    @staticmethod
    def of(
        subject: Subject, quantized: Plan, target: Target, runtime: Runtime, seed: int
    ) -> Material:
        recipe = subject.recipe
        facts = RecipeFacts(recipe.path, recipe.digest, recipe.seed, recipe.name)
        outputs = subject.outputs_of_float.without_inputs()
        sent = replace(
            subject, recipe=cast("Recipe", facts), calibration=(), outputs_of_float=outputs
        )
        return Material(sent, quantized, target, runtime, seed)


def pack(material: Material, subject: Subject) -> tuple[bytes, ...]:
    """The material, and the calibration inputs of ``subject``. Raises what pickling raises."""
    import cloudpickle

    modules = list(local_modules())
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        model = cloudpickle.dumps(material)
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)
    return model, _data(subject.calibration)


def load_answers(parts: Sequence[bytes]) -> Callable[[str], Any]:
    """In a worker: the function that answers questions (Laboratory.answer)."""
    packed, data = parts
    with quiet():
        material: Material = pickle.loads(packed)  # noqa: S301 - from the user's own scheduler
    subject = replace(material.subject, calibration=_calibration(data))
    runtime = material.runtime
    files = runtime.runner_files(host_architecture(), Silent())
    context = BuildContext(runtime, files, material.seed, Silent(), NoFingerprint())
    laboratory = Laboratory(subject, Meter(material.target, context, None), material.quantized)

    def answer(question: str) -> Any:
        with quiet():
            return laboratory.answer(question)

    return answer


def _data(calibration: Sequence[Inputs]) -> bytes:
    """Equal inputs give equal bytes, in every build."""
    return save(
        {
            f"{number}.{place}": tensor.clone(memory_format=torch.contiguous_format)
            for number, inputs in enumerate(calibration)
            for place, tensor in enumerate(inputs)
        }
    )


def _calibration(data: bytes) -> tuple[Inputs, ...]:
    tensors = load(data)
    places = [tuple(map(int, name.split("."))) for name in tensors]
    count = 1 + max((number for number, _ in places), default=-1)
    widths = [0] * count
    for number, _ in places:
        widths[number] += 1
    return tuple(
        tuple(tensors[f"{number}.{place}"] for place in range(width))
        for number, width in enumerate(widths)
    )
