"""The plan: what is done to the model. Part of the manifest: it decides the bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from edgekit.errors import SettingError
from edgekit.frozen import Frozen
from edgekit.values import Positive, Seed, Share

PLAN_SCHEMA: Literal["edgekit.plan/1"] = "edgekit.plan/1"

Precision = Literal["fp32", "int8", "mixed", "as_is"]
Objective = Literal["labels", "float_model", "both"]
LinearLayers = Literal["static", "dynamic", "dynamic_int4"]
ChannelImportance = Literal["trial", "fisher", "taylor", "l1", "l2", "batch_norm"]
Threshold = Literal["lamp", "global", "per_layer"]
Observer = Literal["histogram", "min_max", "percentile", "mse", "mse_after_activation"]


class Training(Frozen):
    """How weights are trained.

    objective      labels: the recipe's training() and loss(); float_model: the outputs of the
                   float model (of the recipe's teacher(), where it has one), without labels;
                   both: of the two
    steps          of the schedule, one batch each
    learning_rate  a step's size against that of the weights it changes
    temperature    what the scores of classes are divided by before they are held against the
                   teacher's; above 1 they are softer
    features       how much of what the float model (or the teacher) tells is told by its inner
                   layers, the rest by its outputs; 1: all of it
    stop           the step whose weights are taken; null: the best on data kept apart, or the last
    """

    objective: Objective
    steps: int = Field(ge=1)
    learning_rate: Positive
    temperature: Positive = 1.0
    features: float = Field(default=0.0, ge=0, le=1)
    stop: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _stops_within(self) -> Self:
        if self.stop is not None and self.stop > self.steps:
            raise ValueError(f"stop {self.stop} is beyond its {self.steps} steps")
        if self.features and self.objective == "labels":
            raise ValueError("features are the float model's: labels have none")
        return self


class Prune(Frozen):
    """Channels that are removed, before anything else is done.

    ratio       the share of the multiply-accumulates (MACs) that goes
    importance  trial: how far the outputs move without so many channels of a layer, measured;
                fisher: the same by gradients, channel by channel; taylor: how far the recipe's loss
                moves; l1, l2: the size of a channel's weights; batch_norm: its scale
    spread      by_worth: channels of least importance for their MACs, wherever they are;
                uniform: the same share of every group of layers
    step        widths are multiples of it: what kernels like
    compensate  the weights that read the other channels take over what the removed ones told them
    between     trainings after each round but the last; there is one round more than of these
    """

    ratio: Share
    importance: ChannelImportance = "trial"
    spread: Literal["by_worth", "uniform"] = "by_worth"
    step: int = Field(default=8, ge=1)
    compensate: bool = True
    between: tuple[Training, ...] = ()

    @property
    def needs_inputs(self) -> bool:
        """Calibration inputs tell what a channel is worth."""
        return self.importance in ("trial", "fisher")


class Sparsity(Frozen):
    """Weights that become zeros, after channels were removed.

    ratio       the share of the weights of convolutions and linear layers
    threshold   which are the least. lamp: by size against the larger ones of the layer, one
                threshold for all layers; global: by size, one for all; per_layer: the same share
                of each layer
    compensate  the weights that stay take over what the zeros carried
    between     trainings after each round but the last; there is one round more than of these
    """

    ratio: Share
    threshold: Threshold = "lamp"
    compensate: bool = True
    between: tuple[Training, ...] = ()


class Plan(Frozen):
    """What ``edgekit build --plan`` does again, to the same bytes; a user may edit it.

    ``fp32`` leaves the model in the floating-point types that the recipe gave it; ``mixed`` is
    int8 but for ``float_layers``; ``as_is``: a finished file, of which nothing is known but what
    it holds.

    prune          channels removed before anything else; null: none
    sparsity       weights that become zeros after that, and stay so; null: none
    recover        training of the float model, after these; null: none
    per_channel    int8 weights have one scale per output channel, not one per tensor
    linear         how linear layers are quantized. static: as all others, ranges from calibration;
                   dynamic: each row of activations by its own range, found at run time;
                   dynamic_int4: that, and 4-bit weights, 32 of them to a scale
    observer       how the range of each activation is chosen from the calibration data
    equalize       cross-layer equalization: the share (0 to 1) of the channels' differences that
                   activations hand on to the weights that use them; null: none
    correct        gain and bias correction
    round          rounding of the weights learned layer by layer
    train          training of int8, with the rounding in place, after all of these; null: none
    float_layers   modules of the recipe's model that stay float, with what is inside them, and
                   single operators of a module's own forward: ``head:cat``, ``:cat`` of the model's
    structure      digest of the model's layers and shapes: a plan is for one architecture
    """

    schema_: Literal["edgekit.plan/1"] = Field(default=PLAN_SCHEMA, alias="schema")
    prune: Prune | None = None
    sparsity: Sparsity | None = None
    recover: Training | None = None
    precision: Precision
    per_channel: bool = True
    linear: LinearLayers = "static"
    observer: Observer = "histogram"
    equalize: float | None = Field(default=None, ge=0, le=1)
    correct: bool = False
    round: bool = False
    train: Training | None = None
    float_layers: tuple[str, ...] = ()
    structure: str | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _has_something_to_round(self) -> Self:
        if not self.is_quantized and (self.train is not None or not self.is_plain):
            raise ValueError(f"{self.precision} rounds nothing: nothing is repaired or trained")
        if self.train is not None and self.train.features:
            raise ValueError("int8 is trained by outputs: features are for training in float")
        return self

    @property
    def changes_the_model(self) -> bool:
        """Before anything is quantized."""
        return self.prune is not None or self.sparsity is not None or self.recover is not None

    @property
    def recover_only(self) -> bool:
        """The model is trained, and nothing was taken from it."""
        return self.prune is None and self.sparsity is None

    @property
    def prunes_by_labels(self) -> bool:
        return self.prune is not None and self.prune.importance == "taylor"

    @property
    def trainings(self) -> tuple[Training, ...]:
        """All that it trains, in order."""
        rounds = [one.between for one in (self.prune, self.sparsity) if one is not None]
        found = [
            *(training for between in rounds for training in between),
            self.recover,
            self.train,
        ]
        return tuple(training for training in found if training is not None)

    @property
    def of_this_model(self) -> Plan:
        """Without what led to the model, where it decides nothing after that."""
        if self.train is not None:
            return self
        before = {"prune": None, "sparsity": None, "recover": None, "structure": None}
        return self.replaced(**before)

    @property
    def is_quantized(self) -> bool:
        return self.precision in ("int8", "mixed")

    @property
    def is_plain(self) -> bool:
        """As the runtime's own quantizer does it, without a repair; it may be trained after."""
        repairs = self.equalize is not None or self.correct or self.round
        return self.observer == "histogram" and not repairs

    @property
    def repairs(self) -> tuple[str, ...]:
        """What is done beside plain quantization, in words."""
        found = []
        if self.observer != "histogram":
            found.append(f"ranges by {self.observer}")
        if self.equalize is not None:
            found.append(f"equalization ({self.equalize:g})")
        if self.correct:
            found.append("gain and bias correction")
        if self.round:
            found.append("learned rounding")
        if self.train is not None:
            labels = self.train.objective == "labels"
            found.append("quantization-aware training" if labels else "distillation")
        return tuple(found)


def read_plan(path: Path) -> Plan:
    """A plan's file: a plan alone, or a document that holds one as ``plan`` (what ``edgekit build
    --json`` printed, a bundle's manifest.json). Raises SettingError.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"the plan {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise SettingError(f"the plan {path} is no JSON: {error}") from None
    if isinstance(data, dict) and isinstance(data.get("plan"), dict):
        data = data["plan"]
    try:
        plan = Plan.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "it"
        raise SettingError(
            f"{path} is no plan: {key}: {first['msg']}",
            'edgekit build --json prints one as "plan"; docs/quantization.md tells its keys',
        ) from None
    if plan.precision == "as_is":
        raise SettingError(f"{path} is of a finished file: there is nothing to do again")
    if plan.float_layers and plan.precision == "int8":
        return plan.replaced(precision="mixed")
    return plan
