"""Do outputs keep what they tell apart? What is accepted, and steered by, without labels.

One signal-to-noise ratio over a whole tensor hides what is small beside what is large: scores from
0 to 1 beside boxes from 0 to 640. So the signal is what *varies over inputs*, centred element by
element, and it is asked of each output as a whole and of each of its groups (groups.py). Top-1
agreement counts only for outputs that are scores of classes.
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
# A group whose values vary by less than this share of their size hardly varies: then its error
# must be below CONSTANT_ERROR of their size.
HARDLY_VARIES = 1e-3
CONSTANT_ERROR = 0.01
# Scores of classes are recognized where no class wins more often than this. Logits also need so
# many classes (of four numbers that are a box, the larger coordinate wins, now x, now y), ...
MOST_WINS = 0.9
MIN_CLASSES = 10
# ... of which so many win as this share of the classes, or of the inputs where those are fewer, ...
MIN_WINNERS, WINNERS_SHARE = 3, 0.25
# ... and a winner that is ahead by this multiple of the gap between the two largest of as many
# normally distributed numbers, which is about their deviation / sqrt(2 ln n).
CLEAR_LEAD = 2.0
WORST_RATIO = 1e30


@dataclass(frozen=True)
class Told:
    """What is known of the outputs beside their values: ``kinds``, None where nothing tells, and
    the axis of classes, None: by the number of axes.
    """

    kinds: tuple[OutputKind | None, ...] | None = None
    class_axis: int | None = None


NOTHING_TOLD = Told()


@dataclass(frozen=True)
class OutputProfile:
    """One output of the float model: its kind (``assumed``: the recipe does not tell), and what
    varies in it over ``inputs``. ``batched``: its first axis is the batch. ``class_axis``: where
    classes lie, if it is scores of classes.
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
        """Of the whole output."""
        found = _ratio(noise.whole, self.varying.whole, self.magnitude.whole, WHOLE_LIMIT)
        return float(found)

    def group_ratios(self, noise: Energy) -> dict[int, Floats]:
        """Noise to signal of each group, by axis."""
        return {
            axis: _ratio(
                values, self.varying.groups[axis], self.magnitude.groups[axis], GROUP_LIMIT
            )
            for axis, values in noise.groups.items()
            if axis in self.varying.groups
        }

    def worst_group(self, noise: Energy) -> tuple[int, int, float] | None:
        """Axis (the batch counted, where there is one), index, noise to signal."""
        found = [
            (axis + self.batched, int(ratios.argmax()), float(ratios.max()))
            for axis, ratios in self.group_ratios(noise).items()
        ]
        return max(found, key=lambda row: row[2], default=None)


def _ratio(noise: Floats | float, varying: Floats | float, size: Floats | float, limit: float):  # type: ignore[no-untyped-def]
    """Noise to signal. Of what hardly varies: noise to size, scaled so that it meets ``limit``
    where the error is CONSTANT_ERROR of the size.
    """
    noise, varying, size = (np.asarray(value, np.float64) for value in (noise, varying, size))
    hardly = varying <= HARDLY_VARIES**2 * size
    signal = np.where(hardly, size * CONSTANT_ERROR**2 / limit, varying)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(noise == 0, 0.0, noise / signal)
    return np.minimum(np.nan_to_num(found, nan=WORST_RATIO, posinf=WORST_RATIO), WORST_RATIO)


@dataclass(frozen=True)
class Fidelity:
    """The outputs of a float model, which other versions of it are held against."""

    outputs: tuple[OutputProfile, ...]

    def start(self) -> Comparison:
        return Comparison(self.outputs)

    def compare(
        self, actual: Sequence[Sequence[Array]], floats: Sequence[Sequence[Array]]
    ) -> Comparison:
        """Outputs for one input after the other."""
        found = self.start()
        for a, b in zip(actual, floats, strict=True):
            found.add(a, b)
        return found

    @property
    def kinds(self) -> tuple[OutputKind, ...]:
        return tuple(output.kind for output in self.outputs)

    @property
    def told(self) -> Told:
        """For other outputs of the same model, or of one made from it."""
        axes = {output.class_axis for output in self.outputs if output.kind == "classes"}
        return Told(self.kinds, axes.pop() if len(axes) == 1 else None)

    @property
    def by_classes(self) -> bool:
        """One output, and it is scores of classes, of shape (N, classes)."""
        first = self.outputs[0]
        flat = first.batched and not first.exact and first.dimensions == 2
        return len(self.outputs) == 1 and first.kind == "classes" and flat


class Comparison:
    """Accumulates a version's outputs over inputs."""

    def __init__(self, outputs: Sequence[OutputProfile]) -> None:
        self.outputs = [_Compared(profile) for profile in outputs]

    def add(self, actual: Sequence[Array], reference: Sequence[Array]) -> None:
        for output, a, b in zip(self.outputs, actual, reference, strict=True):
            output.add(a, b)

    @property
    def divergence(self) -> float:
        """0 where all is equal; values pass up to WHOLE_LIMIT. The worst output counts."""
        return max((output.divergence for output in self.outputs), default=0.0)

    @property
    def loss(self) -> float:
        """In points: 100 minus the top-1 agreement of classes; for values 0 where they pass, else
        100. The worst output counts.
        """
        return max((output.loss for output in self.outputs), default=0.0)

    @property
    def agreement(self) -> float | None:
        """Top-1 agreement, in points; None where no output is classes."""
        found = [output.agreement for output in self.outputs if output.profile.kind == "classes"]
        return min(found, default=None)

    @property
    def sqnr_db(self) -> float | None:
        """Of what varies, each output as a whole, the worst counting; None where they are equal."""
        return _db(max((output.ratio for output in self.outputs), default=0.0))

    @property
    def findings(self) -> tuple[OutputFidelity, ...]:
        return tuple(output.finding for output in self.outputs)


class _Compared:
    """One output."""

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
    """Where scores of classes lie if nothing tells: last in (N, classes) and (N, tokens, classes),
    second in the images of a segmentation, (N, classes, height, width).
    """
    return 1 if dimensions > 3 else dimensions - 1


def looks_like_classes(scores: Sequence[Array]) -> bool:
    """Is an output of shape (rows, n) evidently scores of classes? ``scores``: of several inputs.

    It is where different indices win for different inputs, and each row is probabilities (or
    their logarithms), or looks like logits. What is taken for values by mistake is only held to
    more than it needs; what is taken for classes is held to its largest element alone.
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
    """Many classes, many of which win, each clearly; and no amounts, which are never negative
    (pixels, spectra, activations): a loss of classes presses most logits below zero.
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
    """Of one output of the float model, for several inputs. ``classes``: their axis, if known."""
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
        found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        return found


def _db(ratio: float) -> float | None:
    return -10 * math.log10(ratio) if ratio > 0 else None
