"""The base of modes that see every operator a model runs."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class OperatorMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that does not import torch's compiler, which takes over a second.

    torch wraps ``__torch_dispatch__`` of a mode so that the compiler skips it; the wrapper imports
    the compiler at the first operator. Nothing is compiled while these modes are entered.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
