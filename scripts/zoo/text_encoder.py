"""A text classifier: token ids, torch's own TransformerEncoder (post-norm), width 256, 4 layers,
64 tokens.
"""

import torch
from common import settled, tokens
from torch import nn

VOCABULARY, WIDTH, LENGTH = 8000, 256, 64


class TextEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 4)
        self.register_buffer("order", torch.arange(LENGTH)[None])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.encoder(self.words(ids) + self.places(self.order))
        return self.head(x.mean(1))


example_inputs, calibration = tokens(VOCABULARY, LENGTH)


def model() -> nn.Module:
    return settled(TextEncoder, example_inputs)
