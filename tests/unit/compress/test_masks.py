"""Attention masks are cut to what hides as much, and left alone where a cut would show."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekit.compress.masks import clamp_masks

LENGTH = 8
LOW = float(torch.finfo(torch.float32).min)


class Attention(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.qkv = kind, nn.Linear(4, 48)
        self.register_buffer("causal", torch.full((LENGTH, LENGTH), -torch.inf).triu(1))

    def forward(self, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        mask = self.mask(keep[:, None, :])
        if self.kind == "one operator":
            return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask + 0 * keep)
        return (q @ k.transpose(1, 2) / 4 + mask).softmax(-1) @ v

    def mask(self, keep: torch.Tensor) -> torch.Tensor:
        if self.kind == "buffer":
            return self.causal
        if self.kind == "filled":
            return torch.zeros_like(keep).masked_fill(keep == 0, -torch.inf)
        if self.kind == "chosen":
            return torch.where(keep > 0, 0.0, LOW)
        if self.kind == "computed":
            return keep.log()
        if self.kind == "all":
            return (1 - 0 * keep) * LOW
        return (1 - keep) * (LOW if self.kind == "lowest" else -1e9)


def inputs(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(length)
    return torch.randn(1, LENGTH, 4), (torch.arange(LENGTH) < length).float()[None]


DATA = [inputs(length) for length in range(2, LENGTH + 1)]


def operands(graph: torch.fx.GraphModule, data) -> float:
    """The lowest value that an addition takes."""
    found = []

    class Watching(torch.fx.Interpreter):
        def run_node(self, n):
            if "add" in str(n.target):
                found.extend(float(self.env[value].min()) for value in n.all_input_nodes)
            return super().run_node(n)

    with torch.no_grad():
        Watching(graph).run(*data)
    return min(found)


@pytest.mark.parametrize(
    "kind",
    ["lowest", "product", "filled", "chosen", "computed", "buffer", "one operator"],
)
def test_a_mask_is_cut_and_the_outputs_stay(kind: str) -> None:
    net = Attention(kind).eval()
    graph: torch.fx.GraphModule = torch.export.export(net, DATA[0]).module()
    wanted = [net(*data) for data in DATA]
    assert clamp_masks(graph, DATA) == set()
    for data, output in zip(DATA, wanted, strict=True):
        assert operands(graph, data) >= -100
        assert torch.allclose(graph(*data), output, rtol=0, atol=1e-6)


def test_rows_that_are_masked_as_a_whole_keep_their_mask() -> None:
    graph: torch.fx.GraphModule = torch.export.export(Attention("all").eval(), DATA[0]).module()
    clamp_masks(graph, DATA)
    assert operands(graph, DATA[0]) < -1e30


def test_scores_that_reach_far_get_a_lower_cut() -> None:
    net = Attention("product").eval()
    with torch.no_grad():
        net.qkv.weight.mul_(12)
    graph: torch.fx.GraphModule = torch.export.export(net, DATA[0]).module()
    clamp_masks(graph, DATA)
    assert -1000 < min(operands(graph, data) for data in DATA) < -50
    for data in DATA:
        assert torch.allclose(graph(*data), net(*data), rtol=0, atol=1e-5)


def test_a_mask_that_is_infinite_for_whole_rows_is_never_rounded() -> None:
    class Endless(nn.Module):
        def forward(self, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
            return (x @ x.transpose(1, 2) + keep.log()[:, None]).softmax(-1).nan_to_num(0.5)

    graph: torch.fx.GraphModule = torch.export.export(Endless(), DATA[0]).module()
    data = [(x, 0 * keep) for x, keep in DATA]
    assert clamp_masks(graph, data) == {"add"}
