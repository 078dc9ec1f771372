"""Assigns a profile's events to the layers of the recipe's model, without torch."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.program import Program
from edgekit.runner.client import ProfileRow
from edgekit.runtimes.base import Located
from edgekit.runtimes.xnnpack import events

# XNNPACK's nodes by the file's operators.
NODES = {
    "ABS": "Abs", "ADD": "Add", "AVERAGE_POOL_2D": "AvgPooling2d",
    "BATCH_MATMUL": "BatchMatrixMultiply", "CEIL": "Ceiling", "CONCATENATION": "Concatenate2",
    "CONV_2D": "Conv2d", "COS": "Cos", "DEPTHWISE_CONV_2D": "DepthwiseConv2d",
    "DEQUANTIZE": "Convert", "DIV": "Div", "ELU": "ELU", "EXP": "Exp", "EXPAND_DIMS": "Reshape",
    "FLOOR": "Floor", "FULLY_CONNECTED": "FullyConnected", "GELU": "Gelu",
    "HARD_SWISH": "Hardswish", "LEAKY_RELU": "LeakyReLU", "LOG": "Log", "LOGISTIC": "Sigmoid",
    "MAXIMUM": "Maximum", "MAX_POOL_2D": "MaxPooling2d", "MEAN": "GlobalAvgPooling2d",
    "MINIMUM": "Minimum", "MUL": "Multiply", "NEG": "Negate", "PAD": "ConstantPad",
    "PADV2": "ConstantPad", "PRELU": "PReLU", "QUANTIZE": "Convert", "RELU": "Clamp",
    "RELU6": "Clamp", "RELU_0_TO_1": "Clamp", "RELU_N1_TO_1": "Clamp", "RESHAPE": "Reshape",
    "RESIZE_BILINEAR": "ResizeBilinear2D", "RSQRT": "ReciprocalSquareRoot", "SIN": "Sin",
    "SLICE": "Slice", "SOFTMAX": "Softmax", "SPLIT": "Slice", "SQRT": "SquareRoot",
    "SQUARE": "Square", "SQUARED_DIFFERENCE": "Squared Difference", "SQUEEZE": "Reshape",
    "STRIDED_SLICE": "Slice", "SUB": "Subtract", "SUM": "Sum", "TANH": "Tanh",
    "TRANSPOSE": "Transpose", "TRANSPOSE_CONV": "ConvTranspose2d",
}  # fmt: skip


def locate(program: Program, rows: Sequence[ProfileRow]) -> list[Located]:
    """The operator and the layer of every row of a profile, in their order."""
    return events.locate(program, rows, NODES)
