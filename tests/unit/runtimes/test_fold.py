"""What is computed of no input becomes a stored constant; all else stays as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.runtimes.executorch.passes.fold import fold_constants
from edgekit.runtimes.quiet import quiet

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


def of_scaled(x: Tensor, own: nn.Linear) -> Tensor:
    return functional.linear(x, own.weight * 0.5, own.bias)


def of_standardized(x: Tensor, own: nn.Linear) -> Tensor:
    variance, mean = torch.var_mean(own.weight, dim=1, keepdim=True)
    return functional.linear(x, (own.weight - mean) / torch.sqrt(variance + 1e-6))


def of_parts(x: Tensor, own: nn.Linear) -> Tensor:
    first, second = own.weight.chunk(2)
    return functional.linear(x, first) * functional.linear(x, second)


def of_rounded(x: Tensor, own: nn.Linear) -> Tensor:
    rounded = own.weight + (torch.round(own.weight / 0.1) * 0.1 - own.weight).detach()
    return functional.linear(x, rounded)


def of_tied(x: Tensor, own: nn.Linear) -> Tensor:
    return functional.linear(own(x), own.weight.t())


def of_steps(x: Tensor, own: nn.Linear) -> Tensor:
    for _ in range(4):
        x = functional.linear(x, own.weight[:6] * 0.5)
    return x


def of_changed_copy(x: Tensor, own: nn.Linear) -> Tensor:
    """A copy that is changed afterwards must not be stored as one that is changed each time."""
    copy = own.weight.clone()
    copy += 1.0
    return functional.linear(x, copy)


def of_the_layer_itself(x: Tensor, own: nn.Linear) -> Tensor:
    return own(x)


def of_random(x: Tensor, own: nn.Linear) -> Tensor:
    return functional.linear(x, torch.rand_like(own.weight))


def of_large(x: Tensor, own: nn.Linear) -> Tensor:
    return (x[:, 0] * own.weight.repeat(200, 200).sum(0)[:2]).reshape(-1)


def of_expanded(x: Tensor, own: nn.Linear) -> Tensor:
    return x.sum() + own.bias.expand(2, 8)


def of_unset(x: Tensor, own: nn.Linear) -> Tensor:
    return torch.cat([x, torch.empty(2, 6)], 1)[:, :6]


def of_full(x: Tensor, own: nn.Linear) -> Tensor:
    return functional.linear(x, torch.full((8, 6), 0.5), torch.ones(8) / 8)


def of_range(x: Tensor, own: nn.Linear) -> Tensor:
    return functional.linear(x, torch.arange(48.0).view(8, 6) + torch.scalar_tensor(2.0))


def of_likes(x: Tensor, own: nn.Linear) -> Tensor:
    rows = torch.full_like(x, 2.0) + torch.ones_like(x).cumsum(1) + x.new_zeros(6)
    return functional.linear(x, rows)


def of_given_out(x: Tensor, own: nn.Linear) -> tuple[Tensor, Tensor]:
    return own(x), own.weight * 2


class Net(nn.Module):
    def __init__(self, compute) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.own, self.compute = nn.Linear(6, 8), compute

    def forward(self, x: Tensor):
        return self.compute(x, self.own)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


def exported_of(compute) -> torch.export.ExportedProgram:
    net = Net(compute).eval().requires_grad_(requires_grad=False)
    return torch.export.export(net, (X,))


def calls(exported: torch.export.ExportedProgram) -> list[str]:
    nodes = [node for node in exported.graph.nodes if node.op == "call_function"]
    return [str(node.target).removeprefix("aten.").split(".")[0] for node in nodes]


@pytest.mark.parametrize(
    ("compute", "left"),
    [
        (of_scaled, ["linear"]),
        (of_standardized, ["linear"]),
        (of_parts, ["linear", "linear", "mul"]),
        (of_rounded, ["linear"]),
        (of_tied, ["linear", "linear"]),
        (of_steps, ["linear"] * 4),
    ],
)
def test_what_is_computed_of_weights_is_stored_as_a_weight(compute, left) -> None:
    exported = exported_of(compute)
    expected = exported.module()(X)
    folded = fold_constants(exported)
    assert calls(folded) == left
    weights = {
        str(node.args[1])
        for node in folded.graph.nodes
        if str(node.target) == "aten.linear.default"
    }
    assert weights <= set(folded.graph_signature.inputs_to_parameters)
    # a weight that lies otherwise in memory is added in another order
    torch.testing.assert_close(folded.module()(X), expected)
    torch.testing.assert_close(folded.run_decompositions().module()(X), expected)


@pytest.mark.parametrize("compute", [of_full, of_range, of_likes])
def test_what_is_computed_of_no_input_is_stored_as_a_constant(compute) -> None:
    exported = exported_of(compute)
    expected = exported.module()(X)
    folded = fold_constants(exported)
    assert calls(folded) == ["linear"]
    constants = folded.graph_signature.inputs_to_lifted_tensor_constants
    (linear,) = [node for node in folded.graph.nodes if node.op == "call_function"]
    assert {str(node) for node in linear.args[1:]} <= set(constants)
    torch.testing.assert_close(folded.module()(X), expected)
    torch.testing.assert_close(folded.run_decompositions().module()(X), expected)


def test_what_equals_another_is_stored_once_and_what_nothing_takes_is_left_out() -> None:
    folded = fold_constants(exported_of(of_steps))
    shapes = [tuple(tensor.shape) for tensor in folded.state_dict.values()]
    assert sorted(shapes) == [(6, 6), (8,)]  # the bias, which nothing took before either, stays


@pytest.mark.parametrize(
    "compute",
    [
        of_changed_copy, of_the_layer_itself, of_random, of_large, of_expanded, of_unset,
        of_given_out,
    ],
)  # fmt: skip
def test_all_else_stays_as_it_was(compute) -> None:
    exported = exported_of(compute)
    before, names = str(exported.graph), set(exported.state_dict)
    folded = fold_constants(exported)
    assert (str(folded.graph), set(folded.state_dict)) == (before, names)


def test_a_buffer_that_the_model_changes_is_no_constant() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.ones(6))

        def forward(self, x: Tensor) -> Tensor:
            self.count.add_(1)
            return x * (self.count * 2)

    exported = torch.export.export(Counting(), (X,))
    before = str(exported.graph)
    assert str(fold_constants(exported).graph) == before
    functional_form = exported.run_decompositions({})
    before = str(functional_form.graph)
    assert str(fold_constants(functional_form).graph) == before
