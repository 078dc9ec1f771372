"""A smaller model in the place of the recipe's: pruned, and recovered by training, as a plan says.

All that follows (quantization, repairs, packaging) works on it as on any model; accuracy is still
held against the recipe's own.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file
from torch import nn

from edgekit.compress.channels import Group, parameters_of, without_channels
from edgekit.compress.prune import (
    Importance,
    by_batch_norm,
    by_fisher,
    by_size,
    by_taylor,
    macs_of,
    prune,
)
from edgekit.device.local import LocalTransport
from edgekit.documents import CompressionStep
from edgekit.errors import RecipeError
from edgekit.pipeline.fingerprint import Fingerprint
from edgekit.pipeline.kept import Tools, found_stage, keep_stage
from edgekit.pipeline.lowered import lower
from edgekit.pipeline.payoff import Arena
from edgekit.pipeline.predict import run_eager, to_bytes
from edgekit.pipeline.recovery import recover
from edgekit.pipeline.subject import Subject
from edgekit.plan import Plan, Training

KIND, WEIGHTS, FOUND = "smaller", "weights.safetensors", "found.json"
# How many inputs tell what a channel is worth: a backward pass each.
WEIGHED_INPUTS, WEIGHED_BATCHES = 64, 16


@dataclass(frozen=True)
class Smaller:
    """What building goes on with; ``plan`` leads to it again."""

    subject: Subject
    tools: Tools
    plan: Plan
    steps: tuple[CompressionStep, ...]


class _Found(BaseModel):
    """What was done, as it is kept beside the weights."""

    model_config = ConfigDict(frozen=True)

    gone: dict[str, list[int]]
    recover: Training | None
    steps: tuple[CompressionStep, ...]


def smaller(subject: Subject, tools: Tools, plan: Plan, limit_s: float | None = None) -> Smaller:
    """Prune and recover, or take what was kept of it.

    Raises SettingError, RuntimeFailure (prune), TrainingError, RecipeError.
    """
    key = tools.fingerprint.key(tools.runtime, plan)
    eager = run_eager(subject.model)
    floats = [eager(inputs) for inputs in subject.parity_inputs]
    kept = found_stage(KIND, key, floats, partial(_read, subject)) if limit_s is None else None
    if kept is not None:
        tools.progress.note("pruned already: taken from the cache")
        model, found = kept
    else:
        model, found = _done(subject, tools, plan, limit_s)
    done = plan.model_copy(update={"recover": found.recover})
    if kept is None:
        keys = {tools.fingerprint.key(tools.runtime, done)} | ({key} if limit_s is None else set())
        for name in keys:
            keep_stage(tools, KIND, name, floats, partial(_write, model, found))
    outputs = run_eager(model)(subject.example)
    small = replace(subject, model=model, example_outputs=outputs)
    return Smaller(small, replace(tools, fingerprint=Fingerprint(small)), done, found.steps)


def _done(
    subject: Subject, tools: Tools, plan: Plan, limit_s: float | None
) -> tuple[nn.Module, _Found]:
    steps: list[CompressionStep] = []
    gone: dict[str, list[int]] = {}
    model = copy.deepcopy(subject.model)
    if plan.prune is not None:
        with tools.progress.stage("pruning channels"):
            pruned = prune(subject.model, subject.example, plan.prune, _importance(subject, plan))
        model, gone = pruned.model, pruned.gone
        for one in pruned.refused:
            tools.progress.note(f"not pruned: {one.layer or '(the model itself)'}: {one.why}")
        steps.append(_step("prune", subject, tools, model, tuple(vars(r) for r in pruned.refused)))
    training = plan.recover
    if training is not None:
        training, _ = recover(model, subject, tools, plan, training, limit_s)
        steps.append(_step("recover", subject, tools, model))
    return model, _Found(gone=gone, recover=training, steps=tuple(steps))


def _importance(subject: Subject, plan: Plan) -> Callable[[nn.Module, Sequence[Group]], Importance]:
    assert plan.prune is not None
    kind = plan.prune.importance
    if kind in ("l1", "l2"):
        return by_size(int(kind[1]))
    if kind == "batch_norm":
        return by_batch_norm
    if kind == "taylor":
        return by_taylor(partial(_losses, subject))
    inputs = subject.calibration
    if not inputs:
        raise RecipeError(
            f"{subject.recipe.path} has no calibration(), which tells what a channel is worth",
            'add calibration(), give --calibration FILE.npz, or set "importance": "l2" in a plan',
        )
    step = max(1, len(inputs) // WEIGHED_INPUTS)
    return by_fisher(inputs[::step][:WEIGHED_INPUTS], plan.seed)


def _losses(subject: Subject, model: nn.Module) -> Iterator[Callable[[], torch.Tensor]]:
    batches = subject.recipe.training(0, subject.example)
    for _, (inputs, target) in zip(range(WEIGHED_BATCHES), batches, strict=False):
        yield lambda i=inputs, t=target: subject.recipe.loss(model(*i), t)  # type: ignore[misc]


def _step(
    name: str,
    subject: Subject,
    tools: Tools,
    model: nn.Module,
    refused: tuple[dict[str, str], ...] = (),
) -> CompressionStep:
    """What a step cost and bought, against the recipe's own model."""
    with tools.progress.stage(f"judging what {name} did"):
        accuracy = subject.evaluate(run_eager(model))
    plain = Plan(precision="fp32", seed=tools.seed)
    small = replace(subject, model=model)
    before = lower(subject, tools, plain).artifact
    after = lower(small, replace(tools, fingerprint=Fingerprint(small)), plain).artifact
    arena = tools.arena or Arena(LocalTransport(), tools.host_files, threads=1)
    inputs = [to_bytes(tensor) for tensor in subject.example]
    payoff = arena.compare(after, before, inputs, tools.progress)
    ratio = payoff.ratio
    if ratio is not None and name == "prune" and ratio[1] >= 1:
        tools.progress.note(f"pruning bought no latency: {ratio[0]:.2f} times the original's")
    return CompressionStep(
        name=name,
        accuracy=accuracy,
        macs=macs_of(model, subject.example),
        macs_before=macs_of(subject.model, subject.example),
        parameters=parameters_of(model),
        parameters_before=parameters_of(subject.model),
        latency_ratio=ratio,
        refused=refused,
    )


def _read(subject: Subject, folder: Path) -> tuple[nn.Module, _Found]:
    found = _Found.model_validate_json((folder / FOUND).read_bytes())
    model = without_channels(subject.model, subject.example, dict(found.gone))
    _load(model, load_file(folder / WEIGHTS))
    return model, found


def _write(model: nn.Module, found: _Found, draft: Path) -> None:
    save_file(_state(model), draft / WEIGHTS)
    (draft / FOUND).write_text(json.dumps(found.model_dump(mode="json")))


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors}


def _load(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    own = dict((*model.named_parameters(), *model.named_buffers()))
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
