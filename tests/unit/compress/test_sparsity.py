"""Which weights become zeros, and what the others make good."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edgekit.compress.pruning.compensate import compensate
from edgekit.compress.pruning.sparsity import sparsify, weights_of, zeros_of
from edgekit.errors import RuntimeFailure


class Net(nn.Module):
    """Images (N, 3, 12, 12) to scores (N, 10); a layer is used twice, another is small."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(torch.relu(self.deep(torch.relu(self.second(x)))).mean((2, 3)))


def images(count: int, seed: int) -> list[tuple[torch.Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    base = torch.randn(6, 3, 12, 12, generator=draw)
    return [(torch.einsum("k,kchw->chw", torch.randn(6, generator=draw), base)[None],)] * 1 + [
        (torch.einsum("k,kchw->chw", torch.randn(6, generator=draw), base)[None],)
        for _ in range(count - 1)
    ]


@pytest.mark.parametrize("threshold", ["lamp", "global", "per_layer"])
def test_so_many_weights_become_zeros_and_zeros_are_among_them(threshold) -> None:
    net = Net().eval()
    weights = weights_of(net)
    assert list(weights) == ["first", "second", "deep", "head"]
    sparsify(weights, 0.5, threshold)
    first = {name: weight == 0 for name, weight in weights.items()}
    assert zeros_of(net) == pytest.approx(0.5, abs=0.002)
    sparsify(weights, 0.8, threshold)
    assert zeros_of(net) == pytest.approx(0.8, abs=0.002)
    for name, weight in weights.items():
        assert bool((weight[first[name]] == 0).all())
    shares = {name: float((weight == 0).float().mean()) for name, weight in weights.items()}
    if threshold == "per_layer":
        assert all(share == pytest.approx(0.8, abs=0.02) for share in shares.values()), shares
    if threshold == "lamp":
        assert shares["second"] > shares["deep"], "no layer is taken away whole"


def test_one_threshold_for_all_layers() -> None:
    net = Net().eval()
    before = {name: weight.clone() for name, weight in weights_of(net).items()}
    sparsify(weights_of(net), 0.6, "global")
    gone = [before[name][weight == 0].abs() for name, weight in weights_of(net).items()]
    kept = [weight[weight != 0].abs() for weight in weights_of(net).values()]
    assert torch.cat(gone).max() <= torch.cat(kept).min()


def test_the_weights_that_stay_make_good_what_went_and_zeros_stay() -> None:
    net = Net().eval()
    sparse = copy.deepcopy(net)
    sparsify(weights_of(sparse), 0.7, "lamp")
    zeros = {name: weight == 0 for name, weight in weights_of(sparse).items()}
    before, fresh = copy.deepcopy(sparse), images(16, 3)
    readers: dict[str, list[int]] = {name: [] for name in zeros}
    compensate(
        net,
        sparse,
        readers,
        images(1, 1)[0],
        images(96, 3),
        lambda done, total: None,
        keep_zeros=True,
    )

    def moved(other: nn.Module) -> float:
        with torch.no_grad():
            return sum(float((net(*x) - other(*x)).square().sum()) for x in fresh)

    assert moved(sparse) < 0.5 * moved(before)
    for name, weight in weights_of(sparse).items():
        assert torch.equal(weight == 0, zeros[name])


def test_a_model_without_such_weights_is_an_error() -> None:
    with pytest.raises(RuntimeFailure, match="recurrent layers"):
        sparsify(weights_of(nn.LSTM(4, 8)), 0.5, "lamp")
