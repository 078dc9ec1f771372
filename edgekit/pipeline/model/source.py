"""The source of a build: a recipe, or an exported program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.errors import RecipeError
from edgekit.exported.program import SUFFIX, open_program
from edgekit.recipe.recipe import Recipe, default_torch_settings, open_recipe

# Files that users name instead of a recipe, and the hint for each.
FOREIGN = {
    ".pt": "write a recipe (edgekit init): its model() loads the weights into a torch.nn.Module, "
    "or returns torch.jit.load of a TorchScript file",
    ".pth": "a weights file is not a model: write a recipe that loads them (edgekit init)",
    ".ckpt": "a weights file is not a model: write a recipe that loads them (edgekit init)",
    ".safetensors": "a weights file is not a model: write a recipe that loads them (edgekit init)",
    ".onnx": "start from the PyTorch model that it was exported from (edgekit init)",
    ".pte": "a finished program contains no PyTorch model: name a recipe (--recipe)",
    ".tflite": "a finished program contains no PyTorch model: name a recipe (--recipe)",
}


@contextmanager
def open_source(path: Path, seed: int) -> Iterator[Recipe]:
    """Open RECIPE, a recipe or an exported program. Raises RecipeError."""
    if path.suffix == SUFFIX:
        with default_torch_settings():
            yield open_program(path, seed)
        return
    hint = FOREIGN.get(path.suffix.lower())
    if hint is not None:
        raise RecipeError(f"{path} is not a recipe, nor an exported program (.pt2)", hint)
    with open_recipe(path, seed) as recipe:
        yield recipe
