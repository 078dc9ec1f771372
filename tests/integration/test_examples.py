"""The examples whose weights and images come from EDGEKIT_DATA, and the recipe of docs/examples.md.

What needs the data is skipped without it.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.runtime
EXAMPLES = ROOT / "examples"
# The recipe, the file of its weights, how many classes, and what top-1 of the float model is above.
CASES = {
    "mobilenet_v2/recipe.py": ("mobilenet_v2_100/mobilenet_v2_100.pt", 1000, 75.0),
    "mobilenet_v1_025/recipe.py": ("mobilenet_v1_025/mobilenet_v1_025.pt", 1000, 40.0),
    "resnet_cifar/resnet20.py": ("resnet_cifar10/resnet20.pt", 10, 75.0),
    "resnet_cifar/resnet32.py": ("resnet_cifar10/resnet32.pt", 10, 75.0),
    "resnet_cifar/resnet56.py": ("resnet_cifar10/resnet56.pt", 10, 75.0),
}
needs_data = pytest.mark.skipif(
    not os.environ.get("EDGEKIT_DATA"), reason="EDGEKIT_DATA names no folder of weights and images"
)
FEW = """
def few(part, stored=cifar10.stored):
    jpegs, labels = stored(part)
    return jpegs[:300], labels[:300]
cifar10.stored = few
"""


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads of small networks wait for each other where other processes work too."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextmanager
def opened(name: str):
    """The example's recipe, with few images."""
    from edgekit.recipe.recipe import open_recipe

    with open_recipe(EXAMPLES / name, seed=0) as recipe:
        if "cifar10" in sys.modules:
            exec(FEW, {"cifar10": sys.modules["cifar10"]})
        else:
            module = sys.modules["edgekit_recipe"]
            module.JUDGED = module.JUDGED[::28]
        yield recipe


@needs_data
@pytest.mark.parametrize("name", CASES)
def test_names_are_those_of_the_weights_and_the_accuracy_is_theirs(name) -> None:
    """33 photos, or 270 small images, say no more than that weights and preprocessing belong
    together; docs/examples.md has the accuracy on all.
    """
    import torch

    weights, classes, least = CASES[name]
    with opened(name) as recipe, torch.no_grad():
        model = recipe.model()
        file = torch.load(Path(os.environ["EDGEKIT_DATA"]) / weights, weights_only=True)
        names = [key for key in model.state_dict() if not key.endswith("num_batches_tracked")]
        assert names == [key for key in file if not key.endswith("num_batches_tracked")]
        example = recipe.example_inputs()
        assert model(*example).shape == (1, classes)
        assert recipe.evaluate(model) > least


@needs_data
def test_calibration_is_not_what_is_judged() -> None:
    with opened("mobilenet_v1_025/recipe.py") as recipe:
        module = sys.modules["edgekit_recipe"]
        assert len(module.CALIBRATING) == 100
        assert not set(module.CALIBRATING.paths) & set(module.JUDGED.paths)
        assert len(recipe.calibration(recipe.example_inputs())) == 100


@needs_data
def test_training_gives_batches_with_classes() -> None:
    with opened("resnet_cifar/resnet20.py") as recipe:
        batches = list(recipe.call("training"))
        (images,), labels = batches[0]
        assert images.shape == (128, 3, 32, 32) and labels.shape == (128,)
        assert sum(len(labels) for _, labels in batches) == 300


@needs_data
def test_resnet20_becomes_int8(tmp_path) -> None:
    import edgekit

    recipe = Path(shutil.copytree(EXAMPLES / "resnet_cifar", tmp_path / "few")) / "resnet20.py"
    recipe.write_text(f"{recipe.read_text()}\n\nimport cifar10\n{FEW}")
    built = edgekit.build(recipe, target="x86", max_drop=3, output=tmp_path / "bundle")
    assert built.plan.precision == "int8"
    assert built.parity.passed
    assert built.accuracy.fp32 > 75


@pytest.mark.parametrize("name", CASES)
def test_without_the_data_it_is_said_what_is_missing(name, monkeypatch, tmp_path) -> None:
    from edgekit.errors import RecipeError
    from edgekit.recipe.recipe import open_recipe

    for place in ("", str(tmp_path)):
        monkeypatch.setenv("EDGEKIT_DATA", place)
        with (
            pytest.raises(RecipeError, match="EDGEKIT_DATA") as caught,
            open_recipe(EXAMPLES / name, seed=0) as recipe,
        ):
            recipe.model()
        assert CASES[name][0] in caught.value.message


NETWORK = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(8, 2))
"""


def test_recipe_of_the_docs_for_a_folder_of_images(tmp_path) -> None:
    """As it stands there, on a few images of two colours and a network that tells them apart."""
    import edgekit

    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "examples.md").read_text(), re.DOTALL
    )
    assert len(blocks) == 1
    (tmp_path / "recipe.py").write_text(blocks[0])
    (tmp_path / "my_network.py").write_text(NETWORK)
    _paint_photos(tmp_path / "photos")
    _save_weights(tmp_path)
    built = edgekit.build(
        tmp_path / "recipe.py", target="x86", precision="int8", output=tmp_path / "bundle"
    )
    assert (built.accuracy.fp32, built.accuracy.artifact) == (100.0, 100.0)


def _paint_photos(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, channel in (("blue", 2), ("red", 0)):
        (folder / name).mkdir(parents=True)
        for index in range(11):
            pixels = rng.integers(0, 60, (40, 60, 3), np.uint8)
            pixels[..., channel] += 180
            Image.fromarray(pixels).save(folder / name / f"{index:02}.jpg")


def _save_weights(folder: Path) -> None:
    """Each class's score is the mean of its colour."""
    import torch

    space: dict = {}
    exec(NETWORK, space)
    net = space["Net"]()
    with torch.no_grad():
        net[0].weight[:2, :, 1, 1] = torch.tensor([[0.0, 0, 1], [1, 0, 0]])
        net[4].weight[:] = 0
        net[4].weight[:, :2] = torch.eye(2)
    torch.save(net.state_dict(), folder / "weights.pt")
