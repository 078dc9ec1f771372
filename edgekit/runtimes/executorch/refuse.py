"""Models that ExecuTorch cannot run: refused before lowering if known, else explained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgekit.compress.graph import module_of, operator_name
from edgekit.errors import EdgekitError, RunnerError, RuntimeFailure
from edgekit.program import Program
from edgekit.runtimes.cause import Cause, find_cause, line_of, location_text, name_of
from edgekit.runtimes.executorch.native import missing_kernels

if TYPE_CHECKING:
    import torch

FEATURES = (
    "compute features such as spectra before the model, in the program that feeds it (torch, "
    "NumPy or a package), or in the model as products with fixed cosines and sines: "
    "F.linear(x, cosines), and for frames F.conv1d(x[:, None], window * cosines, stride=hop)"
)
COMPLEX = (
    "compute with real and imaginary part as two tensors: (a + bi)(c + di) is a * c - b * d and "
    "a * d + b * c, with fixed cosines and sines as buffers"
)
SPECTRA = re.compile(r"_?fft_|stft|istft")
OUTSIDE = "compute it before or after the model, in the program that calls it"
OTHER_FORM = "write that line in another form, or compute it before or after the model"
OWN_OPERATOR = "write it with torch's own operators: a device has only ExecuTorch's kernels"
TOP_K = "torch.topk(x, k) with a fixed k; with k of all values it sorts"
BAG = "nn.Embedding and the mean, sum or amax over each bag: embedding(x).mean(1)"
RUNNING = (
    "a loop over slices: torch.maximum or minimum of the last result and x[:, i:i + 1], then cat"
)
POOLING = "torch.max_pool2d with the size that gives the same output (the whole image for 1)"
# By the name of an operator that has no kernel on a device.
INSTEAD = {
    "adaptive_max_pool1d": POOLING,
    "adaptive_max_pool2d": POOLING,
    "fractional_max_pool2d": POOLING,
    "max_pool3d_with_indices": "two pooling layers in two dimensions, reshaped in between",
    "sort": TOP_K,
    "kthvalue": TOP_K,
    "median": TOP_K,
    "searchsorted": "(x[..., None] > edges).sum(-1)",
    "bucketize": "(x[..., None] > edges).sum(-1)",
    "erfinv": OUTSIDE,
    "_embedding_bag": BAG,
    "_embedding_bag_forward_only": BAG,
    "cummax": RUNNING,
    "cummin": RUNNING,
    "cumprod": "x.log().cumsum(dim).exp() of values above 0",
    "logcumsumexp": "m = x.amax(dim, keepdim=True); (x - m).exp().cumsum(dim).log() + m",
    "histc": "with fixed edges: x = x.reshape(-1, 1); ((x >= edges[:-1]) & (x < edges[1:])).sum(0)",
    "scatter_reduce": "for fixed groups: torch.where(mask, x, fill).amax(-1), one mask a group",
}
# Patterns in the runner's errors, and hints for them.
MISSING = re.compile(r"OperatorMissing \(0x14\): ([\w:.]+)")
TEMPORARY = re.compile(r"\S*/edgekit-\w+/model\.\w+: ")
RUN_HINTS = {
    "xnn_status_unsupported_parameter": "XNNPACK does not support a shape or a scale: build with "
    "--precision fp32 to find out whether int8 scales are the reason",
    "Unhandled dtype": "convert to float32 or int32 instead",
    "signal": "a kernel crashed: build with --precision fp32, and report the model",
}
# A tensor with more dimensions can be lowered, but fails on the device.
MOST_DIMENSIONS = 6
DTYPES = frozenset(
    (
        "float32",
        "float16",
        "bfloat16",
        "float64",
        "bool",
        "uint8",
        "int8",
        "int16",
        "int32",
        "int64",
    )
)


def refuse(exported: torch.export.ExportedProgram) -> None:
    """Raise RuntimeFailure, with the place, if no kernel supports a tensor of the program."""
    import torch

    # operators before stored tensors: they are the cause
    for node in sorted(exported.graph.nodes, key=lambda node: node.op != "call_function"):
        values = node.meta.get("val")
        for value in values if isinstance(values, list | tuple) else [values]:
            if isinstance(value, torch.Tensor) and (problem := _problem(node, value)):
                what, hint = problem
                raise RuntimeFailure(f"ExecuTorch has no {what}{_place(node)}", hint)


def _problem(node: torch.fx.Node, value: torch.Tensor) -> tuple[str, str] | None:
    """What ExecuTorch lacks for this tensor, and a hint; None if nothing."""
    import torch

    if value.is_complex():
        name = operator_name(node if node.op == "call_function" else next(iter(node.users), node))
        return "complex tensors", FEATURES if SPECTRA.match(name) else COMPLEX
    if value.layout != torch.strided:
        return "sparse tensors", "make them dense: tensor.to_dense() in model()"
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        return f"kernels for {dtype} tensors", "convert to float32 or int32 instead"
    if operator_name(node).startswith("conv") and value.dim() == 5:
        return "three-dimensional convolution", (
            "two-dimensional convolutions: over height and width for each depth, then over depth"
        )
    if node.op == "call_function" and value.dim() > MOST_DIMENSIONS:
        return f"tensors of {value.dim()} dimensions", (
            f"reshape to at most {MOST_DIMENSIONS} by merging neighbouring dimensions"
        )
    return None


def refuse_missing(graph: torch.fx.Graph) -> None:
    """Raise RuntimeFailure if the graph calls a kernel that no library has."""
    from edgekit.runtimes.executorch.describe import kernel_name

    calls = [(node, kernel_name(node)) for node in graph.nodes]
    missing = missing_kernels({name for _, name in calls if name})
    for node, name in calls:
        if name in missing:
            raise no_kernel(name_of(node), module_of(node), line_of(node))


def _place(node: torch.fx.Node) -> str:
    """The place of a node; for an input or a constant, of its first user."""
    user = node if node.op == "call_function" else next(iter(node.users), node)
    operator = name_of(user) if user.op == "call_function" else None
    return location_text(operator, module_of(user), line_of(user))


@contextmanager
def runtime_failures(what: str, hint: str, graph: torch.fx.Graph | None = None) -> Iterator[None]:
    """Turn any failure in the runtime's libraries into one error with its cause and place."""
    try:
        yield
    except EdgekitError:
        raise
    except Exception as error:
        raise _explain(what, find_cause(error, graph), hint) from error


def _explain(what: str, cause: Cause, hint: str) -> RuntimeFailure:
    text = str(cause.error)
    if cause.operator and "is not in Core ATen opset" in text:
        return no_kernel(cause.operator, cause.layer, cause.line)
    if cause.operator and "Missing out variant" in text:
        return no_kernel(cause.operator, cause.layer, cause.line)
    return RuntimeFailure(f"{what}{cause.where}: {cause.summary}", hint)


def explain_run(error: RunnerError, program: Program) -> RunnerError:
    """The runner's error for the user: with layers and hints instead of temporary files."""
    text = TEMPORARY.sub("", error.message)
    if missing := MISSING.search(text):
        rows = program.summary().outside
        layers = [row.layer for row in rows if row.operator == missing[1]]
        failure = no_kernel(missing[1], layers[0] if layers else None)
        return RunnerError(failure.message, failure.hint, error.runner_code)
    hint = next((hint for pattern, hint in RUN_HINTS.items() if pattern in text), OTHER_FORM)
    return RunnerError(
        f"the lowered model does not run on this host: {text}", hint, error.runner_code
    )


def no_kernel(operator: str, layer: str | None, line: str | None = None) -> RuntimeFailure:
    """The error for an operator (aten.sort, mine.double) without a kernel on devices."""
    space, _, name = operator.replace("::", ".").partition(".")
    name = name.split(".")[0]
    hint = INSTEAD.get(name, OUTSIDE if "linalg_" in name else OTHER_FORM)
    if space in ("quantized_decomposed", "torchao"):
        hint = "int8 is converted between two operators outside any delegate: use --precision fp32"
    elif space not in ("aten", "prims"):
        hint = OWN_OPERATOR
    return RuntimeFailure(
        f"ExecuTorch has no kernel for {space}.{name}{location_text(None, layer, line)}", hint
    )
