"""Checks, descriptions and copies of a recipe's tensors."""

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

# Types of weights and inputs that are converted to float32, because few kernels support them.
AS_FLOAT32 = ("bfloat16", "float64")


def refuse_constants(arguments: Arguments, leaves: Sequence[Any], where: str) -> None:
    """Raise RecipeError with a remedy if a leaf is a number, a flag, a text or None."""
    constants = {
        name: leaf
        for name, leaf in zip(arguments.names, leaves, strict=True)
        if leaf is None or isinstance(leaf, (bool, int, float, complex, str, bytes))
    }
    if not constants:
        return
    kinds = ", ".join(f"{name} ({type(value).__name__})" for name, value in constants.items())
    bound = ", ".join(f"{name}={value!r}" for name, value in constants.items())
    others = [name for name in arguments.tree if name not in constants]
    hint = (
        f"bind it in model(): net.forward = functools.partial(net.forward, {bound}); then "
        "example_inputs() returns {" + ", ".join(f'"{name}": ...' for name in others) + "}"
        if constants.keys() <= arguments.tree.keys()
        else "leave it out, and add it in a small module around the model that model() returns"
    )
    raise RecipeError(f"{where}: the inputs of a device are tensors, not {kinds}", hint)


def check_inputs(leaves: Sequence[Any], names: Sequence[str], where: str) -> Inputs:
    """Check that all are dense tensors with values. Returns contiguous copies on the CPU."""
    import torch

    for name, leaf in zip(names, leaves, strict=True):
        _check_input(leaf, f"{where}: input '{name}'")
    return tuple(
        tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for tensor in leaves
    )


def as_float32(tensors: Iterable[torch.Tensor]) -> Inputs:
    """The tensors, with the types in AS_FLOAT32 converted to float32."""
    return tuple(t.float() if dtype_name(t) in AS_FLOAT32 else t for t in tensors)


def _check_input(leaf: Any, where: str) -> None:
    import torch

    if not torch.is_tensor(leaf):
        is_array = type(leaf).__module__ == "numpy" and hasattr(leaf, "shape")
        hint = "convert it with torch.from_numpy(array)" if is_array else None
        raise RecipeError(f"{where} is {type_name(leaf)}, not a tensor", hint)
    if leaf.layout != torch.strided or leaf.is_quantized:
        raise RecipeError(f"{where} is not a plain dense tensor")
    if leaf.is_meta:
        raise RecipeError(f"{where} is on the 'meta' device: it has no values")
    if dtype_name(leaf) not in ITEM_SIZE:
        raise RecipeError(f"{where} is {dtype_name(leaf)}, which no runtime supports")
    if bool(torch.isnan(leaf).any()):
        raise RecipeError(f"{where} contains NaN")


def check_fit(inputs: Inputs, like: Inputs, names: Sequence[str], where: str) -> None:
    """Check shapes and types against the example's."""
    for name, tensor, example in zip(names, inputs, like, strict=True):
        if tensor.shape != example.shape or tensor.dtype != example.dtype:
            raise RecipeError(
                f"{where}: input '{name}' is {describe(tensor)}, "
                f"but in example_inputs() it is {describe(example)}"
            )


def check_batch(inputs: Inputs, like: Inputs, where: str) -> None:
    """Check that the inputs have the example's shapes, but for the first dimension, and types."""
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
            "only the first dimension of a batch may be larger; nothing else may differ",
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
