"""Corrects the memory layout in which ExecuTorch hands tensors to XNNPACK's operators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextmanager
def corrected_layouts() -> Iterator[None]:
    """Lower with two corrections of ExecuTorch 1.5.1, which keeps the result of a convolution in
    NHWC until an operator on a list asks for NCHW.

    - Softmax joins that list. XNNPACK's softmax is over the axis that is last in memory: after a
      convolution it would be over the channels, without an error.
    - A quantized value changes its layout for the reader that asks for it. ExecuTorch changes it
      for all readers, also for those that were given the other layout before: the delegate would
      return a tensor with its axes in the wrong order.
    """
    from executorch.backends.xnnpack._passes.channels_last_tagged_reshape_pass import (
        ChannelsLastTaggedReshapePass as Layouts,
    )
    from executorch.exir.dialects._ops import ops as exir_ops

    in_nchw, change = Layouts.memory_sensitive_ops_nchw, Layouts.insert_copy_q_dq
    added = {exir_ops.edge.aten._softmax.default} - in_nchw

    def change_for_one(
        self: Any,
        module: torch.fx.GraphModule,
        before: torch.fx.Node,
        after: torch.fx.Node,
        copy: torch.fx.Node,
        steps: tuple[Any, ...],
    ) -> None:
        with module.graph.inserting_after(before):
            own = module.graph.node_copy(before)
        for reader in (after, copy):
            reader.replace_input_with(before, own)
        change(self, module, own, after, copy, steps)

    in_nchw |= added
    Layouts.insert_copy_q_dq = change_for_one
    try:
        yield
    finally:
        in_nchw -= added
        Layouts.insert_copy_q_dq = change
