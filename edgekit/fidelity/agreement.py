"""The difference of two sets of outputs, and the rules of parity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgekit.documents.measure import Agreement
from edgekit.fidelity.comparison import CONSTANT_ERROR, HARDLY_VARIES
from edgekit.fidelity.groups import MAX_GROUPS, Array, Floats, Noise, Spread
from edgekit.program import MovedBySteps

FLOAT_TOLERANCE = 1e-3
MIN_SQNR_DB, MIN_GROUP_SQNR_DB = 20.0, 15.0
# An artifact is "as near to the float model" as its reference if its noise is larger by at most
# NEARLY_DB. The noise of few elements scatters: for n elements, the ratio of two equal noises is
# nearly always within GROUP_SCATTER_DB / sqrt(n). So a group may exceed NEARLY_DB by that much,
# but the total may exceed NEARLY_GROUP_DB only if the group's SQNR is at least MIN_KEPT_DB (a
# constant, swapped or negated group has 0 dB or less).
NEARLY_DB, GROUP_SCATTER_DB, NEARLY_GROUP_DB, MIN_KEPT_DB = 1.0, 30.0, 3.0, 3.0
DEVICE_FLOAT_TOLERANCE = 1e-4
# Of half precision. Its noise depends on the order of additions, which differs between kernels.
MIN_HALF_SQNR_DB = 25.0
DEVICE_STEPS = 2
# Of another implementation, which rounds differently in every layer: MobileNetV2 differs by 4.
OTHER_KERNELS_STEPS = 8
MIN_GROUP_ELEMENTS = 32
# These replace infinity, which JSON lacks.
WORST_DIFF = 3.4e38
WORST_SQNR_DB = -300.0


class OutputAgreement:
    """Accumulates one output over all compared inputs, in float64."""

    def __init__(self) -> None:
        self.max_abs_diff = 0.0
        self.max_abs_reference = 0.0
        self._signal = 0.0
        self._noise = 0.0

    def add(self, actual: Array, reference: Array) -> None:
        """Add one comparison of flat arrays. Equal NaNs and infinities count as equal."""
        if actual.size != reference.size:
            self.max_abs_diff, self._noise = WORST_DIFF, math.inf
            return
        a, b = actual.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        finite = np.isfinite(b)
        self._signal += float(np.square(b[finite]).sum())
        self.max_abs_reference = max(
            self.max_abs_reference, float(np.abs(b[finite]).max(initial=0.0))
        )
        if same.all():
            return
        difference = np.abs(a[~same] - b[~same])
        if not np.isfinite(difference).all():
            self.max_abs_diff, self._noise = WORST_DIFF, math.inf
            return
        self.max_abs_diff = max(self.max_abs_diff, float(difference.max()))
        self._noise += float(np.square(difference).sum())

    @property
    def relative_diff(self) -> float:
        """The relative difference, max|a-b| / max|b|."""
        if self.max_abs_diff == 0:
            return 0.0
        return self.max_abs_diff / self.max_abs_reference if self.max_abs_reference else math.inf

    @property
    def sqnr_db(self) -> float | None:
        """The signal-to-quantization-noise ratio; None if bit-equal."""
        if self._noise == 0:
            return None
        if self._signal == 0 or math.isinf(self._noise):
            return WORST_SQNR_DB
        return max(WORST_SQNR_DB, 10 * math.log10(self._signal / self._noise))


class OutputsAgreement:
    """Accumulates all outputs of a model. Its results are those of the worst output."""

    def __init__(self, output_count: int) -> None:
        self.outputs = [OutputAgreement() for _ in range(output_count)]
        self.compared = 0

    def add(self, actual: Sequence[Array], reference: Sequence[Array]) -> None:
        for output, a, b in zip(self.outputs, actual, reference, strict=True):
            output.add(a, b)
        self.compared += 1

    def worst(self) -> Agreement:
        levels = [output.sqnr_db for output in self.outputs if output.sqnr_db is not None]
        return Agreement(
            max_abs_diff=max((output.max_abs_diff for output in self.outputs), default=0.0),
            sqnr_db=min(levels, default=None),
        )

    @property
    def worst_relative_diff(self) -> float:
        return max((output.relative_diff for output in self.outputs), default=0.0)


class QuantizedAgreement:
    """Compares an int8 artifact with its reference, the quantized model, and the float model.

    Rounding in many layers is chaotic: two correct implementations of a quantized network may
    differ as much from each other as from the float model. So an output passes if the artifact is
    near its reference (SQNR >= 20 dB), or as near to the float model as the reference is. Each
    group of the output (groups.py) must pass, too, relative to its variance over the inputs.
    """

    def __init__(self, batched: Sequence[bool]) -> None:
        self._outputs = [_QuantizedOutput(one) for one in batched]

    def add(
        self, actual: Sequence[Array], reference: Sequence[Array], floats: Sequence[Array]
    ) -> None:
        for output, *three in zip(self._outputs, actual, reference, floats, strict=True):
            output.add(*three)

    @property
    def passes(self) -> bool:
        return all(output.passes for output in self._outputs)


class _QuantizedOutput:
    def __init__(self, batched: bool) -> None:
        self._near, self._far, self._base = Noise(batched), Noise(batched), Noise(batched)
        self._reference = Spread(batched)
        self._whole_numbers = False

    def add(self, actual: Array, reference: Array, floats: Array) -> None:
        # class indices: rounding may change them by any amount
        self._whole_numbers = not np.issubdtype(reference.dtype, np.floating)
        floats = _where_finite(floats, reference)
        self._near.add(actual, reference)
        self._far.add(actual, floats)
        self._base.add(reference, floats)
        self._reference.add(reference)

    @property
    def passes(self) -> bool:
        near, far, base = (noise.energy for noise in (self._near, self._far, self._base))
        if not math.isfinite(near.whole):  # NaN or infinity in one of the two only
            return False
        size, varying = self._reference.magnitude, self._reference.varying
        whole = near.whole <= size.whole * _ratio(MIN_SQNR_DB)
        whole = whole or far.whole <= base.whole / _ratio(NEARLY_DB)
        if self._whole_numbers:
            return whole
        return whole and all(
            _group_passes(
                values, varying.groups[axis], size.groups[axis], far.groups[axis],
                base.groups[axis], near.elements(axis),
            )
            for axis, values in near.groups.items()
        )  # fmt: skip


def _where_finite(floats: Array, reference: Array) -> Array:
    """``floats``, with the reference's values where either of the two is not finite.

    There the distance to the float model would be infinite, and any artifact would pass. So only
    the reference counts.
    """
    return np.where(np.isfinite(floats) & np.isfinite(reference), floats, reference)


def _group_passes(
    near: Floats, varying: Floats, size: Floats, far: Floats, base: Floats, elements: int
) -> bool:
    """Whether every group passes. The noise of a group that hardly varies is relative to its size.

    Otherwise it is relative to the variance: a constant could be within a percent of the size of a
    group that varies.
    """
    allowed_db = NEARLY_DB + GROUP_SCATTER_DB / math.sqrt(max(1, elements))
    follows_float = far <= varying * _ratio(MIN_KEPT_DB)
    fine = near <= varying * _ratio(MIN_GROUP_SQNR_DB)
    fine |= (varying <= HARDLY_VARIES**2 * size) & (near <= size * CONSTANT_ERROR**2)
    fine |= far <= base / _ratio(min(allowed_db, NEARLY_GROUP_DB))
    fine |= follows_float & (far <= base / _ratio(allowed_db))
    return bool(fine.all())


def _ratio(level_db: float) -> float:
    """The ratio of noise to signal at ``level_db``."""
    return float(10 ** (-level_db / 10))


def float_passes(agreement: OutputsAgreement) -> bool:
    """Whether a float artifact agrees with the eager model: max|a-b| / max|b| <= 1e-3."""
    return agreement.worst_relative_diff <= FLOAT_TOLERANCE


def half_passes(agreement: OutputsAgreement, reference: OutputsAgreement | None = None) -> bool:
    """Whether each output of a half-precision artifact is near enough: SQNR >= 25 dB.

    ``reference``: the model in half precision in torch, compared with the same outputs. An output
    that is as near to them as that, to one decibel, passes too.
    """
    own = [_level_db(output) for output in agreement.outputs]
    if reference is None:
        return all(level >= MIN_HALF_SQNR_DB for level in own)
    others = [_level_db(output) for output in reference.outputs]
    return all(
        level >= min(MIN_HALF_SQNR_DB, other - NEARLY_DB)
        for level, other in zip(own, others, strict=True)
    )


def _level_db(output: OutputAgreement) -> float:
    return math.inf if output.sqnr_db is None else output.sqnr_db


def device_passes(
    actual: Sequence[Array], golden: Sequence[Array], steps: Sequence[Floats | float | None]
) -> bool:
    """Whether a device's outputs agree with the golden outputs.

    int8: within two steps. Float (step None): within 1e-4 of the largest value. ``steps``: the
    output's scale, or one step per element (``group_steps``).
    """
    return all(output_passes(a, b, step) for a, b, step in zip(actual, golden, steps, strict=True))


def output_passes(actual: Array, golden: Array, step: Floats | float | None) -> bool:
    if actual.size != golden.size:
        return False
    a, b = actual.astype(np.float64).ravel(), golden.astype(np.float64).ravel()
    with np.errstate(invalid="ignore"):
        difference = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    if step is not None:
        allowed = DEVICE_STEPS * np.asarray(step).ravel() * (1 + 1e-6)
    else:
        largest = np.abs(b[np.isfinite(b)]).max(initial=0.0)
        allowed = np.asarray(DEVICE_FLOAT_TOLERANCE * largest)
    return bool((difference <= allowed).all())


def last_steps(golden: Array, shape: Sequence[int], stride: int, moved: MovedBySteps) -> Floats:
    """One int8 step per element, if the effect of steps inside the model on each group is known.

    An element's step is the smallest effect among its groups, but at least that of
    ``group_steps``. ``golden``: every ``stride``-th element.
    """
    effects = np.full(tuple(shape), moved.whole)
    for axis, values in moved.groups.items():
        sizes = [-1 if other == axis else 1 for other in range(effects.ndim)]
        effects = np.minimum(effects, np.reshape(values, sizes))
    least = group_steps(golden, shape if stride == 1 else golden.shape)
    steps: Floats = np.maximum(effects.ravel()[::stride], least.ravel())
    return steps


def group_steps(golden: Array, shape: Sequence[int]) -> Floats:
    """One int8 step per element, for an output whose last operator is float.

    It is 1/255 of the range of the output, or of the element's narrowest group, and at least the
    tolerance of float artifacts. Groups of few elements are ignored.
    """
    values = golden.astype(np.float64).reshape(shape)
    values = np.where(np.isfinite(values), values, 0.0)
    steps = np.full(values.shape, (values.max() - values.min()) / 255 if values.size else 0.0)
    for axis, length in enumerate(values.shape):
        if 1 < length <= MAX_GROUPS and values.size >= length * MIN_GROUP_ELEMENTS:
            others = tuple(other for other in range(values.ndim) if other != axis)
            high, low = (f(values, axis=others, keepdims=True) for f in (np.max, np.min))
            least = DEVICE_FLOAT_TOLERANCE / DEVICE_STEPS * np.maximum(high, -low)
            steps = np.minimum(steps, np.maximum((high - low) / 255, least))
    return steps
