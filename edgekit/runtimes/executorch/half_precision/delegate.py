"""Corrections of the lowering to XNNPACK for programs in half precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from executorch.backends.xnnpack._passes import XNNPACKPassManager
from executorch.backends.xnnpack.operators import node_visitor
from executorch.backends.xnnpack.partition.config.generic_node_configs import ToDimOrderCopyConfig
from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import XNNConvert, XNode
from executorch.exir.dialects._ops import ops as exir_ops
from executorch.exir.pass_base import ExportPass

if TYPE_CHECKING:
    from executorch.exir.pass_base import NodeMetadata, ProxyValue

COPY = exir_ops.edge.dim_order_ops._to_dim_order_copy.default
CONVERT = exir_ops.edge.prims.convert_element_type.default
CONVERTED = {torch.float16, torch.float32}
VISITORS = node_visitor._node_visitor_dict
CONVERT_NAME, CONVOLUTION = "prims.convert_element_type.default", "aten.convolution.default"


def has_half(exported: torch.export.ExportedProgram) -> bool:
    """Whether the program computes anything in half precision."""
    values = [node.meta.get("val") for node in exported.graph.nodes]
    return any(isinstance(one, torch.Tensor) and one.dtype == torch.float16 for one in values)


class _Conversions(ExportPass):  # type: ignore[misc]
    """Tells conversions of the type from changes of the layout, which have the same operator.

    The delegate's own passes take any such copy for a change of the layout, and remove it.
    """

    def call_operator(
        self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata
    ) -> ProxyValue:
        wanted = kwargs.get("dtype")
        if op == COPY and wanted is not None and args[0].to_tensor().dtype != wanted:
            return super().call_operator(CONVERT, (args[0], wanted), {}, meta)
        return super().call_operator(op, args, kwargs, meta)


class _ConvertVisitor(node_visitor.NodeVisitor):  # type: ignore[misc]
    """Serializes a conversion as XNNPACK's own."""

    target = CONVERT_NAME

    def define_node(
        self, node: torch.fx.Node, xnn_graph: Any, vals_to_ids: dict[Any, int], debug_handle: int
    ) -> None:
        self.define_nodes_tensor_inputs_outputs(node, xnn_graph, vals_to_ids)
        ends = {"input_id": vals_to_ids[node.args[0]], "output_id": vals_to_ids[node]}
        convert = XNNConvert(**ends, flags=0)
        xnn_graph.xnodes.append(XNode(xnode_union=convert, debug_handle=debug_handle))


_Convolution: Any = VISITORS[CONVOLUTION]


class _ConvolutionVisitor(_Convolution):  # type: ignore[misc]
    """Stores weights in half precision as they are. XNNPACK has no such transposed convolution."""

    def define_node(self, node: torch.fx.Node, *arguments: Any) -> None:
        self._transposed = bool(node.args[6])
        super().define_node(node, *arguments)

    def define_tensor(self, tensor: torch.fx.Node, *args: Any, **options: Any) -> None:
        dtype = getattr(tensor.meta.get("val"), "dtype", None)
        if dtype == torch.float16 and not self._transposed:
            options["force_fp32"] = False
        super().define_tensor(tensor, *args, **options)


def _takes_copy(self: Any, node: torch.fx.Node, exported: torch.export.ExportedProgram) -> bool:
    """Whether the delegate takes a copy: also one that converts between float16 and float32."""
    source: Any = node.args[0]
    before, after = source.meta["val"], node.meta["val"]
    if before.dtype == after.dtype:
        return bool(_own_check(self, node, exported))
    same = before.dim_order() == after.dim_order()
    converts = {before.dtype, after.dtype} == CONVERTED
    return same and converts and bool(self.check_common_constraints(node, exported))


_own_check = ToDimOrderCopyConfig.check_constraints


@contextmanager
def half_precision() -> Iterator[None]:
    """Lower with two corrections of ExecuTorch 1.5.1 for programs in half precision.

    - The delegate takes conversions of types. Otherwise each is a kernel outside, for which the
      bundle needs the library of all kernels: 9 MB more.
    - The weights of a convolution are stored in half precision like those of a linear layer, not
      in float32: MobileNetV2 has 7 MB instead of 11.4. XNNPACK packs both to the same weights.
    """
    start, own_convolution = XNNPACKPassManager.__init__, VISITORS[CONVOLUTION]

    def with_conversions(self: Any, program: Any, passes: Any = None) -> None:
        start(self, program, passes)
        if not passes:
            self.passes = [_Conversions, *self.passes]

    XNNPACKPassManager.__init__ = with_conversions
    ToDimOrderCopyConfig.check_constraints = _takes_copy
    VISITORS.update({CONVERT_NAME: _ConvertVisitor, CONVOLUTION: _ConvolutionVisitor})
    try:
        yield
    finally:
        XNNPACKPassManager.__init__ = start
        ToDimOrderCopyConfig.check_constraints = _own_check
        VISITORS[CONVOLUTION] = own_convolution
        del VISITORS[CONVERT_NAME]
