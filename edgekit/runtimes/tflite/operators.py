"""The operators of tflite-runtime 2.14, as the wheel itself has them.

tests/integration/test_tflite.py asks the wheel.
"""

from __future__ import annotations

# The newest version of each operator, as files number them. Those that are not listed have one.
NEWEST = {
    "ABS": 5, "ADD": 5, "ARG_MAX": 3, "ARG_MIN": 3, "AVERAGE_POOL_2D": 3, "BATCH_MATMUL": 4,
    "BATCH_TO_SPACE_ND": 4, "BIDIRECTIONAL_SEQUENCE_LSTM": 3, "BIDIRECTIONAL_SEQUENCE_RNN": 3,
    "BROADCAST_TO": 3, "CAST": 5, "CONCATENATION": 4, "CONV_2D": 7, "DEPTHWISE_CONV_2D": 7,
    "DEPTH_TO_SPACE": 2, "DEQUANTIZE": 5, "DIV": 2, "EMBEDDING_LOOKUP": 3, "EQUAL": 4, "EXP": 2,
    "FAKE_QUANT": 2, "FILL": 4, "FLOOR_DIV": 3, "FLOOR_MOD": 2, "FULLY_CONNECTED": 10, "GATHER": 6,
    "GATHER_ND": 4, "GELU": 2, "GREATER": 2, "GREATER_EQUAL": 3, "L2_NORMALIZATION": 2,
    "LEAKY_RELU": 2, "LESS": 3, "LESS_EQUAL": 2, "LOGISTIC": 3, "LOG_SOFTMAX": 2, "LSTM": 4,
    "MAXIMUM": 4, "MAX_POOL_2D": 3, "MEAN": 3, "MINIMUM": 4, "MIRROR_PAD": 3, "MUL": 7,
    "NOT_EQUAL": 3, "PACK": 4, "PAD": 4, "PADV2": 4, "QUANTIZE": 3, "RANGE": 2, "REDUCE_MAX": 3,
    "REDUCE_MIN": 3, "REDUCE_PROD": 2, "RELU": 3, "RELU6": 3, "RESIZE_BILINEAR": 4,
    "RESIZE_NEAREST_NEIGHBOR": 4, "REVERSE_V2": 3, "RNN": 3, "RSQRT": 2, "SELECT": 4,
    "SELECT_V2": 2, "SIGN": 2, "SLICE": 6, "SOFTMAX": 3, "SPACE_TO_BATCH_ND": 4,
    "SPACE_TO_DEPTH": 2, "SPARSE_TO_DENSE": 3, "SPLIT": 4, "SPLIT_V": 2, "SQUARED_DIFFERENCE": 2,
    "SQUEEZE": 2, "STRIDED_SLICE": 8, "SUB": 5, "SUM": 2, "SVDF": 4, "TANH": 3, "TILE": 3,
    "TOPK_V2": 3, "TRANSPOSE": 6, "TRANSPOSE_CONV": 4, "UNIDIRECTIONAL_SEQUENCE_LSTM": 4,
    "UNIDIRECTIONAL_SEQUENCE_RNN": 3, "UNPACK": 4, "WHERE": 2,
}  # fmt: skip
# Operators of newer runtimes, and numbers that no runtime has an operator for.
ABSENT = ("CONCAT_EMBEDDINGS", "DELEGATE", "DILATE", "REDUCE_WINDOW")
NEWER_DIALECT = "STABLEHLO_"


def has_operator(kind: str, version: int) -> bool:
    """Whether tflite-runtime has a builtin operator in this version."""
    is_known = kind not in ABSENT and not kind.startswith(NEWER_DIALECT)
    return is_known and version <= NEWEST.get(kind, 1)
