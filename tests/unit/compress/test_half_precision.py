"""Which operators compute in half precision, and that the graph still computes the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekit.compress.graph import operator_name
from edgekit.compress.half_precision import to_half

COMPUTED = frozenset(
    ("linear", "conv2d", "add", "mul", "relu", "hardtanh", "softmax", "matmul", "clamp", "sigmoid")
)
X = torch.linspace(-1, 1, 32).reshape(2, 16)


class Net(nn.Module):
    """A linear layer of 16 values before and after ``between``."""

    def __init__(self, between) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.between = nn.Linear(16, 16), nn.Linear(16, 4), between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.between(self.first(x)))


def converted(model: nn.Module, *inputs: torch.Tensor, layers=()) -> tuple[dict, float, int]:
    """The type of each operator's result, the signal-to-noise ratio, and the count."""
    model = model.eval()
    graph = torch.export.export(model, inputs).module()
    with torch.no_grad():
        wanted = model(*inputs)
    count = to_half(graph, [inputs], COMPUTED, layers)
    types: dict[str, torch.dtype] = {}

    class Watching(torch.fx.Interpreter):
        def run_node(self, n):
            result = super().run_node(n)
            known = isinstance(result, torch.Tensor) and result.dtype != torch.bool
            if known and operator_name(n) not in ("", "_to_copy"):
                types.setdefault(operator_name(n), result.dtype)
            return result

    with torch.no_grad():
        found = Watching(graph).run(*inputs)
    found = found[0] if isinstance(found, (tuple, list)) else found
    assert found.dtype == wanted.dtype
    noise = float(((found - wanted) ** 2).sum())
    return types, 10 * float(torch.log10((wanted**2).sum() / max(noise, 1e-30))), count


def types_between(between) -> tuple[torch.dtype | None, float]:
    """The type of the operator between two linear layers, which are in half precision."""
    types, sqnr_db, _ = converted(Net(between), X)
    assert types.pop("linear") == torch.float16
    return next(iter(types.values()), None), sqnr_db


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        (torch.relu, torch.float16),
        (lambda x: x + 1, torch.float16),
        (lambda x: x.reshape(2, 4, 4).flatten(1), torch.float16),
        (lambda x: x[:, 0:16], torch.float16),
        (nn.ReLU6(inplace=True), torch.float16),
        (lambda x: nn.functional.silu(x), torch.float16),
        (lambda x: nn.functional.hardsigmoid(x), torch.float16),
        (nn.LayerNorm(16), torch.float32),
        (torch.exp, torch.float32),
        (nn.GELU(), torch.float32),
        # beyond the range of float16, by a number or by a value
        (lambda x: x.masked_fill(x > 0, -1e9).clamp(-1, 1), torch.float32),
        (lambda x: (x * 1e5) * 1e-5, torch.float32),
        (lambda x: (x * 1e-6) * 1e6, torch.float32),
    ],
)
def test_operators_have_the_type_that_suits_them(between, expected) -> None:
    found, sqnr_db = types_between(between)
    assert found == expected
    assert sqnr_db > 50


def test_without_layers_nothing_is_converted() -> None:
    class Plain(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x) + 1

    types, _, count = converted(Plain(), X)
    assert set(types.values()) == {torch.float32}
    assert count == 0


def test_layers_of_the_plan_stay_float32() -> None:
    types, _, count = converted(Net(torch.relu), X, layers=("first",))
    assert types == {"linear": torch.float32, "relu": torch.float32}
    assert count == 1  # the last layer


def test_integer_inputs_stay() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(10, 16), nn.Linear(16, 3)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.words(tokens + 1)).argmax(-1).float()

    types, _, _ = converted(Words(), torch.tensor([[1, 2, 3]]))
    assert types["add"] == torch.int64
    assert types["linear"] == torch.float16


def test_a_value_that_is_read_after_it_was_changed_in_place() -> None:
    class Changed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layer(x)
            z = torch.relu_(y)
            return y + z

    assert converted(Changed(), X)[1] > 50


@pytest.mark.parametrize("between", [lambda x: x + 1e-8, lambda x: x.clamp(min=1e-8)])
def test_numbers_that_half_precision_makes_zero_stay_float32(between) -> None:
    assert types_between(between)[0] == torch.float32
