"""Corrects the memory layout in which ExecuTorch hands tensors to XNNPACK's operators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def softmax_along_rows() -> Iterator[None]:
    """Lower every softmax with its input in the model's own order of axes.

    XNNPACK's softmax is over the axis that is last in memory. ExecuTorch 1.5.1 keeps the result of
    a convolution in NHWC until an operator on a list asks for NCHW, and softmax is not on that
    list: after a convolution it would be over the channels, without an error.
    """
    from executorch.backends.xnnpack._passes.channels_last_tagged_reshape_pass import (
        ChannelsLastTaggedReshapePass,
    )
    from executorch.exir.dialects._ops import ops as exir_ops

    in_nchw = ChannelsLastTaggedReshapePass.memory_sensitive_ops_nchw
    added = {exir_ops.edge.aten._softmax.default} - in_nchw
    in_nchw |= added
    try:
        yield
    finally:
        in_nchw -= added
