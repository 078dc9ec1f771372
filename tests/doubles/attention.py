"""A transformer block whose heads may go: how many there are, its forward finds by itself."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

WIDTH, HEADS, LENGTH = 64, 4, 10


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head_size = WIDTH // HEADS
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        query, key, value = (
            part(x).view(batch, length, -1, self.head_size).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        y = scaled_dot_product_attention(query, key, value)
        return self.out(y.transpose(1, 2).reshape(batch, length, -1))


class Block(nn.Module):
    """Tokens (N, 10, 64) to scores (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.norm, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.up, self.down = nn.Linear(WIDTH, 128), nn.Linear(128, WIDTH)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm(x))
        x = x + self.down(torch.relu(self.up(x)))
        return self.head(x.mean(1))
