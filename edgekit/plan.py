"""The plan: all changes to the model. It is part of the manifest and determines the bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from edgekit.errors import SettingError
from edgekit.frozen import Frozen, Omitted
from edgekit.values import Channels, Pixels, Positive, Seed, Share

PLAN_SCHEMA: Literal["edgekit.plan/1"] = "edgekit.plan/1"

Precision = Literal["fp32", "fp16", "int8", "mixed", "as_is"]
Objective = Literal["labels", "float_model", "both"]
FloatType = Literal["fp32", "fp16"]
LinearLayers = Literal["static", "dynamic", "dynamic_int4"]
ChannelImportance = Literal["trial", "fisher", "taylor", "l1", "l2", "batch_norm"]
Threshold = Literal["lamp", "global", "per_layer"]
FactorForm = Literal["matrix", "spatial", "tucker"]
Observer = Literal["histogram", "min_max", "percentile", "mse", "mse_after_activation"]


# The fields of a plan that remove something from the float model or its inputs, in order.
REMOVALS = ("resize", "drop_blocks", "prune", "low_rank", "sparsity")


class Training(Frozen):
    """How weights are trained.

    objective      labels: the recipe's training() and loss(); float_model: the outputs of the
                   float model, or of the recipe's teacher(), without labels; both: labels and
                   float_model
    steps          length of the schedule, one batch each
    learning_rate  a step's size relative to that of the weights it changes
    temperature    class scores are divided by it before they are compared with the teacher's;
                   above 1 they are softer
    features       share of the float model's (or teacher's) loss on inner layers, the rest is on
                   its outputs; 1: inner layers only
    stop           the step whose weights are used; null: the best on held-out data, or the last
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
            raise ValueError(f"stop {self.stop} is greater than steps {self.steps}")
        if self.features and self.objective == "labels":
            raise ValueError("features need the objective float_model or both, not labels")
        return self


class Resize(Frozen):
    """Smaller images as inputs, before all other steps. They are resized outside the graph.

    size            height and width in pixels
    estimate_norms  batch norms get the statistics of the smaller images, from calibration inputs;
                    null: if the outputs are then nearer to those of the recipe's size
    """

    size: tuple[Pixels, Pixels]
    estimate_norms: bool | None = None


class DropBlocks(Frozen):
    """The removal of residual blocks, each of which computes input + f(input).

    count       how many: those that are most recoverable for their multiply-accumulates
    blocks      the names of the modules, in place of count
    keep        with count: modules that are not removed, nor in part
    compensate  refit the layers behind the gaps by least squares
    """

    count: int | None = Field(default=None, ge=1)
    blocks: tuple[str, ...] | None = Field(default=None, min_length=1)
    keep: Omitted[tuple[str, ...]] = ()
    compensate: bool = True

    @model_validator(mode="after")
    def _has_a_goal(self) -> Self:
        if (self.count is None) == (self.blocks is None):
            raise ValueError("drop_blocks needs either count or blocks")
        if self.keep and self.blocks is not None:
            raise ValueError("keep is for drop_blocks with count, not with blocks")
        return self


class Prune(Frozen):
    """The removal of channels, before zeros and training.

    ratio         the share of the multiply-accumulates (MACs) to remove; null: as widths say
    widths        the channels that groups keep, by the name of a group's first layer; others keep
                  all. A search under budgets chooses them; no such key: by ratio
    importance    trial: the measured change of the outputs without some channels of a layer;
                  fisher: an estimate of it by gradients, for each channel; taylor: the estimated
                  change of the recipe's loss; l1, l2: the norm of a channel's weights; batch_norm:
                  its scale
    spread        by_worth: the channels of least importance for their MACs, in any layer; uniform:
                  the same share of every group of layers
    step          widths become multiples of it, which suits kernels
    keep          with ratio: modules whose layers keep all their output channels
    min_channels  with ratio: the least width of a group
    compensate    refit the remaining input weights by least squares
    between       trainings between the rounds; there is one more round than trainings
    """

    ratio: Share | None = None
    widths: Omitted[dict[str, Channels] | None] = None
    keep: Omitted[tuple[str, ...]] = ()
    min_channels: Omitted[Channels | None] = None
    importance: ChannelImportance = "trial"
    spread: Literal["by_worth", "uniform"] = "by_worth"
    step: int = Field(default=8, ge=1)
    compensate: bool = True
    between: tuple[Training, ...] = ()

    @model_validator(mode="after")
    def _has_a_goal(self) -> Self:
        if (self.ratio is None) == (self.widths is None):
            raise ValueError("prune needs either ratio or widths")
        if self.widths is not None and self.between:
            raise ValueError("prune with widths has no trainings between rounds")
        if self.widths is not None and (self.keep or self.min_channels is not None):
            raise ValueError("keep and min_channels are for prune with ratio, not with widths")
        return self

    @property
    def needs_inputs(self) -> bool:
        """Whether the importance of channels is computed from calibration inputs."""
        return self.importance in ("trial", "fisher")


class Factors(Frozen):
    """The smaller layers that replace one (compress/low_rank/factors.py).

    form   matrix: the layer with fewer outputs, and a 1x1 layer (SVD); spatial: columns, then rows
           of the kernel; tucker: a 1x1 layer, a smaller layer, a 1x1 layer (Tucker-2)
    ranks  the channels between them: one number, for tucker two
    """

    form: FactorForm
    ranks: tuple[Channels, ...]

    @model_validator(mode="after")
    def _has_its_ranks(self) -> Self:
        count = 2 if self.form == "tucker" else 1
        if len(self.ranks) != count:
            raise ValueError(f"{self.form} has {count} in ranks, not {len(self.ranks)}")
        return self


class LowRank(Frozen):
    """Layers replaced by products of smaller ones, after channels were removed.

    ratio    the share of the MACs of the layers that can be factorized; layers whose factors are
             not faster stay whole
    factors  by layer, in place of ratio; they are applied in any case
    step     ranks become multiples of it, which suits kernels
    """

    ratio: Share | None = None
    factors: dict[str, Factors] | None = Field(default=None, min_length=1)
    step: int = Field(default=8, ge=1)

    @model_validator(mode="after")
    def _has_a_goal(self) -> Self:
        if (self.ratio is None) == (self.factors is None):
            raise ValueError("low_rank needs either ratio or factors")
        return self


class Sparsity(Frozen):
    """Weights that are set to zero, after channels were removed and layers factorized.

    ratio       the share of the weights of convolutions and linear layers
    threshold   which weights. lamp: by magnitude relative to the larger ones of the layer, one
                threshold for all layers; global: by magnitude, one threshold for all layers;
                per_layer: the same share of each layer
    compensate  refit the remaining weights by least squares
    between     trainings between the rounds; there is one more round than trainings
    """

    ratio: Share
    threshold: Threshold = "lamp"
    compensate: bool = True
    between: tuple[Training, ...] = ()


class Plan(Frozen):
    """All choices of a build. ``edgekit build --plan`` repeats it to the same bytes.

    A user may edit it. ``precision``: ``fp32`` keeps the floating-point types of the recipe's
    model; ``fp16`` computes in half precision, except for ``float_layers`` and operators that need
    float32; ``mixed`` is int8 except for ``float_layers``; ``as_is`` is a finished file whose
    quantization is unknown.

    resize         smaller images as inputs; no such key: none
    drop_blocks    residual blocks to remove after that; no such key: none
    prune          channels to remove after that; null: none
    low_rank       layers to factorize after that; no such key: none
    sparsity       weights to set to zero after that; they stay zero; null: none
    recover        training of the float model, after these; null: none
    per_channel    int8 weights have one scale per output channel, not one per tensor
    linear         how linear layers are quantized. static: like all others, with ranges from
                   calibration; dynamic: each row of activations by its own range, determined at
                   run time; dynamic_int4: like dynamic, with 4-bit weights, one scale for 32
    observer       how the range of each activation is chosen from the calibration data
    equalize       cross-layer equalization: the share (0 to 1) of the channels' differences that
                   is moved from activations to the weights that use them; null: none
    correct        gain and bias correction
    round          rounding of the weights, learned layer by layer
    train          training of int8 with simulated rounding, after all of these; null: none
    float_layers   modules of the recipe's model that stay float32, with their submodules, and
                   single operators in a module's forward: ``head:cat``, or ``:cat`` in the model's
                   own
    float_as       the type that the float layers of ``mixed`` compute in; no such key: fp32
    structure      digest of the model's layers and shapes: a plan is for one architecture
    """

    schema_: Literal["edgekit.plan/1"] = Field(default=PLAN_SCHEMA, alias="schema")
    resize: Omitted[Resize | None] = None
    drop_blocks: Omitted[DropBlocks | None] = None
    prune: Prune | None = None
    low_rank: Omitted[LowRank | None] = None
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
    float_as: Omitted[FloatType] = "fp32"
    structure: str | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _has_something_to_round(self) -> Self:
        if not self.is_quantized and (self.train is not None or not self.is_plain):
            raise ValueError(f"repairs and train need int8 or mixed, not {self.precision}")
        if self.train is not None and self.train.features:
            raise ValueError("features are for training in float; int8 is trained by outputs")
        return self

    @property
    def changes_the_model(self) -> bool:
        """Whether the float model is changed before quantization."""
        return not self.recover_only or self.recover is not None

    @property
    def recover_only(self) -> bool:
        """Whether nothing is removed from the model or its inputs."""
        return all(getattr(self, name) is None for name in REMOVALS)

    @property
    def without_compensation(self) -> Plan:
        """The plan for a training with labels, which ends better from the plainly cut model."""
        removals = {name: getattr(self, name) for name in ("drop_blocks", "prune", "sparsity")}
        bare = {n: one.replaced(compensate=False) for n, one in removals.items() if one is not None}
        return self.replaced(**bare)

    @property
    def has_valid_norms(self) -> bool:
        """Whether the statistics of batch norms suit the model before its training: not those of a
        student, which may start untrained, nor after a cut that nothing made good.
        """
        cuts = (self.drop_blocks, self.prune, self.sparsity)
        return not self.recover_only and all(cut is None or cut.compensate for cut in cuts)

    @property
    def prunes_by_labels(self) -> bool:
        return self.prune is not None and self.prune.importance == "taylor"

    @property
    def trainings(self) -> tuple[Training, ...]:
        """All trainings, in order."""
        rounds = [one.between for one in (self.prune, self.sparsity) if one is not None]
        trainings = [
            *(training for between in rounds for training in between),
            self.recover,
            self.train,
        ]
        return tuple(training for training in trainings if training is not None)

    @property
    def of_this_model(self) -> Plan:
        """The plan without the steps before quantization, unless int8 training depends on them."""
        if self.train is not None:
            return self
        return self.replaced(**dict.fromkeys((*REMOVALS, "recover", "structure")))

    @property
    def is_quantized(self) -> bool:
        return self.precision in ("int8", "mixed")

    def in_precision(self, precision: Precision) -> Plan:
        """The plan in another precision. With layers that stay float, int8 is ``mixed``. The type
        of float layers is decided anew.
        """
        if precision == "fp32":
            return self.replaced(precision="fp32", float_layers=(), float_as="fp32")
        mixes = precision == "int8" and self.float_layers
        return self.replaced(precision="mixed" if mixes else precision, float_as="fp32")

    @property
    def uses_half(self) -> bool:
        """Whether anything computes in half precision."""
        return "fp16" in (self.precision, self.float_as)

    @property
    def is_plain(self) -> bool:
        """Whether the runtime's quantizer is used without repairs. Training may follow."""
        repairs = self.equalize is not None or self.correct or self.round
        return self.observer == "histogram" and not repairs

    @property
    def repairs(self) -> dict[str, str]:
        """The steps in addition to plain quantization: the plan's field, and the step as text."""
        steps = {}
        if self.observer != "histogram":
            steps["observer"] = f"ranges by {self.observer}"
        if self.equalize is not None:
            steps["equalize"] = f"equalization ({self.equalize:g})"
        if self.correct:
            steps["correct"] = "gain and bias correction"
        if self.round:
            steps["round"] = "learned rounding"
        if self.train is not None:
            labels = self.train.objective == "labels"
            steps["train"] = "quantization-aware training" if labels else "distillation"
        return steps


def read_plan(path: Path) -> Plan:
    """Read a plan from its file, or from a document with the key ``plan``: the output of ``edgekit
    build --json``, or a bundle's manifest.json. Raises SettingError.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"the plan {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise SettingError(f"the plan {path} is not JSON: {error}") from None
    if isinstance(data, dict) and isinstance(data.get("plan"), dict):
        data = data["plan"]
    try:
        plan = Plan.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "it"
        raise SettingError(
            f"{path} is not a valid plan: {key}: {first['msg']}",
            'edgekit build --json prints one as "plan"; docs/quantization.md describes its keys',
        ) from None
    if plan.precision == "as_is":
        raise SettingError(f"{path} is the plan of a finished file, which cannot be repeated")
    return plan.in_precision("int8") if plan.precision == "int8" else plan
