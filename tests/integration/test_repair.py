"""Quantization that is mended: the hostile layer is found, and the function stays what it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import DIGITS

import edgekit
from edgekit.errors import RecipeError, SettingError
from edgekit.measure import paired_latency
from edgekit.report.explanation import render_explanation

pytestmark = pytest.mark.runtime

HEADER = """
import torch
from torch import nn

torch.manual_seed(5)

def batch_norm(channels):
    layer = nn.BatchNorm2d(channels)
    nn.init.uniform_(layer.weight, 0.5, 1.5)
    nn.init.uniform_(layer.bias, -0.2, 0.2)
    return layer

def make_hostile(norm, following, factor=512.0):
    \"\"\"The same function in float: a channel times 512, and divided by it where it is used.\"\"\"
    with torch.no_grad():
        for channel in range(0, norm.num_features, 4):
            norm.weight[channel] *= factor
            norm.bias[channel] *= factor
            if following.groups == 1:
                following.weight[:, channel] /= factor
            else:
                following.weight[channel] /= factor

def example_inputs():
    return (torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)),)

def calibration():
    random = torch.Generator().manual_seed(2)
    return [(torch.randn(1, 3, 16, 16, generator=random) * (1 + i % 3),) for i in range(24)]

def evaluate(predict):
    \"\"\"Points of likeness to the float model.\"\"\"
    net, random = model().eval(), torch.Generator().manual_seed(3)
    x = torch.randn(12, 3, 16, 16, generator=random)
    with torch.no_grad():
        wanted = net(x)
    return 100 - 100 * float((predict(x) - wanted).norm() / wanted.norm())
"""

CHAIN = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.one, self.norm = nn.Conv2d(3, 16, 3, 2, 1), batch_norm(16)
        self.two, self.norm2 = nn.Conv2d(16, 24, 3, 1, 1), batch_norm(24)
        self.head = nn.Linear(24, 6)
    def forward(self, x):
        x = torch.relu(self.norm(self.one(x)))
        x = torch.relu(self.norm2(self.two(x)))
        return self.head(x.mean((2, 3)))

def model():
    net = Net()
    make_hostile(net.norm, net.two)
    return net
"""

SEPARABLE = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        act = nn.LeakyReLU(0.1)
        self.one = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), batch_norm(16), act)
        self.two = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16), batch_norm(16), act)
        self.three = nn.Sequential(nn.Conv2d(16, 24, 1), batch_norm(24), act)
        self.head = nn.Linear(24, 6)
    def forward(self, x):
        return self.head(self.three(self.two(self.one(x))).mean((2, 3)))

def model():
    net = Net()
    make_hostile(net.one[1], net.two[0])
    return net
"""

RESIDUAL = """
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.norm = nn.Conv2d(16, 16, 3, 1, 1), batch_norm(16)
        self.two, self.norm2 = nn.Conv2d(16, 16, 3, 1, 1), batch_norm(16)
    def forward(self, x):
        return torch.relu(x + self.norm2(self.two(torch.relu(self.norm(self.one(x))))))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.stem, self.norm = nn.Conv2d(3, 16, 3, 2, 1), batch_norm(16)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(16, 6)
    def forward(self, x):
        return self.head(self.blocks(torch.relu(self.norm(self.stem(x)))).mean((2, 3)))

def model():
    net = Net()
    make_hostile(net.blocks[1].norm, net.blocks[1].two)
    return net
"""
NETWORKS = {
    "chain": (CHAIN, {"one", "two"}),
    "separable": (SEPARABLE, {"one.0", "two.0"}),
    "residual": (RESIDUAL, {"blocks.1.one", "blocks.1.two"}),
}


@pytest.fixture
def write(tmp_path):
    def write_recipe(source: str) -> Path:
        path = tmp_path / "recipe.py"
        path.write_text(HEADER + source)
        return path

    return write_recipe


@pytest.mark.parametrize("name", NETWORKS)
def test_a_hostile_layer_is_found_and_mended(write, tmp_path, name) -> None:
    source, guilty = NETWORKS[name]
    recipe = write(source)
    plain = edgekit.build(
        recipe, target="x86", precision="int8", effort="quick", output=tmp_path / "plain"
    )
    document = edgekit.build(recipe, target="x86", precision="int8", output=tmp_path / "out")
    assert document.blame[0].layer in guilty
    assert document.blame[0].fix in ("equalization", "range")  # wide steps may be why it is guilty
    assert document.blame[0].applied
    assert document.plan.equalize is not None
    assert document.plan.float_layers == ()
    assert document.ladder[-1].precision == "int8 repaired"
    assert sqnr(document) > sqnr(plain) + 10
    outside = [row for row in document.program.layers if row.quantized == 0]
    assert not [row for row in outside if row.layer in guilty]


def sqnr(document) -> float:
    """Of the artifact against the float model."""
    return document.parity.float_model.sqnr_db


def test_what_a_build_found_is_explained(write, tmp_path) -> None:
    built = edgekit.build(write(CHAIN), target="x86", precision="int8", output=tmp_path / "out")
    document = edgekit.explain(tmp_path / "out")
    assert document.schema_ == "edgekit.explain/1"
    assert document.blame == built.blame
    text = render_explanation(document)
    assert "equalization" in text
    assert built.blame[0].layer in text


def test_a_plan_is_done_again_to_the_same_bytes(write, tmp_path, fresh_cache) -> None:
    recipe = write(RESIDUAL)
    first = edgekit.build(recipe, target="x86", precision="int8", output=tmp_path / "first")
    (tmp_path / "plan.json").write_text(first.to_json())
    shutil.rmtree(fresh_cache / "stages")
    again = edgekit.build(
        recipe, target="x86", plan=tmp_path / "plan.json", output=tmp_path / "again"
    )
    assert again.plan == first.plan
    assert (tmp_path / "again" / "model.pte").read_bytes() == (
        tmp_path / "first" / "model.pte"
    ).read_bytes()


def test_an_edited_plan_keeps_a_layer_float(write, tmp_path) -> None:
    recipe = write(CHAIN)
    plan = {"schema": "edgekit.plan/1", "precision": "int8", "float_layers": ["two"]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    document = edgekit.build(
        recipe, target="x86", plan=tmp_path / "plan.json", output=tmp_path / "out"
    )
    counts = {row.layer: row for row in document.program.layers}
    assert counts["two"].quantized == 0
    assert counts["two"].floating >= 1
    assert counts["one"].quantized >= 1
    assert document.plan.precision == "mixed"
    assert document.parity.passed


def test_mixed_buys_as_few_layers_as_needed(write, tmp_path) -> None:
    """A stream that cannot be equalized: a sigmoid lies between."""
    source = CHAIN.replace("torch.relu(self.norm(self.one(x)))", "act(self.norm(self.one(x)))")
    source = source.replace(
        "class Net", "def act(x):\n    return x * torch.sigmoid(x)\n\nclass Net"
    )
    source = source.replace("make_hostile(net.norm, net.two)", "net.norm.weight.data[3] *= 100")
    document = edgekit.build(
        write(source), target="x86", precision="mixed", max_drop=5.0, output=tmp_path / "out"
    )
    taken = document.ladder[-1]
    assert taken.taken
    assert taken.precision in ("int8", "int8 repaired", "mixed")
    if taken.precision == "mixed":
        assert 0 < len(document.plan.float_layers) < 4


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"precision": "int8", "float_layers": ["tow"]}, "did you mean 'two'?"),
        ({"precision": "int8", "structure": "0123456789abcdef"}, "for another model"),
        ({"precision": "int4"}, "precision"),
        ({"precision": "int8", "layers": 3}, "layers"),
        ({"precision": "int8", "equalize": 2.0}, "equalize"),
    ],
)
def test_a_wrong_plan_is_refused_before_anything_long(write, tmp_path, plan, said) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(SettingError) as caught:
        edgekit.build(
            write(CHAIN), target="x86", plan=tmp_path / "plan.json", output=tmp_path / "out"
        )
    assert said in f"{caught.value.message} {caught.value.hint}"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_what_is_no_plan(write, tmp_path, text) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(SettingError, match="plan"):
        edgekit.build(write(CHAIN), target="x86", plan=tmp_path / "plan.json")


def test_calibration_that_is_all_the_same(write, tmp_path) -> None:
    source = CHAIN + "\ndef calibration():\n    return [(torch.ones(1, 3, 16, 16),)] * 8\n"
    with pytest.raises(RecipeError, match="all the same"):
        edgekit.build(write(source), target="x86", output=tmp_path / "out")


def test_weights_with_nan(write, tmp_path) -> None:
    source = CHAIN.replace(
        "    return net\n", "    net.two.weight.data[0] = float('nan')\n    return net\n"
    )
    with pytest.raises(RecipeError, match=r"two\.weight contains NaN"):
        edgekit.build(write(source), target="x86", output=tmp_path / "out")


def test_quick_neither_repairs_nor_blames(write, tmp_path) -> None:
    document = edgekit.build(
        write(CHAIN), target="x86", precision="int8", effort="quick", output=tmp_path / "out"
    )
    assert document.blame == ()
    assert document.plan.observer == "histogram"
    assert [rung.precision for rung in document.ladder] == ["int8"]


def test_the_digits_need_no_repair(tmp_path) -> None:
    document = edgekit.build(DIGITS, target="x86", output=tmp_path / "out")
    assert [rung.precision for rung in document.ladder] == ["int8"]
    assert document.blame == ()


def test_int8_is_compared_with_fp32_on_the_device_that_is_named(tmp_path) -> None:
    document = edgekit.build(DIGITS, target="x86", device="local", output=tmp_path / "out")
    assert "fp32 on the device" in document.ladder[-1].payoff
    alone = edgekit.build(DIGITS, target="x86", output=tmp_path / "alone")
    assert "no device named" in alone.ladder[-1].payoff


def test_an_int8_that_is_slower_there_is_not_taken(tmp_path, monkeypatch) -> None:

    slower = paired_latency.PairedLatency((1.3, 1.2, 1.4), 5.0)
    monkeypatch.setattr(paired_latency.MeasuringDevice, "_alternate", lambda *_: slower)
    document = edgekit.build(DIGITS, target="x86", device="local", output=tmp_path / "out")
    assert [(rung.precision, rung.taken) for rung in document.ladder] == [
        ("int8", False),
        ("fp32", True),
    ]
    assert "does not pay" in document.ladder[0].reason
