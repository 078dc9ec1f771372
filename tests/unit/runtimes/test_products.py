"""Products with a weight become linear layers, and a module's other operators hide from it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from edgekit.runtimes.executorch.passes.fold import fold_constants
from edgekit.runtimes.executorch.passes.products import hide_modules, products_as_linear
from edgekit.runtimes.export import export
from edgekit.runtimes.quiet import quiet

X = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
FORMS = {
    "transposed": lambda x, own: x @ own.weight.t(),
    "permuted": lambda x, own: x @ own.weight.permute(1, 0),
    "plain": lambda x, own: x @ own.weight[:6],
    "scaled": lambda x, own: torch.matmul(x, own.weight.mT * 0.5),
    "bias": lambda x, own: own.bias + x @ own.weight.transpose(0, 1),
    "addmm": lambda x, own: torch.addmm(own.bias, x[0], own.weight.t()),
    "vmap": lambda x, own: torch.vmap(own)(x),
}
OTHERS = {
    "activations": lambda x, own: own(x) @ own(x).transpose(1, 2),
    "vector": lambda x, own: x[0, 0] @ own.weight.t(),
    "of the weight": lambda x, own: own.weight @ x[0].t(),
    "scaled bias": lambda x, own: torch.addmm(own.bias, x[0], own.weight.t(), beta=2),
}


class Net(nn.Module):
    def __init__(self, compute) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.own, self.compute = nn.Linear(6, 8), compute

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x, self.own)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


def names(exported: torch.export.ExportedProgram) -> list[str]:
    nodes = [node for node in exported.graph.nodes if node.op == "call_function"]
    return [str(node.target).removeprefix("aten.").split(".")[0] for node in nodes]


@pytest.mark.parametrize("form", FORMS)
def test_a_product_with_a_weight_is_a_linear_layer(form) -> None:
    exported = fold_constants(products_as_linear(export(Net(FORMS[form]), (X,))))
    assert [name for name in names(exported) if name != "select"] == ["linear"]
    with torch.no_grad():
        assert torch.allclose(exported.module()(X), Net(FORMS[form])(X), atol=1e-6)


@pytest.mark.parametrize("form", OTHERS)
def test_other_products_stay(form) -> None:
    exported = export(Net(OTHERS[form]), (X,))
    before = str(exported.graph)
    assert str(products_as_linear(exported).graph) == before


def test_only_a_linear_operator_counts_as_part_of_a_linear_module() -> None:
    """The lowering replaces all that counts as part of one by ``linear``."""
    net = Net(lambda x, own: own(x))
    net.own.register_forward_hook(lambda _module, _inputs, output: output.sin())
    exported = export(net, (X,))
    hide_modules(exported.graph)
    found = {
        name: list(node.meta["nn_module_stack"].values())[-1]
        for node, name in zip(
            [node for node in exported.graph.nodes if node.op == "call_function"],
            names(exported),
            strict=True,
        )
    }
    assert found["linear"] == ("own", "torch.nn.modules.linear.Linear")
    assert found["sin"][0] == "own"
    assert not found["sin"][1].endswith("Linear")
