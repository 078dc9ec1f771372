"""Models that a runtime or torch refuses: the operator, the layer, the user's line, what to do."""

from __future__ import annotations

import pytest

import edgekit
from edgekit.errors import ExportError, RuntimeFailure

pytestmark = pytest.mark.runtime

NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 8)
        {init}

    def forward(self, x):
        y = self.a(x)
        return {line}

def model():
    return {model}

def example_inputs():
    return (torch.randn(1, 6, 8),)
"""
IMAGE = "nn.Conv3d(1, 1, (1, 2, 2))"


def built(write_recipe, tmp_path, line: str, init: str = "pass", model: str = "Net()"):
    path = write_recipe(NET.format(init=init, line=line, model=model))
    return edgekit.build(path, target="x86", precision="fp32", output=tmp_path / "out")


REFUSED = {
    "complex": ("torch.fft.rfft(y).abs()", RuntimeFailure, "aten.fft_rfft", "before the model"),
    "stft": (
        "torch.stft(y.view(1, -1), 16, window=torch.ones(16), return_complex=True).abs()",
        RuntimeFailure, "aten.stft", "before the model",
    ),
    "kernel": ("torch.special.i0(y)", RuntimeFailure, "aten.i0", "another form"),
    "dtype": ("y.to(torch.uint16)", RuntimeFailure, "aten.to", "float32 or int32"),
    "numpy": ("torch.from_numpy(y.numpy())", ExportError, "", "torch's own"),
    "values": ("y if y.sum() > 0 else x", ExportError, "", "torch.where"),
    "shape": ("y[y > 0].sum()", ExportError, "aten.index", "mask"),
    "unique": ("torch.unique(y)", ExportError, "aten._unique2", "mask"),
    "count": ("torch.bincount(y.argmax(-1)[0])", ExportError, "aten.bincount", "one_hot"),
    "classes": ("nn.functional.one_hot(y.argmax(-1))", ExportError, "", "number of classes"),
    "number": (
        "torch.view_as_complex(y.view(-1, 2)).abs()",
        RuntimeFailure, "aten.view_as_complex", "imaginary",
    ),
    "on the device": ("torch.sort(y).values", RuntimeFailure, "aten.sort", "topk"),
    "vmap": ("torch.vmap(self.a, out_dims=1)(y)", ExportError, "", "movedim"),
    "gradient": ("torch.func.grad(lambda v: self.a(v).sum())(y)", ExportError, "", "derivative"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_operator_line_and_way_out(write_recipe, tmp_path, name) -> None:
    line, kind, operator, hint = REFUSED[name]
    with pytest.raises(kind) as caught:
        built(write_recipe, tmp_path, line)
    assert operator in caught.value.message
    assert f"recipe.py:12: return {line}" in caught.value.message
    assert hint in caught.value.hint
    assert len(caught.value.message) < 500


def test_a_refusal_names_the_layer(write_recipe, tmp_path) -> None:
    with pytest.raises(RuntimeFailure) as caught:
        built(
            write_recipe,
            tmp_path,
            "self.deep(y[None, None])",
            f"self.deep = nn.Sequential({IMAGE})",
        )
    assert "layer deep.0" in caught.value.message


@pytest.mark.parametrize(
    ("line", "init", "model"),
    [
        ("y", "pass", "torch.jit.trace(Net().eval(), torch.randn(1, 6, 8))"),
        ("self.t(y) + self.t(x)", "self.t = torch.jit.script(nn.Linear(8, 8))", "Net()"),
        ("y", "pass", "nn.DataParallel(torch.compile(Net()))"),
        ("y @ self.t", "self.t, self.lock = self.a.weight * 2, iter([1])", "Net()"),
    ],
)
def test_what_only_hides_a_model_is_taken_off(tmp_path, line, init, model) -> None:
    """TorchScript outside and inside, wrappers, tensors of a computation, what cannot be copied."""
    import torch

    from edgekit.pipeline.normal_form.unwrap import plain, unwrapped
    from edgekit.runtimes.export import export

    names = {"torch": torch, "nn": torch.nn}
    exec(NET.format(init=init, line=line, model=model), names)
    module, example = names["model"]().eval(), names["example_inputs"]()
    notes: list[str] = []
    with torch.no_grad():
        expected = module(*example)
        found = plain(unwrapped(module, notes), example, {}, notes)
        found = export(found, example).module()(*example)
    assert torch.allclose(found, expected, atol=1e-6)
    assert bool(notes) is ("lock" not in init)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_prelu_behind_linear_and_conv1d_stays_inside(precision) -> None:
    import torch
    from torch import nn

    from edgekit.plan import Plan
    from edgekit.progress import Silent
    from edgekit.runtimes.executorch.lower import lower
    from edgekit.runtimes.executorch.quantize import calibrate, convert, prepare
    from edgekit.runtimes.export import export

    net = nn.Sequential(
        nn.Conv1d(3, 8, 3), nn.PReLU(8), nn.Flatten(), nn.Linear(48, 8), nn.PReLU(8)
    ).eval()
    x = (torch.randn(1, 3, 8),)
    if precision == "fp32":
        program = lower(export(net, x)).program
    else:
        prepared = prepare(net, x, Plan(precision="int8"))
        calibrate(prepared, [x], Silent())
        program = lower(convert(prepared, x)).program
        assert program.quantized_operators >= 4
    assert program.outside_operators == 0
    assert {"1", "4"} <= set(program.layers)


LINES = {
    "vmap": ("torch.vmap(self.a)(x)", "pass"),
    "replaced": (
        "self.a(x)",
        "self.a.forward = lambda x: torch.sin(x @ self.a.weight.t()) + self.a.bias",
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_a_linear_module_may_compute_something_else(write_recipe, tmp_path, name) -> None:
    """The lowering takes every product inside an nn.Linear for the whole module."""
    document = built(write_recipe, tmp_path, *LINES[name])
    assert document.parity.passed
    assert document.program.outside == ()
