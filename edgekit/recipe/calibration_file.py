"""Calibration data from a file: --calibration FILE.npz instead of calibration()."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgekit.errors import RecipeError
from edgekit.recipe.recipe import MAX_CALIBRATION
from edgekit.recipe.tensors import Inputs, check_fit, check_inputs, describe

if TYPE_CHECKING:
    import torch


# One of so many inputs is held out: ranges and repairs are fitted to the others and judged by it.
# With fewer inputs than MIN_TO_HOLD_OUT, all inputs serve both purposes.
HELD_OUT_EVERY = 5
MIN_TO_HOLD_OUT = 10
# Of those that are fitted, every eighth judges a training, 64 at most.
JUDGES_TRAINING_EVERY, MOST_JUDGE_TRAINING = 8, 64
# The names that np.savez gives to unnamed arrays.
UNNAMED = re.compile(r"arr_\d+")


def read_calibration(path: Path, example: Inputs, names: Sequence[str]) -> list[Inputs]:
    """Read at most MAX_CALIBRATION inputs, each of the example's shapes.

    The file has one array for each input of the model, by name, or in order if the arrays have no
    names. Its shape is (N, *shape) or, with the example's batch size b, (N * b, *shape[1:]).
    Raises RecipeError if the file is missing, is not a .npz of plain numbers, or does not fit.
    """
    arrays = _arrays(path)
    if set(names) <= set(arrays):
        chosen = [arrays[name] for name in names]
    elif len(arrays) == len(example) and all(UNNAMED.fullmatch(name) for name in arrays):
        chosen = list(arrays.values())
    else:
        raise RecipeError(
            f"{path} has the arrays {', '.join(arrays) or 'none'}, but the model's inputs are "
            f"{', '.join(names)}",
            "save one array for each: np.savez(FILE, " + ", ".join(f"{n}=..." for n in names) + ")",
        )
    columns = [
        _split(path, name, array, like)
        for name, array, like in zip(names, chosen, example, strict=True)
    ]
    lengths = {len(column) for column in columns}
    if len(lengths) > 1:
        counts = ", ".join(f"{n} {len(c)}" for n, c in zip(names, columns, strict=True))
        raise RecipeError(f"{path}: its arrays have unequal numbers of inputs: {counts}")
    if lengths == {0}:
        raise RecipeError(f"{path}: its arrays are empty", "save some tens of typical inputs")
    rows = []
    for index, row in enumerate(zip(*columns, strict=True)):
        where = f"{path}: input {index}"
        inputs = check_inputs(row, names, where)
        check_fit(inputs, example, names, where)
        rows.append(inputs)
    return rows


Item = TypeVar("Item")


def hold_out(items: Sequence[Item], fold: int = 0) -> tuple[list[Item], list[Item]]:
    """Split into items to fit ranges and repairs to, and items to judge them by.

    ``fold``, below HELD_OUT_EVERY, selects which share of the items judges.
    """
    if len(items) < MIN_TO_HOLD_OUT:
        return list(items), list(items)
    fitted = [item for index, item in enumerate(items) if index % HELD_OUT_EVERY != fold]
    return fitted, list(items[fold::HELD_OUT_EVERY])


def split_for_training(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Split into items to train with, and items to judge the training by: at least one of each,
    unless there is only one.
    """
    if len(items) < 2:
        return list(items), list(items)
    every = max(JUDGES_TRAINING_EVERY, -(-len(items) // MOST_JUDGE_TRAINING))
    return [item for index, item in enumerate(items) if index % every], list(items[::every])


def spread_over(items: Sequence[Item], most: int) -> list[Item]:
    """At most ``most`` of the items, evenly spread."""
    count = min(len(items), most)
    return [items[int(index * len(items) / count)] for index in range(count)]


def _arrays(path: Path) -> dict[str, Any]:
    import numpy as np

    if not path.is_file():
        raise RecipeError(f"there is no calibration file {path}", "np.savez writes one")
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            if not hasattr(file, "files"):
                raise ValueError("it has a single unnamed array: use np.savez, not np.save")
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile,
            NotImplementedError, zipfile.LargeZipFile, OverflowError, SyntaxError,
            UnicodeError, TypeError, AttributeError) as error:  # fmt: skip
        raise RecipeError(
            f"{path} is not a complete .npz file of plain numbers: "
            f"{str(error) or type(error).__name__}",
            "np.savez(FILE, name=array, ...) writes one",
        ) from None


def _split(path: Path, name: str, array: Any, like: torch.Tensor) -> list[torch.Tensor]:
    """One tensor per input, with the example's shape and type. Raises RecipeError."""
    import numpy as np
    import torch

    shape = tuple(like.shape)
    batch = shape[0] if shape else 1
    stacked = array.ndim == len(shape) + 1 and array.shape[1:] == shape
    joined = bool(shape) and array.ndim == len(shape) and array.shape[1:] == shape[1:]
    if joined and not stacked:
        if batch == 0 or len(array) % batch:
            raise RecipeError(
                f"{path}: {name} has {len(array)} rows, which is not a multiple of {batch}"
            )
        array = array.reshape(-1, *shape)
    elif not stacked:
        whole = ", ".join(str(size) for size in shape)
        inner = ", ".join(str(size) for size in shape[1:]) if batch == 1 else whole
        raise RecipeError(
            f"{path}: {name} is {array.dtype} {list(array.shape)}, but the model takes "
            f"{describe(like)}",
            f"its shape must be (N, {inner}) or (N, {whole})",
        )
    typed = torch.empty(0, dtype=like.dtype)
    try:
        tensors = torch.from_numpy(np.ascontiguousarray(array[:MAX_CALIBRATION]))
    except TypeError:
        raise RecipeError(
            f"{path}: {name} is {array.dtype}, which torch does not support"
        ) from None
    if tensors.is_floating_point() != typed.is_floating_point() or (
        (tensors.dtype == torch.bool) != (typed.dtype == torch.bool)
    ):
        raise RecipeError(
            f"{path}: {name} is {array.dtype}, but the model takes {describe(like)}",
            "save it in the model's type, normalised as the model expects",
        )
    return list(tensors.to(typed.dtype))
