"""Models of the package transformers as recipes need them: tensors in, one tensor out."""

from collections.abc import Callable

import torch
from common import Inputs, settled
from torch import nn


class Logits(nn.Module):
    """A transformers model whose output is its logits only."""

    def __init__(self, body: nn.Module, names: tuple[str, ...] = ("pixel_values",)) -> None:
        super().__init__()
        self.body, self.names = body, names
        for name, weight in body.named_parameters():
            if "token" in name or "position_embeddings" in name:
                nn.init.normal_(weight, std=0.5)  # else a quantized sum with patches drowns them

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        named = dict(zip(self.names, inputs, strict=True))
        return self.body(**named, return_dict=True).logits


def logits_of(
    make: Callable[[], nn.Module], inputs: Callable[[], Inputs], *names: str
) -> nn.Module:
    return settled(lambda: Logits(make(), names or ("pixel_values",)), inputs)
