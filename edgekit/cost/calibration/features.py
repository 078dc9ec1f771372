"""The amounts that an operator's time grows with, from its shapes. Pure functions.

Operators of one group share a formula: time = sum of coefficient x amount, none below zero. The
groups follow how kernels for CPUs compute: a product of matrices in tiles of rows and columns, a
depthwise convolution in steps of channels, all others element by element.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from edgekit.cost.shapes import CONVOLUTION, DEPTHWISE, LINEAR, MATMUL, Dims, OperatorShape

PRODUCTS = {CONVOLUTION, LINEAR, MATMUL, "transposed_convolution"}
# How kernels compute: products of matrices, of one row, by channels, element by element.
PRODUCT, ROW, CHANNELS, ELEMENTS = "product", "row", "channels", "elements"
# The kind of a group that stands for all operators that a calibration does not have.
ANY_INSIDE, ANY_OUTSIDE = "any in a delegate", "any outside delegates"
ANY = (ANY_INSIDE, ANY_OUTSIDE)
CONVERT = "convert"
FLOATS = ("fp32", "fp16")
# The distance of operators that another kernel computes, in factors of e.
APART = 2.0
# Weights of a program that touches more bytes are read from beyond a cache of this size; how
# abruptly, as a power. Which caches a device has is left to the fit.
CACHES_BYTES = tuple(2**power for power in range(18, 26))
SHARPNESS = 4


class Group(NamedTuple):
    """Operators with one formula. ``form``: how their kernels compute. ``beside``: see Placed."""

    kind: str
    precision: str
    form: str
    beside: str = ""


class Placed(NamedTuple):
    """An operator in its program.

    ``program_bytes``: what all operators read and write. So many bytes pass through the caches
    between two uses of the operator's weights. ``beside``: of a conversion, the kind of the float
    operator that it serves; of an operator between two conversions, ``CONVERT``; else ''.
    Runtimes fuse some of them into one.
    """

    shape: OperatorShape
    program_bytes: int
    beside: str = ""


class Tile(NamedTuple):
    """Rows and columns of a product that a kernel computes at once: both are rounded up to it.

    ``narrow``: the columns of another kernel, for products with no more of them.
    """

    rows: int
    columns: int
    narrow: int

    def columns_of(self, needed: int) -> int:
        """The columns that are computed where ``needed`` are wanted."""
        step = self.narrow if needed <= self.narrow else self.columns
        return math.ceil(needed / step) * step

    def is_wide(self, needed: int) -> bool:
        """Whether the wide kernel computes no more columns than the narrow one."""
        return math.ceil(needed / self.narrow) * self.narrow % self.columns == 0


class Product(NamedTuple):
    """Products of matrices: (rows x depth) times (depth x columns), as many as ``batch``.

    ``taps``: the positions of a convolution's kernel; ``depth`` counts all of them.
    """

    batch: int
    rows: int
    columns: int
    depth: float
    taps: int


def placed(shapes: Sequence[OperatorShape]) -> list[Placed]:
    """The operators of a whole program."""
    program_bytes = sum(shape.byte_count for shape in shapes)
    around = [None, *shapes, None]
    return [
        Placed(shape, program_bytes, _beside(shape, before, after))
        for before, shape, after in zip(around, shapes, around[2:], strict=False)
    ]


def _beside(shape: OperatorShape, before: OperatorShape | None, after: OperatorShape | None) -> str:
    kinds = [
        one.kind if one is not None and one.instruction == shape.instruction else ""
        for one in (before, after)
    ]
    if shape.kind == CONVERT:
        return kinds[shape.precision in FLOATS]
    return CONVERT if kinds == [CONVERT, CONVERT] else ""


def is_product(shape: OperatorShape) -> bool:
    return shape.kind in PRODUCTS and shape.macs > 0


def group_of(shape: OperatorShape) -> Group:
    if is_product(shape):
        product = product_of(shape)
        # a convolution that reads each pixel once is a plain product of matrices
        plain = product.taps == 1 and shape.stride == (1, 1) and shape.groups == 1
        kind = LINEAR if plain and shape.kind == CONVOLUTION else shape.kind
        return Group(kind, shape.precision, ROW if product.rows == 1 else PRODUCT)
    if shape.kind == DEPTHWISE:
        kernel = f"{shape.kernel[0]}x{shape.kernel[1]}"
        return Group(f"{DEPTHWISE} {kernel}", shape.precision, CHANNELS)
    return Group(shape.kind, shape.precision, ELEMENTS)


def groups_of(operator: Placed) -> list[Group]:
    """The groups of an operator, the most special one first."""
    group = group_of(operator.shape)
    special = [group._replace(beside=operator.beside)] if operator.beside else []
    return [*special, group, any_group(operator.shape)]


def any_group(shape: OperatorShape) -> Group:
    """The group that stands for an operator whose own group was not measured."""
    return Group(ANY_INSIDE if shape.delegated else ANY_OUTSIDE, "any", ELEMENTS)


def product_of(shape: OperatorShape) -> Product:
    """The product of matrices that a convolution, linear layer or matmul computes."""
    result = shape.outputs[0]
    batch = prod(result[:-2]) if shape.kind == MATMUL else shape.groups
    rows = result[-2] if shape.kind == MATMUL else prod(result[:-1])
    columns = result[-1] if shape.kind == MATMUL else result[-1] // shape.groups
    depth = shape.macs / max(1, batch * rows * columns)
    return Product(batch, rows, columns, depth, shape.kernel[0] * shape.kernel[1])


def amounts(operator: Placed, group: Group, tile: Tile) -> list[float]:
    """The amounts of one operator; those of a group have the same length."""
    shape = operator.shape
    if group.form == PRODUCT:
        return [*_of_product(product_of(shape), tile), *_far_bytes(operator)]
    if group.form == ROW:
        return [*_of_row(product_of(shape), tile), *_far_bytes(operator)]
    if group.form == CHANNELS:
        return _of_depthwise(shape, tile)
    return _of_elements(shape)


def coordinates(operator: Placed, group: Group, tile: Tile) -> list[float]:
    """The place of an operator among others of its group: logarithms of its dimensions."""
    shape, kernel = operator.shape, 0.0
    if group.form in (PRODUCT, ROW):
        product = product_of(shape)
        values = [product.batch, product.rows, product.columns, product.depth, product.taps]
        if group.form == ROW:
            values += [operator.program_bytes]
            kernel = APART if tile.is_wide(product.columns) else 0.0
    else:
        result = shape.outputs[0] if shape.outputs else ()
        first = shape.inputs[0] if shape.inputs else ()
        values = [
            _elements(shape.inputs),
            prod(result),
            *(d[-1] if d else 1 for d in (first, result)),
        ]
    return [*(math.log(max(1.0, value)) for value in values), kernel]


def _far_bytes(operator: Placed) -> list[float]:
    """The weights that are read from beyond each cache: the more, the larger the program."""
    ratios = [(operator.program_bytes / cache) ** SHARPNESS for cache in CACHES_BYTES]
    return [operator.shape.weight_bytes * ratio / (1 + ratio) for ratio in ratios]


def _of_product(product: Product, tile: Tile) -> list[float]:
    batch, rows, columns, depth, taps = product
    steps, computed = math.ceil(rows / tile.rows), tile.columns_of(columns)
    area = batch * steps * tile.rows * computed
    return [
        1.0,
        area * depth,
        float(area),
        area / tile.rows / tile.columns * taps,
        batch * rows * depth,
        batch * columns * depth,
        float(batch * rows * columns),
    ]


def _of_row(product: Product, tile: Tile) -> list[float]:
    """The whole product is computed by the narrow kernel if it computes fewer columns."""
    _, _, columns, depth, _ = product
    computed, wide = math.ceil(columns / tile.narrow) * tile.narrow, tile.is_wide(columns)
    work = computed * depth
    return [
        1.0,
        work if wide else 0.0,
        0.0 if wide else work,
        float(computed),
        depth,
        computed / tile.narrow,
    ]


def _of_depthwise(shape: OperatorShape, tile: Tile) -> list[float]:
    *_, channels = shape.outputs[0]
    pixels = prod(shape.outputs[0][:-1])
    return [
        1.0,
        float(pixels * tile.columns_of(channels)),
        float(pixels * channels),
        float(pixels),
        float(shape.outputs[0][1]),
        _elements(shape.inputs[:1]),
    ]


def _of_elements(shape: OperatorShape) -> list[float]:
    read, written = _elements(shape.inputs), _elements(shape.outputs[:1])
    window = written * shape.kernel[0] * shape.kernel[1] if shape.kernel != (1, 1) else 0.0
    rows = _rows(shape.inputs[:1]), _rows(shape.outputs[:1])
    return [1.0, read, written, *rows, window, float(shape.macs)]


def _rows(dims: Sequence[Dims]) -> float:
    return float(sum(prod(one[:-1]) for one in dims))


def _elements(dims: Sequence[Dims]) -> float:
    return float(sum(prod(one) for one in dims))
