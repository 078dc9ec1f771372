"""Operators on an axis, after a convolution: XNNPACK keeps its result with the channels last."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.runtime

# The maximum of rows and columns has a kernel in XNNPACK; the others are computed outside.
ON_AXES = {
    "softmax of rows": lambda x: x.softmax(-1),
    "softmax of transposed rows": lambda x: x.permute(0, 2, 3, 1).softmax(3),
    "softmax and its input": lambda x: x.softmax(-1) * x,
    "attention": lambda x: (x.softmax(-1) @ x.transpose(2, 3)).softmax(-1),
    "softmax of channels": lambda x: x.softmax(1),
    "maximum of channels": lambda x: x.max(1, keepdim=True)[0],
    "maximum of channels, without the axis": lambda x: x.max(1)[0],
    "maximum of rows": lambda x: x.max(3)[0],
    "maximum of columns": lambda x: x.max(-2, keepdim=True)[0],
    "maximum and its index": lambda x: x.max(1)[0] + x.max(1)[1],
    "reversed axes": lambda x: x.transpose(1, 3) + 1,
    "mean of channels": lambda x: x.mean(1, keepdim=True),
}


def test_operators_on_an_axis_of_a_convolutions_result() -> None:
    import torch
    from torch import nn

    from edgekit.runtimes.executorch.lower import lower
    from edgekit.runtimes.export import export
    from edgekit.runtimes.quiet import quiet

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before = nn.Conv2d(3, 6, 3, padding=1)
            self.after = nn.ModuleList(nn.LazyConv2d(2, 1) for _ in ON_AXES)

        def forward(self, x):
            middle = self.before(x)
            found = [operator(middle) for operator in ON_AXES.values()]
            return tuple(
                conv(one if one.dim() == 4 else one[:, None])
                for conv, one in zip(self.after, found, strict=True)
            )

    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(1, 3, 4, 5)
    with torch.no_grad():
        expected = net(x)
    with quiet():
        from executorch.runtime import Runtime

        artifact = lower(export(net, (x,)))
        method = Runtime.get().load_program(artifact.data).load_method("forward")
        outputs = method.execute([x])
    for name, found, wanted in zip(ON_AXES, outputs, expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-5), name


# Values that a delegate returns and also reads itself; slopes and kernels that forward creates.
READ_TWICE = {
    "mish": lambda x, f: f.mish(x),
    "softplus and softmax": lambda x, f: f.softplus(x) + x.softmax(-1),
    "where": lambda x, f: x.where(x > 0, x * 0.2),
    "computed slope": lambda x, f: f.prelu(x, x.mean((0, 2, 3))),
}
CREATED = {
    "slope": lambda x, f: f.prelu(x, x.new_full((6,), 0.2)),
    "kernel": lambda x, f: f.conv2d(x, x.new_ones(6, 1, 3, 3) / 9, groups=6),
    "factors": lambda x, f: x * x.new_ones(12, 12).tril() + 0.5,
}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", [*READ_TWICE, *CREATED])
def test_what_stands_between_convolutions(name, precision) -> None:
    import torch
    from torch import nn
    from torch.nn import functional

    between = (READ_TWICE | CREATED)[name]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3)

        def forward(self, x):
            return self.last(between(self.first(x), functional))

    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(1, 3, 12, 12)
    expected, found, artifact = lowered(net, x, precision)
    limit = 1e-5 if precision == "fp32" else 0.05
    torch.testing.assert_close(found, expected, atol=limit * float(expected.abs().max()), rtol=0)
    if name in CREATED:
        assert artifact.program.summary().outside == ()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("dimensions", [1, 2])
def test_convolutions_of_one_image_without_a_batch(dimensions, precision) -> None:
    import torch
    from torch import nn

    first, second = [(nn.Conv1d, nn.ConvTranspose1d), (nn.Conv2d, nn.ConvTranspose2d)][
        dimensions - 1
    ]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = first(3, 6, 3), second(6, 2, 3)

        def forward(self, x):
            return self.second(self.first(x[0]).relu())

    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(1, 3, *[8] * dimensions)
    expected, found, artifact = lowered(net, x, precision)
    limit = 1e-5 if precision == "fp32" else 0.05 * float(expected.abs().max())
    assert torch.allclose(found, expected, atol=limit)
    assert {o.operator for o in artifact.program.summary().outside} == {"aten::select_copy.int_out"}


def lowered(net, x, precision):
    """The float model's output, the artifact's, and the artifact."""
    import torch

    from edgekit.plan import Plan
    from edgekit.progress import Silent
    from edgekit.runtimes.executorch.lower import lower
    from edgekit.runtimes.executorch.quantize import calibrate, convert, prepare
    from edgekit.runtimes.export import export
    from edgekit.runtimes.quiet import quiet

    with torch.no_grad():
        expected = net(x)
    with quiet():
        from executorch.runtime import Runtime

        exported = export(net, (x,))
        if precision == "int8":
            prepared = prepare(net, (x,), Plan(precision="int8"))
            calibrate(prepared, [(x,)], Silent())
            exported = convert(prepared, (x,))
        artifact = lower(exported)
        method = Runtime.get().load_program(artifact.data).load_method("forward")
        (found,) = method.execute([x])
    return expected, found, artifact
