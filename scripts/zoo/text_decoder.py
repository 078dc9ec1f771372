"""A small causal language model: token ids in, scores of the next token at each place out; width
192, 4 layers, 32 tokens.
"""

import torch
from common import settled, tokens
from torch import nn
from vit import Block

VOCABULARY, WIDTH, LENGTH = 4000, 192, 32


class TextDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.places = nn.Parameter(torch.randn(1, LENGTH, WIDTH) * 0.1)
        self.blocks = nn.Sequential(*[Block(WIDTH, 4, causal=True) for _ in range(4)])
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.words(ids) + self.places)))


example_inputs, calibration = tokens(VOCABULARY, LENGTH)


def model() -> nn.Module:
    return settled(TextDecoder, example_inputs)
