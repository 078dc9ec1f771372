"""Fidelity: how well outputs agree with the float model's. It needs no labels.

One signal-to-noise ratio over a whole tensor hides small values beside large ones: scores from 0 to
1 beside boxes from 0 to 640. So the signal is the variance over inputs of each element. The ratio
is computed for each output as a whole and for each of its groups (groups.py). Top-1 agreement
counts only for outputs that are class scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.documents.measure import OutputFidelity, WorstGroup
from edgekit.fidelity.groups import Array, Energy, Floats, Noise, Spread, by_input

OutputKind = Literal["classes", "values"]

MIN_WHOLE_DB, MIN_GROUP_DB = 20.0, 15.0
WHOLE_LIMIT, GROUP_LIMIT = 10 ** (-MIN_WHOLE_DB / 10), 10 ** (-MIN_GROUP_DB / 10)
# A group hardly varies if it varies by less than this share of its size. Then its error must be
# below CONSTANT_ERROR of its size.
HARDLY_VARIES = 1e-3
CONSTANT_ERROR = 0.01
# An output is recognized as class scores only if no class wins more often than MOST_WINS. Logits
# must also have MIN_CLASSES classes: in a box of four coordinates, x or y may win, too.
MOST_WINS = 0.9
MIN_CLASSES = 10
# Of logits, at least MIN_WINNERS classes must win, and at least WINNERS_SHARE of the classes, or of
# the inputs if these are fewer.
MIN_WINNERS, WINNERS_SHARE = 3, 0.25
# The winner of logits must lead by this multiple of the expected gap between the two largest of n
# normally distributed numbers, which is about their deviation / sqrt(2 ln n).
CLEAR_LEAD = 2.0
WORST_RATIO = 1e30


@dataclass(frozen=True)
class OutputHints:
    """Facts about the outputs that their values do not show.

    ``kinds``: one per output, None if unknown. ``class_axis``: the axis of classes; None: derived
    from the number of axes.
    """

    kinds: tuple[OutputKind | None, ...] | None = None
    class_axis: int | None = None


NO_HINTS = OutputHints()


@dataclass(frozen=True)
class OutputProfile:
    """One output of the float model: its kind, and its variance over ``inputs`` inputs.

    ``assumed``: the recipe does not define the kind. ``batched``: the first axis is the batch.
    ``exact``: whole numbers. ``class_axis``: the axis of classes, for class scores.
    """

    name: str
    kind: OutputKind
    assumed: bool
    batched: bool
    exact: bool
    dimensions: int
    class_axis: int
    varying: Energy
    magnitude: Energy
    inputs: int

    def noise_to_signal(self, noise: Energy) -> float:
        """The ratio of noise to signal of the whole output."""
        return float(_ratio(noise.whole, self.varying.whole, self.magnitude.whole, WHOLE_LIMIT))

    def group_ratios(self, noise: Energy) -> dict[int, Floats]:
        """Axis -> the ratio of noise to signal of each group."""
        return {
            axis: _ratio(
                values, self.varying.groups[axis], self.magnitude.groups[axis], GROUP_LIMIT
            )
            for axis, values in noise.groups.items()
            if axis in self.varying.groups
        }

    def worst_group(self, noise: Energy) -> tuple[int, int, float] | None:
        """The worst group: axis (a batch axis counts), index, ratio of noise to signal."""
        worst_by_axis = [
            (axis + self.batched, int(ratios.argmax()), float(ratios.max()))
            for axis, ratios in self.group_ratios(noise).items()
        ]
        return max(worst_by_axis, key=lambda row: row[2], default=None)


def _ratio(noise: Floats | float, varying: Floats | float, size: Floats | float, limit: float):  # type: ignore[no-untyped-def]
    """The ratio of noise to signal.

    If the signal hardly varies, the ratio of noise to size, scaled so that it equals ``limit`` at
    an error of CONSTANT_ERROR of the size.
    """
    noise, varying, size = (np.asarray(value, np.float64) for value in (noise, varying, size))
    hardly = varying <= HARDLY_VARIES**2 * size
    signal = np.where(hardly, size * CONSTANT_ERROR**2 / limit, varying)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(noise == 0, 0.0, noise / signal)
    return np.minimum(np.nan_to_num(ratio, nan=WORST_RATIO, posinf=WORST_RATIO), WORST_RATIO)


@dataclass(frozen=True)
class Fidelity:
    """The outputs of a float model, as the reference for its other versions."""

    outputs: tuple[OutputProfile, ...]

    def start(self) -> Comparison:
        return Comparison(self.outputs)

    def compare(
        self, actual: Sequence[Sequence[Array]], floats: Sequence[Sequence[Array]]
    ) -> Comparison:
        """Compare the outputs of each input."""
        comparison = self.start()
        for a, b in zip(actual, floats, strict=True):
            comparison.add(a, b)
        return comparison

    @property
    def kinds(self) -> tuple[OutputKind, ...]:
        return tuple(output.kind for output in self.outputs)

    @property
    def hints(self) -> OutputHints:
        """The known facts, for outputs of the same model or one derived from it."""
        axes = {output.class_axis for output in self.outputs if output.kind == "classes"}
        return OutputHints(self.kinds, axes.pop() if len(axes) == 1 else None)

    @property
    def by_classes(self) -> bool:
        """Whether the only output is class scores of shape (N, classes)."""
        first = self.outputs[0]
        flat = first.batched and not first.exact and first.dimensions == 2
        return len(self.outputs) == 1 and first.kind == "classes" and flat


class Comparison:
    """Accumulates a version's outputs over inputs."""

    def __init__(self, outputs: Sequence[OutputProfile]) -> None:
        self.outputs = [_ComparedOutput(profile) for profile in outputs]

    def add(self, actual: Sequence[Array], reference: Sequence[Array]) -> None:
        for output, a, b in zip(self.outputs, actual, reference, strict=True):
            output.add(a, b)

    @property
    def divergence(self) -> float:
        """The divergence of the worst output: 0 if all is equal; values pass up to WHOLE_LIMIT."""
        return max((output.divergence for output in self.outputs), default=0.0)

    @property
    def loss(self) -> float:
        """The loss of the worst output, in points.

        Class scores: 100 minus their top-1 agreement. Values: 0 if they pass, else 100.
        """
        return max((output.loss for output in self.outputs), default=0.0)

    @property
    def agreement(self) -> float | None:
        """The lowest top-1 agreement, in points; None if no output is class scores."""
        values = [output.agreement for output in self.outputs if output.profile.kind == "classes"]
        return min(values, default=None)

    @property
    def sqnr_db(self) -> float | None:
        """The SQNR of the worst output, relative to its variance; None if all are equal."""
        return _db(max((output.ratio for output in self.outputs), default=0.0))

    @property
    def findings(self) -> tuple[OutputFidelity, ...]:
        return tuple(output.finding for output in self.outputs)


class _ComparedOutput:
    """Accumulates one output."""

    def __init__(self, profile: OutputProfile) -> None:
        self.profile = profile
        self._noise = Noise(profile.batched)
        self._same = self._rows = 0
        self._nats = 0.0

    def add(self, actual: Array, reference: Array) -> None:
        self._noise.add(actual, reference)
        self.__dict__.pop("_energy", None)
        if self.profile.kind == "classes" or self.profile.exact:
            self._add_rows(by_input(actual, True), by_input(reference, True))

    def _add_rows(self, actual: Floats, reference: Floats) -> None:
        if self.profile.exact or actual.shape != reference.shape:
            self._same += int((actual == reference).sum()) if actual.shape == reference.shape else 0
            self._rows += reference.size
            return
        a, b = (np.moveaxis(rows, self.profile.class_axis, -1) for rows in (actual, reference))
        winners = a.argmax(axis=-1) == b.argmax(axis=-1)
        self._same += int(winners.sum())
        self._rows += winners.size
        logs = [_log_softmax(rows) for rows in (a, b)]
        with np.errstate(invalid="ignore", over="ignore"):
            nats = np.exp(logs[1]) * (logs[1] - logs[0])
        self._nats += float(np.where(np.exp(logs[1]) == 0, 0.0, nats).sum())

    @cached_property
    def _energy(self) -> Energy:
        return self._noise.energy

    @property
    def ratio(self) -> float:
        return self.profile.noise_to_signal(self._energy)

    @property
    def agreement(self) -> float:
        return 100.0 * self._same / self._rows if self._rows else 100.0

    @property
    def divergence(self) -> float:
        if self.profile.exact:
            return 1 - self.agreement / 100
        if self.profile.kind == "classes":
            nats = self._nats / max(1, self._rows)
            return nats if math.isfinite(nats) else WORST_RATIO
        worst = self.profile.worst_group(self._energy)
        group = worst[2] * WHOLE_LIMIT / GROUP_LIMIT if worst else 0.0
        return max(self.ratio, group)

    @property
    def passes(self) -> bool:
        return self.divergence <= WHOLE_LIMIT * (1 + 1e-9)

    @property
    def loss(self) -> float:
        if self.profile.kind == "classes" or self.profile.exact:
            return 100.0 - self.agreement
        return 0.0 if self.passes else 100.0

    @property
    def finding(self) -> OutputFidelity:
        worst = self.profile.worst_group(self._energy)
        counted = self.profile.kind == "classes" or self.profile.exact
        return OutputFidelity(
            name=self.profile.name,
            kind=self.profile.kind,
            assumed=self.profile.assumed,
            agreement=self.agreement if counted else None,
            sqnr_db=_db(self.ratio),
            worst_group=WorstGroup(axis=worst[0], index=worst[1], sqnr_db=_db(worst[2]))
            if worst
            else None,
        )


def class_axis(dimensions: int) -> int:
    """The usual axis of class scores: the last in (N, classes) and (N, tokens, classes), the second
    in (N, classes, height, width) of a segmentation.
    """
    return 1 if dimensions > 3 else dimensions - 1


def looks_like_classes(scores: Sequence[Array]) -> bool:
    """Whether an output of shape (rows, n) is evidently class scores. ``scores``: of all inputs.

    It is if different indices win for different inputs, and each row is probabilities, their
    logarithms, or like logits. In doubt the answer is False: class scores judged as values only
    meet a stricter rule, but values judged as class scores are judged by their largest element.
    """
    if any(one.ndim != 2 or one.shape[1] < 2 for one in scores) or not scores:
        return False
    rows = np.concatenate([one.astype(np.float64) for one in scores])
    if len(rows) < 2 or not np.isfinite(rows).all():
        return False
    wins = np.bincount(rows.argmax(axis=1))
    if wins.max() > MOST_WINS * len(rows):
        return False
    if _are_probabilities(rows) or _are_probabilities(np.exp(rows)):
        return True
    return _are_logits(rows, int((wins > 0).sum()))


def _are_logits(rows: NDArray[np.float64], winners: int) -> bool:
    """Whether rows are like logits: many classes, many winners, clear leads, negative values.

    Training presses most logits below zero; amounts (pixels, spectra, activations) never are.
    """
    count = rows.shape[1]
    needed = max(MIN_WINNERS, math.ceil(WINNERS_SHARE * min(count, len(rows))))
    many = count >= MIN_CLASSES and winners >= needed
    return many and float(np.median(rows.min(axis=1))) < 0 and _leads_clearly(rows)


def _are_probabilities(rows: NDArray[np.float64]) -> bool:
    return bool((rows >= 0).all() and (np.abs(rows.sum(axis=1) - 1) < 1e-3).all())


def _leads_clearly(rows: NDArray[np.float64]) -> bool:
    count = rows.shape[1]
    top = np.sort(rows, axis=1)[:, -2:]
    deviation = rows.std(axis=1)
    lead = (top[:, 1] - top[:, 0]) / np.where(deviation > 0, deviation, np.inf)
    return float(np.median(lead)) >= CLEAR_LEAD / math.sqrt(2 * math.log(count))


def profile(
    name: str,
    kind: OutputKind,
    assumed: bool,
    batched: bool,
    outputs: Sequence[Array],
    classes: int | None = None,
) -> OutputProfile:
    """The profile of one output of the float model. ``classes``: the axis of classes, if known."""
    spread = Spread(batched)
    for one in outputs:
        spread.add(one)
    exact = not np.issubdtype(outputs[0].dtype, np.floating)
    dimensions = outputs[0].ndim
    return OutputProfile(
        name=name,
        kind=kind,
        assumed=assumed,
        batched=batched,
        exact=exact,
        dimensions=dimensions,
        class_axis=class_axis(dimensions) if classes is None else min(classes, dimensions - 1),
        varying=spread.varying,
        magnitude=spread.magnitude,
        inputs=spread.inputs,
    )


def _log_softmax(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        shifted = rows - rows.max(axis=-1, keepdims=True)
        logs: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        return logs


def _db(ratio: float) -> float | None:
    return -10 * math.log10(ratio) if ratio > 0 else None
