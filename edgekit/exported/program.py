"""Reads a .pt2 file as a recipe: its module as model(), its saved inputs as example_inputs()."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgekit.errors import RecipeError
from edgekit.exported.archive import checked
from edgekit.recipe.recipe import Recipe
from edgekit.runtimes.quiet import first_line, quiet

if TYPE_CHECKING:
    import torch

SUFFIX = ".pt2"
# Operators that compute differently in training, and the index of that argument.
TRAINING = {"aten.batch_norm.default": 5, "aten.dropout.default": 2}
ONLY_WEIGHTS = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def open_program(path: Path, seed: int) -> Recipe:
    """A recipe with the program's model() and example_inputs().

    Raises RecipeError: the file is missing, damaged, of another version, exported for training, not
    on the CPU, without example inputs, or contains code.
    """
    if not path.is_file():
        raise RecipeError(f"there is no exported program {path}", "torch.export.save writes one")
    try:
        exported = _load(path)
        _check_inference(path, exported)
        example = _example(path, exported)
        module = positional(exported)
    except RecipeError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error
    recipe = ModuleType("edgekit_exported")
    recipe.__dict__.update(model=lambda: module, example_inputs=lambda: example)
    return Recipe(path.resolve(), recipe, seed)


def positional(exported: torch.export.ExportedProgram) -> torch.nn.Module:
    """The program's module with a flat list of tensors as inputs.

    It replaces keywords, nested inputs and constants of the exported signature. The signature is
    rewritten, because a wrapper module would hide the names of the layers.
    """
    import torch
    from torch.utils import _pytree as pytree

    module = exported.module(check_guards=False)
    leaves = pytree.tree_leaves(exported.example_inputs)
    nodes = [node for node in module.graph.nodes if node.op == "placeholder"]
    names = []
    for node, leaf in zip(nodes, leaves, strict=True):
        if torch.is_tensor(leaf):
            names.append(node.name)
        elif not node.users:
            module.graph.erase_node(node)
    codegen: Any = module.graph._codegen
    flat = pytree.tree_structure((tuple(range(len(names))), {}))
    codegen.pytree_info = codegen.pytree_info._replace(orig_args=names, in_spec=flat)
    module.recompile()
    module._forward_pre_hooks.clear()  # they check the old signature
    return module


def _load(path: Path) -> torch.export.ExportedProgram:
    from torch.export.pt2_archive._package import load_pt2

    with quiet(), _only_weights():
        # the import registers the operators of quantized programs
        import torchao.quantization.pt2e  # noqa: F401

        with checked(path) as copy:
            (exported,) = load_pt2(str(copy)).exported_programs.values()
        return exported


@contextmanager
def _only_weights() -> Iterator[None]:
    """Force weights_only=True, also where the file asks torch.export for False."""
    previous = os.environ.get(ONLY_WEIGHTS)
    os.environ[ONLY_WEIGHTS] = "1"
    try:
        yield
    finally:
        if previous is None:
            del os.environ[ONLY_WEIGHTS]
        else:
            os.environ[ONLY_WEIGHTS] = previous


def _unreadable(path: Path, error: BaseException) -> RecipeError:
    text = str(error)
    hint = "export it again with the installed torch, or write a recipe for its model"
    if "CUDA" in text or "cuda" in text:
        hint = "export it on the CPU: model.cpu().eval(), with inputs on the CPU"
    elif "weights_only" in text.lower() or "Unpickl" in type(error).__name__:
        hint = "it was saved with objects other than tensors: export it with tensors only"
    return RecipeError(f"torch cannot read {path}: {first_line(error)}", hint)


def _check_inference(path: Path, exported: torch.export.ExportedProgram) -> None:
    for node in exported.graph.nodes:
        place = TRAINING.get(str(node.target))
        if place is None or node.op != "call_function":
            continue
        names = [argument.name for argument in node.target._schema.arguments]
        training = dict(zip(names, node.args, strict=False)) | node.kwargs
        if training.get(names[place]) is True:
            raise RecipeError(
                f"{path} was exported for training: its {str(node.target).split('.')[1]} "
                f"({node.name}) is in training mode",
                "call model.eval() before torch.export.export",
            )


def _example(path: Path, exported: torch.export.ExportedProgram) -> tuple[torch.Tensor, ...]:
    import torch
    from torch.utils import _pytree as pytree

    leaves = pytree.tree_leaves(exported.example_inputs)
    tensors = tuple(leaf for leaf in leaves if torch.is_tensor(leaf))
    if not tensors:
        raise RecipeError(
            f"{path} has no example inputs, which define the shapes to build for",
            "export and save it again: torch.export.save stores the example inputs",
        )
    return tensors
