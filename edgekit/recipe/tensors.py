"""Tensors that a recipe gives: checked, described, copied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from edgekit.errors import RecipeError
from edgekit.program import ITEM_SIZE
from edgekit.recipe.arguments import Arguments

if TYPE_CHECKING:
    import torch

# One set of a model's inputs, flat. A string, so that torch is not needed to name it.
Inputs: TypeAlias = "tuple[torch.Tensor, ...]"

# Types of weights and inputs that are computed in float32: few kernels of devices have them.
AS_FLOAT32 = ("bfloat16", "float64")


def refuse_constants(arguments: Arguments, leaves: Sequence[Any], where: str) -> None:
    """Raises RecipeError where a leaf is a number, a flag, a text or None, with what to do."""
    constants = {
        name: leaf
        for name, leaf in zip(arguments.names, leaves, strict=True)
        if leaf is None or isinstance(leaf, (bool, int, float, complex, str, bytes))
    }
    if not constants:
        return
    said = ", ".join(f"{name} ({type(value).__name__})" for name, value in constants.items())
    bound = ", ".join(f"{name}={value!r}" for name, value in constants.items())
    left = [name for name in arguments.tree if name not in constants]
    hint = (
        f"bind it in model(): net.forward = functools.partial(net.forward, {bound}); then "
        "example_inputs() gives {" + ", ".join(f'"{name}": ...' for name in left) + "}"
        if constants.keys() <= arguments.tree.keys()
        else "leave it out, and add it in a small module around the model that model() returns"
    )
    raise RecipeError(f"{where}: the inputs of a device are tensors, not {said}", hint)


def check_inputs(leaves: Sequence[Any], names: Sequence[str], where: str) -> Inputs:
    """Validate that all are dense tensors with values; copy them, contiguous, to the CPU."""
    import torch

    for name, leaf in zip(names, leaves, strict=True):
        _check_input(leaf, f"{where}: input '{name}'")
    return tuple(
        tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for tensor in leaves
    )


def as_float32(tensors: Iterable[torch.Tensor]) -> Inputs:
    """The tensors, those of a type that is computed in float32 as such."""
    return tuple(t.float() if dtype_name(t) in AS_FLOAT32 else t for t in tensors)


def _check_input(leaf: Any, where: str) -> None:
    import torch

    if not torch.is_tensor(leaf):
        is_array = type(leaf).__module__ == "numpy" and hasattr(leaf, "shape")
        hint = "torch.from_numpy(array) makes one of it" if is_array else None
        raise RecipeError(f"{where} is {type_name(leaf)}, not a tensor", hint)
    if leaf.layout != torch.strided or leaf.is_quantized:
        raise RecipeError(f"{where} is not a plain dense tensor")
    if leaf.is_meta:
        raise RecipeError(f"{where} is on the 'meta' device: it has no values")
    if dtype_name(leaf) not in ITEM_SIZE:
        raise RecipeError(f"{where} is {dtype_name(leaf)}: no runtime has it")
    if bool(torch.isnan(leaf).any()):
        raise RecipeError(f"{where} holds NaN")


def check_fit(inputs: Inputs, like: Inputs, names: Sequence[str], where: str) -> None:
    """Check shapes and types against the example's."""
    for name, tensor, example in zip(names, inputs, like, strict=True):
        if tensor.shape != example.shape or tensor.dtype != example.dtype:
            raise RecipeError(
                f"{where}: input '{name}' is {describe(tensor)}, "
                f"but example_inputs() has {describe(example)} there"
            )


def check_batch(inputs: Inputs, like: Inputs, where: str) -> None:
    """Check that the inputs are the example's, any number of them along the first dimension."""
    if [(t.shape, t.dtype) for t in inputs] == [(t.shape, t.dtype) for t in like]:
        return
    fits = len(inputs) == len(like) and all(
        tensor.dtype == one.dtype
        and tensor.shape[1:] == one.shape[1:]
        and min(tensor.dim(), one.dim(), *tensor.shape[:1], *one.shape[:1]) > 0
        for tensor, one in zip(inputs, like, strict=True)
    )
    multiples = {
        divmod(len(tensor), len(one)) for tensor, one in zip(inputs, like, strict=fits) if fits
    }
    if not fits or len(multiples) != 1 or multiples.pop()[1] != 0:
        raise RecipeError(
            f"{where} has the inputs {describe_all(inputs)}, but example_inputs() has "
            f"{describe_all(like)}",
            "batches may have more along the first dimension, and nothing else may differ",
        )


def dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def describe(tensor: torch.Tensor) -> str:
    return f"{dtype_name(tensor)} {list(tensor.shape)}"


def describe_all(tensors: Iterable[torch.Tensor]) -> str:
    return ", ".join(describe(tensor) for tensor in tensors)


def type_name(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__
