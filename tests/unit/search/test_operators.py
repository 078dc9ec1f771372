"""Operators of a module's own forward: their names, and which of them are offered to stay float."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekit.compress.graph import containers, float_nodes, layer_of, operator_names, within

IMAGE = (torch.randn(1, 3, 8, 8),)


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.box, self.score = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.box(x) * 640, torch.relu(self.score(x))], 1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 1), Head()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.stem(x))) + 1


@pytest.fixture
def graph() -> torch.fx.Graph:
    exported: torch.fx.GraphModule = torch.export.export(Net(), IMAGE).module()
    return exported.graph


def test_an_operator_is_named_by_its_module_and_its_node(graph: torch.fx.Graph) -> None:
    assert {":add", "head:cat", "head:mul", "stem:conv2d"} <= set(operator_names(graph))


def test_a_layer_is_a_module_or_an_operator_of_one_that_holds_others(graph: torch.fx.Graph) -> None:
    holding = containers(graph)
    assert holding == {"", "head"}
    layers = {node.name: layer_of(node, holding) for node in graph.nodes}
    assert layers["conv2d"] == "stem"
    assert layers["conv2d_1"] == "head.box"
    assert layers["cat"] == "head:cat"
    assert layers["add"] == ":add"


def test_an_operator_is_within_its_module_and_no_other() -> None:
    assert within("head:cat", "head")
    assert within("head.box:conv2d", "head")
    assert within("head:cat", "head:cat")
    assert not within("head:cat", "head:cat_1")
    assert not within("header:cat", "head")
    assert not within(":cat", "")


def test_only_the_operators_that_were_named_stay_float(graph: torch.fx.Graph) -> None:
    assert float_nodes(graph, frozenset({"head:cat"})) == {"cat"}
    assert float_nodes(graph, frozenset({":add"})) == {"add"}
    assert {"conv2d_1", "conv2d_2", "mul", "cat"} <= float_nodes(graph, frozenset({"head"}))
