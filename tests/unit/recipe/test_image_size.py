"""Images of another size: in torch, in the portable client, and what recipes declare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.errors import RecipeError, SettingError
from edgekit.portable.edgekit_model import Tensor, resize
from edgekit.recipe.image_size import resized_image, resizing_to
from edgekit.recipe.recipe import open_recipe
from edgekit.values import image_size

REQUIRED = """
import torch
def model(): return torch.nn.Identity()
def example_inputs(): return (torch.rand(1, 3, 8, 8),)
"""


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (176, (176, 176)), ("176", (176, 176)), ("160x224", (160, 224)), ("160X224", (160, 224)),
        ((160, 224), (160, 224)), (0, None), ("", None), ("x", None), ("1x2x3", None),
        ("-3", None), ("1.5", None), ((3, 0), None),
    ],
)  # fmt: skip
def test_sizes_as_people_write_them(value, size) -> None:
    assert image_size(value) == size


@pytest.mark.parametrize(
    ("shape", "size"),
    [((1, 3, 32, 32), (24, 24)), ((2, 1, 33, 50), (17, 49)), ((1, 2, 9, 7), (1, 7))],
)
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_the_client_resizes_as_torch_does(shape, size, dtype: str) -> None:
    values = np.random.default_rng(0).uniform(0, 255, shape).astype(dtype)
    tensor = Tensor("x", dtype, (*shape[:2], *size), shape[2:])
    found = np.frombuffer(resize(tensor, values.tobytes()), dtype).reshape(tensor.shape)
    expected = resized_image(torch.from_numpy(values), size).numpy()
    # the two add in another precision: a number just at a half may be rounded either way
    tolerance = 1 if dtype == "uint8" else 1e-3
    assert np.abs(found.astype(float) - expected).max() <= tolerance
    assert np.abs(found.astype(float) - expected).mean() < 0.05


def test_only_images_of_the_first_ones_size_are_resized() -> None:
    example = (
        torch.rand(1, 3), torch.rand(1, 3, 8, 6), torch.rand(1, 1, 8, 6), torch.rand(1, 1, 4, 4),
        torch.zeros(1, 1, 8, 6, dtype=torch.int64),
    )  # fmt: skip
    resizing = resizing_to((4, 3), example)
    shapes = [list(tensor.shape) for tensor in resizing(example)]
    assert shapes == [[1, 3], [1, 3, 4, 3], [1, 1, 4, 3], [1, 1, 4, 4], [1, 1, 8, 6]]
    assert resizing.fits(example) and not resizing.fits(resizing(example))


@pytest.mark.parametrize("size", [(8, 8), (9, 4), (8, 16)])
def test_a_size_that_is_not_smaller_is_refused(size) -> None:
    with pytest.raises(SettingError, match="8x8"):
        resizing_to(size, (torch.rand(1, 3, 8, 8),))


def test_without_an_image_there_is_nothing_to_resize() -> None:
    with pytest.raises(SettingError, match="float32"):
        resizing_to((4, 4), (torch.rand(1, 3, 8),))


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.py"
    path.write_text(REQUIRED + text)
    return path


def test_declared_sizes_are_sorted_pairs(tmp_path: Path) -> None:
    path = write(tmp_path, "def input_sizes(): return (4, [6, 5], (7, 7), 7)")
    with open_recipe(path, 0) as recipe:
        assert recipe.input_sizes() == ((7, 7), (6, 5), (4, 4))
    with open_recipe(write(tmp_path, ""), 0) as recipe:
        assert recipe.input_sizes() == ()


@pytest.mark.parametrize("value", ["(0,)", "('8',)", "((1, 2, 3),)", "(1.5,)", "None", "(-4,)"])
def test_a_wrong_declaration_names_the_value(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, f"def input_sizes(): return {value}")
    with open_recipe(path, 0) as recipe, pytest.raises(RecipeError, match="input_sizes"):
        recipe.input_sizes()
