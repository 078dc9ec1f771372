"""The reference of parity computes, bit for bit, what torch computes of a converted program."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekit.compress.reference import fast_reference, quantize_dequantize
from edgekit.plan import Plan
from edgekit.progress import Silent

pytestmark = pytest.mark.runtime


class Residual(nn.Module):
    """A value that is stored once and read three times."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.relu, self.head = nn.ReLU6(inplace=inplace), nn.Linear(8, 5)

    def forward(self, x):
        x = self.relu(self.first(x))
        y = torch.cat([x + self.second(x), x], 1)[:, :8]
        return {"scores": self.head(y.mean((2, 3))), "map": y}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = self.inside(x).chunk(3, -1)
        return self.out((q @ k.transpose(1, 2)).softmax(-1) @ v) + x


class Changing(nn.Module):
    """An operator that changes a stored value in place, beside another that reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        y = self.conv(x)
        z = self.other(y)
        return torch.relu_(y.mul(2.0)) + z


IMAGE, TOKENS = (1, 3, 12, 12), (1, 6, 16)
MODELS = {
    "residual": (Residual(False), IMAGE, Plan(precision="int8")),
    "in place": (Residual(True), IMAGE, Plan(precision="int8")),
    "per tensor": (Residual(False), IMAGE, Plan(precision="int8", per_channel=False)),
    "float layer": (Residual(True), IMAGE, Plan(precision="mixed", float_layers=("second",))),
    "attention": (Attention(), TOKENS, Plan(precision="int8")),
    "dynamic": (Attention(), TOKENS, Plan(precision="int8", linear="dynamic")),
    "changing": (Changing(), IMAGE, Plan(precision="int8")),
}


@pytest.mark.parametrize("name", MODELS)
def test_bit_equal_to_the_converted_program(name) -> None:
    from edgekit.runtimes.executorch.quantize import calibrate, convert, prepare

    model, shape, plan = MODELS[name]
    torch.manual_seed(0)
    data = [(torch.randn(shape),) for _ in range(4)]
    prepared = prepare(model.eval(), data[0], plan)
    calibrate(prepared, data, Silent())
    exported = convert(prepared, data[0])
    slow, fast = exported.module(), fast_reference(exported)
    left = [str(n.target) for n in fast.graph.nodes if n.op == "call_function"]
    assert not any("dequantize_per_channel" in target for target in left)
    with torch.no_grad():
        for scale in (0.1, 1.0, 30.0):  # far outside of the ranges too
            inputs = torch.randn(shape) * scale
            pair = [torch.utils._pytree.tree_leaves(net(inputs)) for net in (slow, fast)]
            assert all(map(torch.equal, *pair))


def test_storing_is_the_arithmetic_of_torch() -> None:
    import torch.ao.quantization.fx._decomposed

    library = torch.ops.quantized_decomposed
    torch.manual_seed(1)
    values = torch.cat([torch.randn(20000) * 10, torch.arange(-300, 300) / 2, torch.zeros(2)])
    values[-1] = -0.0
    for scale, zero_point in ((0.05, -128), (1.0, 0), (0.0123456789, 17), (1e-7, 127), (3e5, 5)):
        steps = (scale, zero_point, -128, 127, torch.int8)
        wanted = library.dequantize_per_tensor(library.quantize_per_tensor(values, *steps), *steps)
        found = quantize_dequantize(values, *steps[:4])
        assert torch.equal(found, wanted)
        assert torch.equal(found.signbit(), wanted.signbit())
