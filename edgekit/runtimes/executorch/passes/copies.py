"""Replaces ``a.copy_(b)`` by b: ExecuTorch has a kernel for copies, but no delegate does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from executorch.exir.dialects._ops import ops as exir_ops
from executorch.exir.pass_base import ExportPass

if TYPE_CHECKING:
    from executorch.exir.pass_base import NodeMetadata, ProxyValue

COPIES = (torch.ops.aten.copy_.default, torch.ops.aten.copy.default)


def has_copies(exported: torch.export.ExportedProgram) -> bool:
    return any(node.target in COPIES for node in exported.graph.nodes)


class WithoutCopies(ExportPass):  # type: ignore[misc]
    """Removes copies between tensors of the same shape and type."""

    def call_operator(
        self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata
    ) -> ProxyValue:
        if op == exir_ops.edge.aten.copy.default:
            into, source = args[0].to_tensor(), args[1].to_tensor()
            if into.shape == source.shape and into.dtype == source.dtype:
                return args[1]
        return super().call_operator(op, args, kwargs, meta)
