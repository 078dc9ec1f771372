"""How many bytes XNNPACK packs a kernel's constants into, and its tables of pointers.

XNNPACK packs each constant of a kernel anew, and makes tables of pointers for convolutions and
pooling at the first inference. The formulas are those of its source (src/operators); tiles are
those of common CPUs, and differ by a few per cent of the packed weights between CPUs.
"""

from __future__ import annotations

from typing import NamedTuple

from edgekit.target import Architecture

POINTER = 8


class Tiles(NamedTuple):
    """Output channels that a kernel computes at once, for float32, float16 and int8, and the
    multiple that it pads input channels to in int8.
    """

    float_channels: int
    half_channels: int
    int8_channels: int
    int8_depth: int

    def channels(self, item: float) -> int:
        """``item``: the bytes of a packed weight."""
        if item == 2:
            return self.half_channels
        return self.float_channels if item > 1 else self.int8_channels


TILES: dict[Architecture, Tiles] = {
    "x86_64": Tiles(16, 16, 16, 8),
    "aarch64": Tiles(8, 16, 16, 8),
}
ROW_TILE = 4  # output pixels that a convolution computes at once
# For each output channel, beside its weights: a bias, and for int8 weights a scale.
BIAS_BYTES = {4: 4, 2: 2, 1: 8, 0.5: 12}
DEPTHWISE_TILES = (3, 4, 9, 25)


def product_bytes(
    outputs: int, inputs: int, taps: int, groups: int, item: float, tiles: Tiles
) -> int:
    """A convolution's or linear layer's packed weights. ``outputs``, ``inputs``: channels of a
    group. ``taps``: pixels of the kernel. ``item``: the bytes of a packed weight.
    """
    depth = inputs if item > 1 else _round_up(inputs, tiles.int8_depth)
    row = int(taps * depth * item) + BIAS_BYTES.get(item, 4)
    return groups * _round_up(outputs, tiles.channels(item)) * row


def has_depthwise_kernel(taps: int) -> bool:
    """Whether there is a depthwise kernel of that size. Others run as grouped convolutions."""
    return taps <= DEPTHWISE_TILES[-1]


def depthwise_bytes(channels: int, taps: int, item: float, tiles: Tiles) -> int:
    tile = next(size for size in DEPTHWISE_TILES if size >= taps)
    return _round_up(channels, tiles.channels(item)) * (int(tile * item) + BIAS_BYTES.get(item, 4))


def product_table_bytes(pixels: int, taps: int) -> int:
    """The table of a convolution that is not a plain product of matrices. ``pixels``: of its
    output.
    """
    return _round_up(pixels, ROW_TILE) * taps * POINTER


def window_table_bytes(
    height: int, width: int, kernel: tuple[int, int], stride: int, dilation: int = 1
) -> int:
    """The table of a depthwise convolution or pooling. ``height``, ``width``: of its output;
    ``stride``, ``dilation``: along the width.
    """
    rows, columns = kernel
    step = columns if dilation > 1 else min(max(stride, 1), columns)
    return height * (rows * columns + (width - 1) * step * rows) * POINTER


def bilinear_table_bytes(pixels: int) -> int:
    return pixels * (4 * POINTER + 2 * 4)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
