"""What a build starts from: a recipe, or a program that was exported elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.errors import RecipeError
from edgekit.exported.program import SUFFIX, open_program
from edgekit.recipe.recipe import Recipe, open_recipe, own_defaults

# What people name instead of a recipe, and what to do with it.
FOREIGN = {
    ".pt": "write a recipe (edgekit init): its model() loads the weights into a torch.nn.Module, "
    "or returns torch.jit.load of a TorchScript file",
    ".pth": "weights alone are no model: write a recipe that loads them (edgekit init)",
    ".ckpt": "weights alone are no model: write a recipe that loads them (edgekit init)",
    ".safetensors": "weights alone are no model: write a recipe that loads them (edgekit init)",
    ".onnx": "start from the PyTorch model that it came from: edgekit init",
    ".pte": "a finished program brings no model in torch: name a recipe (--recipe)",
    ".tflite": "edgekit has no runtime for it yet: start from the PyTorch model (edgekit init)",
}


@contextmanager
def open_source(path: Path, seed: int) -> Iterator[Recipe]:
    """Open RECIPE by what kind of file it is. Raises RecipeError."""
    if path.suffix == SUFFIX:
        with own_defaults():
            yield open_program(path, seed)
        return
    hint = FOREIGN.get(path.suffix.lower())
    if hint is not None:
        raise RecipeError(f"{path} is not a recipe, nor an exported program (.pt2)", hint)
    with open_recipe(path, seed) as recipe:
        yield recipe
