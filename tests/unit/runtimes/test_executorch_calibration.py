"""Calibration: how often each value of the quantizer's graph is observed."""

from __future__ import annotations

from collections import Counter

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchao")
pytest.importorskip("executorch")

from edgekit.errors import RuntimeFailure  # noqa: E402
from edgekit.plan import Plan  # noqa: E402
from edgekit.progress import Silent  # noqa: E402
from edgekit.runtimes.executorch.quantize import calibrate, prepare  # noqa: E402


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3)
        self.register_buffer("offset", torch.randn(8, 1, 1))

    def forward(self, x):
        return self.conv(x) + self.offset


def observed(inputs) -> tuple[torch.fx.GraphModule, Counter[str]]:
    torch.manual_seed(0)
    example = (torch.randn(1, 3, 8, 8),)
    prepared = prepare(Net().eval(), example, Plan(precision="int8"))
    counts: Counter[str] = Counter()
    observers = {node.target: node.args[0].op for node in prepared.graph.nodes
                 if node.op == "call_module"}  # fmt: skip
    for name, source in observers.items():
        prepared.get_submodule(name).register_forward_hook(
            lambda *_, source=source: counts.update([source])
        )
    calibrate(prepared, inputs, Silent())
    assert all(hasattr(prepared.get_submodule(name), "calculate_qparams") for name in observers)
    return prepared, counts


def test_constants_are_observed_once_and_all_observers_return() -> None:
    inputs = [(torch.randn(1, 3, 8, 8),) for _ in range(4)]
    _, once = observed(inputs[:1])
    _, four = observed(inputs)
    assert once["get_attr"] == four["get_attr"] > 0
    assert {source: count for source, count in four.items() if source != "get_attr"} == {
        source: 4 * count for source, count in once.items() if source != "get_attr"
    }


def test_observers_return_after_an_input_that_fails() -> None:
    prepared, _ = observed([(torch.randn(1, 3, 8, 8),)])
    with pytest.raises(RuntimeFailure):
        calibrate(prepared, [(torch.randn(1, 3, 8, 8),), (torch.randn(1, 5),)], Silent())
    names = [node.target for node in prepared.graph.nodes if node.op == "call_module"]
    assert not any(isinstance(prepared.get_submodule(name), torch.nn.Identity) for name in names)
