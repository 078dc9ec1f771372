"""Rewrites operators that XNNPACK does not support as equal ones that it does, before lowering."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.compress.graph import operator_name
from edgekit.compress.quantization.limits import FUSED

if TYPE_CHECKING:
    import torch

# Metadata that a new node inherits from the one that it replaces, so that reports name its layer.
KEPT_META = ("nn_module_stack", "stack_trace", "from_node", "torch_fn")
CONVOLUTIONS_1D = ("conv1d", "conv_transpose1d")
QUANTIZE, DEQUANTIZE = "quantized_decomposed.quantize_", "quantized_decomposed.dequantize_"
FIXED = "per_tensor.default"  # steps are constants of the program, not computed at run time
# Operators that are lowered to a pad; and those lowered to a reshape or a transpose.
PADS = ("pad", "constant_pad_nd", "im2col")
SHAPERS = (
    "flatten", "movedim", "permute", "reshape", "squeeze", "transpose", "unflatten", "unsqueeze",
    "view",
)  # fmt: skip


def rewrite(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Rewrite the program in place.

    - PReLU on anything but images becomes two ReLUs: XNNPACK's kernel needs four dimensions, but
      its partitioner accepts any, and the lowering then fails. So does PReLU with a computed slope.
    - A general convolution becomes conv1d, conv2d or conv3d, which the quantizer recognizes.
    - A convolution of one image without a batch gets a batch of one: XNNPACK takes no other.
    - A float one-dimensional convolution or a pad is separated from adjacent quantized values:
      the lowering would apply their steps to it.
    - A value that changes shape and steps at once changes its steps first: XNNPACK's reshape
      requires equal steps.
    - A maximum along an axis without its indices becomes amax where XNNPACK has no kernel: its
      partitioner accepts any axis of an image, and the lowering then fails.
    - A negative pad becomes a slice. col2im (F.fold), which is lowered to one, folds into a larger
      image first.
    """
    inputs = exported.graph_signature.user_inputs
    for node in list(exported.graph.nodes):
        if node.op != "call_function":
            continue
        if str(node.target) == "aten.prelu.default" and not _has_prelu_kernel(node, inputs):
            _replace_prelu(node)
        elif str(node.target) == "aten.convolution.default":
            _replace_convolution(node)
        elif str(node.target) == "aten.max.dim":
            _replace_max(node)
        elif _is_unbatched_convolution(node):
            _add_batch(node)
        elif operator_name(node) in CONVOLUTIONS_1D and not _is(node.args[1], DEQUANTIZE):
            _keep_apart(node)
        elif operator_name(node) == "col2im" and any(node.args[4]):
            _replace_col2im(node)
        elif _is_negative_pad(node):
            _replace_negative_pad(node)
        elif operator_name(node) in PADS:
            _keep_pad_apart(node)
        elif operator_name(node) in SHAPERS:
            _change_steps_first(node)
    return exported


def _has_prelu_kernel(node: torch.fx.Node, inputs: tuple[Any, ...]) -> bool:
    """Whether XNNPACK's kernel takes it: an image, and a stored slope."""
    arguments: tuple[Any, ...] = node.args
    x, slope = arguments
    stored = slope.op == "placeholder" and slope.name not in inputs
    return stored and bool(x.meta["val"].dim() == 4)


def _replace_prelu(node: torch.fx.Node) -> None:
    """Replace by relu(x) - weight * relu(-x), which is bit-equal."""
    import torch

    aten = torch.ops.aten
    arguments: tuple[Any, ...] = node.args
    x, weight = arguments
    with node.graph.inserting_before(node):
        if x.meta["val"].dim() > 2 and weight.meta["val"].numel() > 1:  # channels come second
            shape = [-1] + [1] * (x.meta["val"].dim() - 2)
            weight = call_like(node, aten.view.default, weight, shape)
        positive = call_like(node, aten.relu.default, x)
        negative = call_like(node, aten.relu.default, call_like(node, aten.neg.default, x))
        scaled = call_like(node, aten.mul.Tensor, negative, weight)
        result = call_like(node, aten.sub.Tensor, positive, scaled)
    put_in_place(node, result)


def _replace_convolution(node: torch.fx.Node) -> None:
    import torch

    aten = torch.ops.aten
    plain = (None, aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
    turned = (
        None, aten.conv_transpose1d.default, aten.conv_transpose2d.input,
        aten.conv_transpose3d.input,
    )  # fmt: skip
    arguments: tuple[Any, ...] = node.args
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = arguments
    rest = [stride, padding, dilation, groups]
    if transposed:
        rest = [stride, padding, output_padding, groups, dilation]
    operator = (turned if transposed else plain)[weight.meta["val"].dim() - 2]
    with node.graph.inserting_before(node):
        put_in_place(node, call_like(node, operator, x, weight, bias, *rest))


def _is_unbatched_convolution(node: torch.fx.Node) -> bool:
    if operator_name(node).rstrip("123d") not in ("conv", "conv_transpose"):
        return False
    arguments: tuple[Any, ...] = node.args
    x, weight = arguments[:2]
    return bool(x.meta["val"].dim() == weight.meta["val"].dim() - 1)


def _add_batch(node: torch.fx.Node) -> None:
    import torch

    view = torch.ops.aten.view.default
    arguments: tuple[Any, ...] = node.args
    x, *rest = arguments
    with node.graph.inserting_before(node):
        one = call_like(node, view, x, [1, *x.meta["val"].shape])
        result = call_like(node, node.target, one, *rest)
        put_in_place(node, call_like(node, view, result, list(node.meta["val"].shape)))


def _replace_max(node: torch.fx.Node) -> None:
    """Replace by amax, unless the indices are used or XNNPACK reduces that axis."""
    import torch

    arguments: tuple[Any, ...] = node.args
    x, dim, *rest = arguments
    keeps_dim, rank = bool(rest and rest[0]), x.meta["val"].dim()
    if any(user.args[1] != 0 and user.users for user in node.users):
        return
    if rank == 4 and keeps_dim and dim % rank in (2, 3):
        node.args = (x, dim % rank, True)  # the lowering knows no axes from the end
        return
    with node.graph.inserting_before(node):
        largest = call_like(node, torch.ops.aten.amax.default, x, [dim], keeps_dim)
    for user in list(node.users):
        user.replace_all_uses_with(largest, propagate_meta=False)
        node.graph.erase_node(user)
    node.graph.erase_node(node)


def _is_negative_pad(node: torch.fx.Node) -> bool:
    """Whether a constant pad has a negative amount."""
    arguments: tuple[Any, ...] = node.args
    if operator_name(node) not in ("pad", "constant_pad_nd") or min(arguments[1]) >= 0:
        return False
    return not any(isinstance(value, str) and value != "constant" for value in arguments[2:])


def _replace_negative_pad(node: torch.fx.Node) -> None:
    arguments: tuple[Any, ...] = node.args
    x, amounts, *rest = arguments
    with node.graph.inserting_before(node):
        for place in range(len(amounts) // 2):
            before, after = (max(-amount, 0) for amount in amounts[2 * place : 2 * place + 2])
            x = _slice(node, x, -1 - place, before, after)
        positive = [max(amount, 0) for amount in amounts]
        result = call_like(node, node.target, x, positive, *rest) if any(positive) else x
    put_in_place(node, result)


def _replace_col2im(node: torch.fx.Node) -> None:
    """Fold into an image with room for the padding, then slice that off."""
    arguments: tuple[Any, ...] = node.args
    x, size, kernel, dilation, padding, stride = arguments
    room = [length + 2 * amount for length, amount in zip(size, padding, strict=True)]
    with node.graph.inserting_before(node):
        image = call_like(node, node.target, x, room, kernel, dilation, [0, 0], stride)
        for dim, amount in zip((-2, -1), padding, strict=True):
            image = _slice(node, image, dim, amount, amount)
    put_in_place(node, image)


def _slice(like: torch.fx.Node, x: torch.fx.Node, dim: int, before: int, after: int) -> Any:
    """``x`` without ``before`` values at the start and ``after`` values at the end of ``dim``."""
    import torch

    if not before and not after:
        return x
    end = x.meta["val"].shape[dim] - after
    return call_like(like, torch.ops.aten.slice.Tensor, x, dim, before, end)


def _keep_apart(node: torch.fx.Node) -> None:
    """Separate a node from quantized values by views to the same shape, which are cheap."""
    _keep_apart_from_input(node)
    users, last = list(node.users), node
    if len(users) == 1 and operator_name(users[0]) in FUSED:
        last, users = users[0], list(users[0].users)
    quantizing = [user for user in users if _is(user, QUANTIZE)]
    if quantizing:
        with node.graph.inserting_after(last):
            same = _same(node, last)
        for user in quantizing:
            user.replace_input_with(last, same)


def _keep_apart_from_input(node: torch.fx.Node) -> None:
    source: Any = node.args[0]
    if _is(source, DEQUANTIZE):
        with node.graph.inserting_before(node):
            node.replace_input_with(source, _same(node, source))


def _keep_pad_apart(node: torch.fx.Node) -> None:
    """Separate a pad from its input, unless its result is quantized next. The pad of an im2col is
    always followed by an index.
    """
    quantized = any(_is(user, QUANTIZE) for user in node.users)
    if operator_name(node) == "im2col" or not quantized:
        _keep_apart_from_input(node)


def _change_steps_first(node: torch.fx.Node) -> None:
    """Requantize before the reshape; rounding again to the same steps changes no bit."""
    source: Any = node.args[0]
    if len(node.users) != 1 or not _is(source, DEQUANTIZE + FIXED):
        return
    (quantize,) = node.users
    steps = quantize.args[1:]
    if not _is(quantize, QUANTIZE + FIXED) or steps == source.args[1:]:
        return
    with node.graph.inserting_before(node):
        rounded = call_like(node, quantize.target, source, *steps)
        node.replace_input_with(source, call_like(node, source.target, rounded, *steps))


def _is(node: Any, operator: str) -> bool:
    return str(node.target).startswith(operator)


def _same(like: torch.fx.Node, value: torch.fx.Node) -> torch.fx.Node:
    import torch

    return call_like(like, torch.ops.aten.view.default, value, list(value.meta["val"].shape))


def put_in_place(node: torch.fx.Node, other: torch.fx.Node) -> None:
    node.replace_all_uses_with(other, propagate_meta=False)
    node.graph.erase_node(node)


def call_like(like: torch.fx.Node, operator: Any, *arguments: Any) -> torch.fx.Node:
    """A call of ``operator`` with the metadata of ``like``, so that it belongs to its layer."""
    import torch

    node = like.graph.call_function(operator, arguments)
    values = torch.fx.node.map_arg(arguments, lambda argument: argument.meta["val"])
    node.meta = {key: like.meta[key] for key in KEPT_META if key in like.meta}
    node.meta["val"] = operator(*values)
    return node
