"""A smaller input size: resized outside the graph, recovered, used with images of both sizes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import edgekit
from edgekit.errors import SettingError
from edgekit.plan import Plan, Resize
from edgekit.portable.edgekit_model import Model
from edgekit.recipe.image_size import resized_image

pytestmark = pytest.mark.runtime

# Stripes of two directions and two widths: a smaller image shows them as well.
STRIPES = """
import torch
from torch import nn

torch.manual_seed(0)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(16, 4)

    def forward(self, image):
        return self.head(self.pool(self.second(self.first(image))).flatten(1))

def drawn(count, seed):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=draw)
    places = torch.arange(24.0)
    images = []
    for label in labels:
        wave = torch.sin(places * (0.8 if label < 2 else 0.4) + 6 * torch.rand(1, generator=draw))
        rows = wave.expand(24, 24)
        images.append(rows if label % 2 else rows.T)
    images = torch.stack(images)[:, None]
    return images + 0.5 * torch.randn(images.shape, generator=draw), labels

def trained(net):
    images, labels = drawn(512, 1)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for step in range(40):
        part = slice(64 * (step % 8), 64 * (step % 8) + 64)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images[part]), labels[part]).backward()
        optimizer.step()
    return net.eval()

def model():
    return trained(Net())

def example_inputs():
    return (drawn(1, 2)[0],)

def calibration():
    return ((image[None],) for image in drawn(60, 3)[0])

def evaluate(predict):
    images, labels = drawn(200, 4)
    assert images.shape[2:] == (24, 24)
    return 100 * float((predict(images).argmax(1) == labels).float().mean())

def input_sizes():
    return 20, (12, 16)
"""
TRAINING = """
def training():
    images, labels = drawn(256, 5)
    for part in torch.randperm(256).split(64):
        yield (images[part],), labels[part]
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("stripes") / "stripes.py"
    path.write_text(STRIPES)
    return path


@pytest.fixture(scope="module")
def built(recipe: Path, tmp_path_factory):
    """Half of the pixels or fewer, recovered without labels."""
    output = tmp_path_factory.mktemp("small") / "bundle"
    return edgekit.build(recipe, target="x86", input_size="12x16", effort="quick", output=output)


def manifest(bundle: str) -> dict:
    return json.loads(Path(bundle, "manifest.json").read_bytes())


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 1, 24, 24, generator=torch.Generator().manual_seed(9)) * 2 - 1


def test_the_artifact_takes_smaller_images_and_says_from_which(built) -> None:
    (spec,) = manifest(built.bundle)["program"]["inputs"]
    assert spec["shape"] == [1, 1, 12, 16] and spec["resized_from"] == [24, 24]
    assert built.plan.resize is not None and built.plan.resize.size == (12, 16)
    assert built.plan.resize.estimate_norms is not None
    first, last = built.compression
    assert (first.name, first.input_size, last.name) == ("resize", (12, 16), "recover")
    assert first.macs < 0.4 * first.macs_before
    assert first.latency_ratio is not None and first.latency_ratio[2] < 1
    assert built.accuracy.fp32 > 90 and built.accuracy.artifact > 80


def test_every_way_to_run_it_takes_both_sizes(built, recipe: Path, tmp_path: Path) -> None:
    with Model(built.bundle) as model:
        for image in images():
            whole = image[None]
            small = resized_image(whole, (12, 16))
            outputs = [
                np.asarray(model(one.numpy())) for one in (whole, small)
            ]  # fmt: skip
            assert np.abs(outputs[0] - outputs[1]).max() < 0.05 * np.abs(outputs[1]).max() + 1e-6
        with pytest.raises(ValueError, match="shape"):
            model(np.zeros((1, 1, 20, 20), "float32"))
        assert model.inputs[0].resized_from == (24, 24)
    results = []
    for name, one in (("whole", images(1)), ("small", resized_image(images(1), (12, 16)))):
        np.save(tmp_path / f"{name}.npy", one.numpy())
        out = tmp_path / f"{name}-out.npy"
        edgekit.run(built.bundle, "local", inputs=[tmp_path / f"{name}.npy"], outputs=[out])
        results.append(np.load(out))
    assert np.abs(results[0] - results[1]).max() < 0.05 * np.abs(results[1]).max() + 1e-6
    assert edgekit.evaluate(built.bundle, "local").accuracy == built.accuracy.artifact


def test_its_plan_gives_the_same_bytes(built, recipe: Path, tmp_path: Path) -> None:
    again = edgekit.build(recipe, target="x86", plan=built.plan, output=tmp_path / "again")
    assert manifest(again.bundle) == manifest(built.bundle)


def test_labels_recover_at_a_square_size(recipe: Path, tmp_path: Path) -> None:
    path = tmp_path / "labelled.py"
    path.write_text(STRIPES + TRAINING)
    document = edgekit.build(
        path, target="x86", precision="fp32", input_size=20, effort="quick", output=tmp_path / "b"
    )
    assert document.plan.recover is not None and document.plan.recover.objective == "labels"
    assert document.accuracy.artifact > 90


def test_a_size_that_is_not_declared_is_refused(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="20x20, 12x16"):
        edgekit.build(recipe, target="x86", input_size=18, output=tmp_path / "b")


FLAT = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Linear(4 * 8 * 8, 3)

    def forward(self, x):
        return self.head(self.conv(x).flatten(1))

def model():
    return Net()

def example_inputs():
    return (torch.rand(1, 1, 8, 8),)

def calibration():
    return [(torch.rand(1, 1, 8, 8),) for _ in range(12)]
"""


def test_a_model_that_cannot_run_at_the_size_is_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "flat.py"
    path.write_text(FLAT)
    with pytest.raises(SettingError, match=r"6x6.*self\.head\(self\.conv"):
        edgekit.build(path, target="x86", input_size=6, output=tmp_path / "b")
    with pytest.raises(SettingError, match="cannot run at"):
        plan = Plan(precision="fp32", resize=Resize(size=(6, 6)))
        edgekit.build(path, target="x86", plan=plan, output=tmp_path / "b")
    assert not (tmp_path / "b").exists()


MAP = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))

def example_inputs():
    return (torch.rand(1, 3, 16, 16),)

def calibration():
    return [(torch.rand(1, 3, 16, 16),) for _ in range(24)]
"""


def test_maps_of_another_size_are_not_compared(tmp_path: Path) -> None:
    path = tmp_path / "map.py"
    path.write_text(MAP)
    document = edgekit.build(
        path, target="x86", precision="int8", input_size=12, effort="quick", output=tmp_path / "b"
    )
    (step,) = document.compression
    assert step.sqnr_db is None and step.agreement is None
    assert document.plan.recover is None
    assert document.program.outputs[0].shape == (1, 2, 12, 12)
    assert document.parity is not None and document.parity.passed
