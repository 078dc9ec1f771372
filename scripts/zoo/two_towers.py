"""A recommender: ids of a user and an item, and numbers, through embeddings and a perceptron."""

import torch
from common import data, settled
from torch import nn

USERS, ITEMS, WIDTH, NUMBERS = 20_000, 5_000, 32, 13


class TwoTowers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(USERS, WIDTH), nn.Embedding(ITEMS, WIDTH)
        self.body = nn.Sequential(
            nn.Linear(2 * WIDTH + NUMBERS, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(),
            nn.Linear(64, 1),
        )  # fmt: skip

    def forward(self, user: torch.Tensor, item: torch.Tensor, facts: torch.Tensor) -> torch.Tensor:
        return self.body(torch.cat([self.users(user), self.items(item), facts], 1))


example_inputs, calibration = data(
    lambda generator: (
        torch.randint(0, USERS, (1,), generator=generator),
        torch.randint(0, ITEMS, (1,), generator=generator),
        torch.randn(1, NUMBERS, generator=generator),
    )
)


def model() -> nn.Module:
    return settled(TwoTowers, example_inputs)
