"""Learned rounding reads what a layer sums over, however its padding is written."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekit.compress.quantization.affine import Grid, Steps
from edgekit.compress.quantization.lockstep import Layer
from edgekit.compress.quantization.rounding import _columns
from edgekit.compress.quantization.simulate import Rounding


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("kernel", [(3, 3), (4, 4), (2, 5)])
@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same"},
        {"padding": "same", "dilation": 2},
        {"padding": "valid", "stride": 2},
        {"padding": (1, 2), "stride": (2, 1)},
        {"padding": 0, "dilation": (1, 2)},
        {"padding": "same", "groups": 2},
    ],
)
def test_columns_times_weights_are_the_convolution(kernel, options) -> None:
    layer = nn.Conv2d(4, 6, kernel, bias=False, **options)
    graph = torch.export.export(layer, (torch.rand(2, 4, 9, 11),)).module()
    (node,) = [node for node in graph.graph.nodes if "conv2d" in str(node.target)]
    inputs, weight = torch.rand(2, 4, 9, 11), layer.weight.detach()
    found = Layer(node, weight, None, Rounding(), [inputs], [], layer)
    groups = layer.groups
    columns = _columns(found, inputs, groups)
    flat = weight.reshape(groups, len(weight) // groups, -1)
    wanted = layer(inputs).detach()
    outputs = (columns @ flat.transpose(1, 2)).reshape(groups, 2, -1, len(weight) // groups)
    outputs = outputs.permute(1, 0, 3, 2).reshape(wanted.shape)
    assert torch.allclose(outputs, wanted, atol=1e-5)


def test_rounding_keeps_half_precision() -> None:
    rounding = Rounding()
    rounding.on = True
    rounding.steps = Steps(torch.tensor([0.1]), torch.tensor([0]), Grid(bits=8, symmetric=True))
    assert rounding(torch.ones(2, dtype=torch.float16)).dtype == torch.float16
