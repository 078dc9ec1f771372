"""Replacements for operators that XNNPACK does not support.

Each entry was measured: both forms were built for ExecuTorch 1.5.1, and the replacement stays
inside the delegate and is not slower (docs/models.md). Operators without a known replacement are
named without advice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edgekit.documents.verdict import Advice
from edgekit.program import OutsideOperator

MOST = 10

AVERAGE = (
    "average over height and width of a 4-D tensor and keep them: x.mean((2, 3), keepdim=True)"
    ".flatten(1), or nn.AdaptiveAvgPool2d(1); for tokens [1, n, width]: "
    "x.transpose(1, 2)[..., None].mean((2, 3), keepdim=True).flatten(1)"
)
SLICES = "cut with slices, x[:, :n] and x[:, n:], instead of chunk or split"
NORM = (
    "with x as [1, n, 1, width] (batch 1): d = x - x.mean((2, 3), keepdim=True); "
    "d * torch.rsqrt((d * d).mean((2, 3), keepdim=True) + eps), then weight and bias"
)
ATTENTION = (
    "attention written out, heads first, batch 1: q, k, v as x.view(n, heads, d).transpose(0, 1); "
    "torch.bmm(torch.bmm(q * d**-0.5, k.transpose(1, 2)).softmax(-1), v)"
)
MATMUL = "torch.bmm on three dimensions instead of matmul on four; x * y needs no expand"
POOLING = (
    "two-dimensional pooling: x.reshape(1, channels, 1, n), torch.max_pool2d with (1, k), and "
    "reshape back"
)
MOMENTS = (
    "written out for images, batch 1: d = x - x.mean((2, 3), keepdim=True); "
    "d * torch.rsqrt((d * d).mean((2, 3), keepdim=True) + eps), then weight and bias"
)
MIRROR = (
    "slices: torch.cat([x[:, :, 1:2], x, x[:, :, -2:-1]], 2), and the same over the last "
    "dimension, pads by 1"
)
REPEAT = (
    "slices: torch.cat([x[:, :, :1], x, x[:, :, -1:]], 2), and the same over the last dimension, "
    "pads by 1"
)
CELLS = (
    "the cell written out: slices x[:, t:t + 1] of the input, one nn.Linear for each gate (or "
    "slices of one), the first state a buffer of zeros"
)

# By the operator's name, without namespace and overload.
INSTEAD: dict[str, str] = {
    "mean": AVERAGE,
    "split_with_sizes_copy": SLICES,
    "native_layer_norm": NORM,
    "logical_not": ATTENTION,
    "expand_copy": MATMUL,
    "avg_pool2d": "no padding, or count_include_pad=False; no ceil_mode",
    "_adaptive_avg_pool2d": "nn.AvgPool2d with the size that gives the same output",
    "amax": "over height and width: torch.max_pool2d over the whole of them, then flatten(1)",
    "upsample_nearest2d": "mode='bilinear' instead of 'nearest'",
    "max_pool2d_with_indices": POOLING,
    "pow": "products instead of powers: x * x * x",
    "index_select": "torch.cat of slices instead of roll or index_select",
    "_softmax": "softmax over the last dimension: x.permute(0, 2, 3, 1).softmax(-1)",
    "elu": "nn.LeakyReLU, nn.SiLU or nn.Hardswish, which stay inside the delegate",
    "log1p": "nn.SiLU or nn.Hardswish instead of softplus or mish",
    "select_copy": "a slice instead of an index: x[:, :, i:i + 1], then reshape",
    "squeeze_copy": "reshape instead of squeeze",
    "unsqueeze_copy": "reshape instead of unsqueeze",
    "_native_batch_norm_legit": MOMENTS,
    "native_group_norm": "nn.BatchNorm2d, which is folded into the convolution before it; the "
    "model must be trained with it",
    "mm": "torch.bmm(a.reshape(1, n, k), b.reshape(1, k, m))",
    "reflection": MIRROR,
    "replication": REPEAT,
}
# Operators that another one brings along in the same layer.
BRINGS: dict[str, tuple[str, ...]] = {
    "logical_not": ("any", "full_like", "eq", "where", "expand_copy", "mul", "scalar_tensor"),
    "log1p": ("gt", "where", "exp"),
    "max_pool2d_with_indices": ("squeeze_copy", "unsqueeze_copy"),
    "index_select": ("arange", "add", "fmod"),
    "_native_batch_norm_legit": ("repeat",),
}
# Functions that are lowered to several operators, which identify them only together.
TOGETHER: dict[str, frozenset[str]] = {
    "reflection": frozenset(("arange", "abs", "sub", "index")),
    "replication": frozenset(("arange", "clamp", "index")),
}
# By the class of the layer, which is the cause of many operators.
INSTEAD_OF_LAYER: dict[str, str] = {
    "LSTM": CELLS,
    "GRU": CELLS,
    "Hardsigmoid": "nn.ReLU6: relu6(x + 3) * (1 / 6)",
}


def advise(outside: Iterable[OutsideOperator], classes: Mapping[str, str]) -> tuple[Advice, ...]:
    """Advice on the operators outside the delegate, grouped by cause; at most MOST entries.

    ``classes``: the class name of each layer. Entries with a replacement come first, then the ones
    that are called most often.
    """
    rows = list(outside)
    names: dict[str, set[str]] = {}
    for row in rows:
        names.setdefault(row.layer, set()).add(_name(row))
    causes: dict[str, list[OutsideOperator]] = {}
    for row in rows:
        causes.setdefault(_cause(row, names[row.layer], classes), []).append(row)
    entries = [_advice(rows, cause) for cause, rows in causes.items()]
    return tuple(sorted(entries, key=lambda advice: (not advice.instead, -advice.count))[:MOST])


def _cause(row: OutsideOperator, beside: set[str], classes: Mapping[str, str]) -> str:
    """The cause of an operator: the layer's class, a function that became several operators, the
    operator that brought this one along, or the operator itself.
    """
    of_class = classes.get(row.layer, "")
    if of_class in INSTEAD_OF_LAYER:
        return of_class
    name = _name(row)
    for cause, parts in TOGETHER.items():
        if parts <= beside and name in parts:
            return cause
    return next((c for c, brought in BRINGS.items() if c in beside and name in brought), name)


def _name(row: OutsideOperator) -> str:
    return str(row.operator).split("::")[-1].split(".")[0]


def _advice(rows: list[OutsideOperator], cause: str) -> Advice:
    return Advice(
        operators=tuple(dict.fromkeys(row.operator for row in rows)),
        layers=tuple(dict.fromkeys(row.layer for row in rows)),
        count=sum(row.count for row in rows),
        instead=INSTEAD_OF_LAYER.get(cause) or INSTEAD.get(cause),
    )
