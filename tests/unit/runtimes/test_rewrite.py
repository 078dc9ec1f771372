"""What the rewrites before lowering compute, in torch; integration tests lower them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgekit.runtimes.executorch.passes.rewrite import rewrite
from edgekit.runtimes.quiet import quiet


def prelu(count: int) -> nn.PReLU:
    module = nn.PReLU(count)
    nn.init.uniform_(module.weight, -0.3, 0.6)
    return module


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Sequential(nn.Linear(8, 6), prelu(6)), (2, 8)),
        (nn.Sequential(nn.Linear(8, 6), prelu(1)), (2, 8)),
        (nn.Sequential(nn.Conv1d(3, 6, 3), prelu(6)), (2, 3, 9)),
        (nn.Sequential(nn.Linear(9, 9), prelu(1)), (2, 3, 9)),
        (nn.Sequential(nn.Conv3d(3, 6, 2), prelu(6)), (1, 3, 4, 4, 4)),
        (nn.Sequential(nn.Identity(), prelu(1)), (5,)),
    ],
)
def test_prelu_without_height_and_width_is_written_out(module, shape) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    exported = rewrite(torch.export.export(module.eval(), (x,)))
    assert "aten.prelu.default" not in {str(node.target) for node in exported.graph.nodes}
    assert torch.equal(exported.module()(x), module(x))
    named = [node for node in exported.graph.nodes if str(node.target) == "aten.sub.Tensor"]
    assert [list(node.meta["nn_module_stack"].values())[-1][0] for node in named] == ["1"]


def test_prelu_on_images_stays() -> None:
    x = torch.randn(1, 3, 4, 4)
    exported = rewrite(torch.export.export(prelu(3).eval(), (x,)))
    assert "aten.prelu.default" in {str(node.target) for node in exported.graph.nodes}


@pytest.mark.parametrize(
    ("module", "shape", "name"),
    [
        (nn.Conv1d(4, 6, 3, 2, 1, 1, 2), (1, 4, 9), "aten.conv1d.default"),
        (nn.Conv2d(4, 6, 3, 2, 1, 1, 2, False), (1, 4, 9, 9), "aten.conv2d.default"),
        (nn.Conv3d(4, 6, 3), (1, 4, 5, 5, 5), "aten.conv3d.default"),
        (nn.ConvTranspose2d(4, 6, 3, 2, 1, 1), (1, 4, 5, 5), "aten.conv_transpose2d.input"),
        (nn.ConvTranspose1d(4, 6, 3, 2), (1, 4, 5), "aten.conv_transpose1d.default"),
    ],
)
def test_the_general_convolution_becomes_the_one_that_the_quantizer_knows(
    module, shape, name
) -> None:
    """Programs that were TorchScript, or that were decomposed, hold only aten.convolution."""
    x = torch.randn(shape)
    with quiet():
        exported = torch.export.export(module.eval(), (x,)).run_decompositions()
    assert "aten.convolution.default" in {str(node.target) for node in exported.graph.nodes}
    exported = rewrite(exported)
    assert name in {str(node.target) for node in exported.graph.nodes}
    assert torch.equal(exported.module()(x), module(x))


def test_a_value_that_changes_shape_and_steps_changes_its_steps_first() -> None:
    """To the same values, to the last bit."""
    import torchao.quantization.pt2e  # noqa: F401 - defines the operators

    operators = torch.ops.quantized_decomposed

    def rounded(x: torch.Tensor, scale: float, zero: int) -> torch.Tensor:
        steps = (scale, zero, -128, 127, torch.int8)
        return operators.dequantize_per_tensor(operators.quantize_per_tensor(x, *steps), *steps)

    class Net(nn.Module):
        def forward(self, x):
            return rounded(rounded(x, 0.017, 3).unsqueeze(-1), 0.31, -20)

    x = torch.randn(4, 300)
    with quiet():
        exported = torch.export.export(Net(), (x,))
    expected = exported.module()(x)
    rewritten = rewrite(exported)
    (unsqueeze,) = (node for node in rewritten.graph.nodes if "unsqueeze" in str(node.target))
    assert [node.args[1] for node in (unsqueeze.args[0], *unsqueeze.users)] == [0.31, 0.31]
    assert torch.equal(rewritten.module()(x), expected)


@pytest.mark.parametrize(
    ("compute", "left"),
    [
        (lambda x: functional.pad(x, (-1, 2, 1, -1), value=0.5), 1),
        (lambda x: functional.pad(x, (-1, -2)), 0),
        (lambda x: functional.fold(x.flatten(1, 2), (7, 6), 3, padding=(1, 0), stride=(2, 1)), 1),
    ],
)
def test_a_pad_by_less_than_nothing_is_a_slice(compute, left) -> None:
    """F.fold is lowered to one: it folds into a larger image, which is then cut."""

    class Net(nn.Module):
        def forward(self, x):
            return compute(x)

    x = torch.randn(1, 9, 2, 16, generator=torch.Generator().manual_seed(0))
    exported = rewrite(torch.export.export(Net(), (x,)))
    assert torch.equal(exported.module()(x), compute(x))
    calls = [node for node in exported.graph.nodes if node.op == "call_function"]
    pads = [node for node in calls if str(node.target).startswith(("aten.pad", "aten.col2im"))]
    assert all(min(node.args[1]) >= 0 for node in pads)
    assert all(not any(node.args[4]) for node in pads if "col2im" in str(node.target))
    assert len(pads) == left
