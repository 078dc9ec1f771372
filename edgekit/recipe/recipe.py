"""The recipe: the user's Python file, which defines the model and its data."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from edgekit.cache import file_digest
from edgekit.errors import RecipeError
from edgekit.process.interrupt import uninterruptible
from edgekit.recipe.arguments import Arguments, Nested, read_arguments
from edgekit.recipe.image_size import Size
from edgekit.recipe.tensors import (
    Inputs,
    as_float32,
    check_batch,
    check_fit,
    check_inputs,
    refuse_constants,
    type_name,
)
from edgekit.recipe.user_code import user_code_errors

if TYPE_CHECKING:
    import torch

    from edgekit.fidelity.comparison import OutputKind


REQUIRED = ("model", "example_inputs")
OPTIONAL = (
    "calibration", "evaluate", "training", "loss", "teacher", "output_kinds", "input_sizes",
)  # fmt: skip
# Enough for every observer. It also ends an endless calibration().
MAX_CALIBRATION = 1000
# The label that torch's cross-entropy ignores.
IGNORED = -100


class Recipe:
    """A loaded recipe. Its functions are called through this class, so that their errors become
    RecipeErrors with the user's file and line.
    """

    def __init__(
        self, path: Path, module: ModuleType, seed: int, device: torch.device | None = None
    ) -> None:
        self.path = path
        self.seed = seed
        self.name = path.parent.name if path.name == "recipe.py" else path.stem
        self.digest = file_digest(path)
        self._module = module
        self._device = device

    def has(self, function: str) -> bool:
        return callable(getattr(self._module, function, None))

    def call(self, function: str, *arguments: Any) -> Any:
        with self._running(function):
            return getattr(self._module, function)(*arguments)

    def model(self) -> torch.nn.Module:
        """The model, in eval mode, on the CPU."""
        import torch

        model = self.call("model")
        if not isinstance(model, torch.nn.Module):
            raise RecipeError(
                f"{self.path}: model() must return a torch.nn.Module, not {type_name(model)}",
                "return a module with its weights, not a class, function or state dict",
            )
        if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
            raise RecipeError(
                f"{self.path}: model() returned weights without values (on the 'meta' device)",
                "load the weights in model(), on the CPU",
            )
        for method in ("train", "eval"):  # in modules of torch.export these raise
            vars(model).pop(method, None)
        return model.cpu().eval()

    def example_inputs(self) -> Inputs:
        """One set of flat inputs. Raises RecipeError."""
        return self.example(())[1]

    def example(self, parameters: Sequence[str]) -> tuple[Arguments, Inputs]:
        """One set of inputs, with their structure for a forward with these ``parameters``.

        They are contiguous, because torch.export would export other strides. Raises RecipeError.
        """
        where = f"{self.path}: example_inputs()"
        value = self.call("example_inputs")
        arguments = read_arguments(value, parameters, where)
        leaves = arguments.flatten(value, where)
        if not leaves:
            raise RecipeError(f"{where} returned no tensors: a model needs at least one input")
        refuse_constants(arguments, leaves, where)
        return arguments, check_inputs(leaves, arguments.names, where)

    def calibration(self, like: Inputs, arguments: Arguments | None = None) -> list[Inputs]:
        """All calibration inputs (at most MAX_CALIBRATION), each of the example's shapes.

        ``arguments``: their structure; None: a tuple of tensors. Raises RecipeError if there are
        none, or one has another count, shape or type, or NaN.
        """
        arguments = arguments or _plain(like)
        rows: list[Inputs] = []
        for index, item in enumerate(self._iterate("calibration")):
            if index == MAX_CALIBRATION:
                break
            where = f"{self.path}: calibration() item {index}"
            inputs = _flat(item, arguments, where)
            check_fit(inputs, like, arguments.names, where)
            rows.append(inputs)
        if not rows:
            raise RecipeError(
                f"{self.path}: calibration() yielded nothing",
                "yield some tens of typical inputs, each shaped like example_inputs()",
            )
        return rows

    def evaluate(self, predict: Callable[..., Any]) -> float:
        """The recipe's metric of ``predict``; higher is better.

        Random numbers are reset to the seed, so that an ``evaluate`` that samples draws the same
        sample in every stage.
        """
        _start_random_numbers(self.seed)
        value = self.call("evaluate", predict)
        try:
            metric = float(value)
        except (TypeError, ValueError, RuntimeError):
            raise RecipeError(
                f"{self.path}: evaluate() must return a number, not {type_name(value)}"
            ) from None
        if metric != metric or metric in (float("inf"), float("-inf")):
            raise RecipeError(
                f"{self.path}: evaluate() returned {metric}", "return a finite number"
            )
        return metric

    def training(
        self, epoch: int, like: Inputs, arguments: Arguments | None = None
    ) -> Iterator[tuple[Inputs, Any]]:
        """One epoch of (inputs, target); the inputs are batches with the shapes of ``like``.

        Random numbers are reset to seed + epoch, so that an epoch can be repeated. Raises
        RecipeError if an item is not a pair, or its inputs have another shape or type.
        """
        arguments = arguments or _plain(like)
        _start_random_numbers(self.seed + epoch)
        for index, item in enumerate(self._iterate("training")):
            where = f"{self.path}: training() item {index}"
            if not isinstance(item, (tuple, list)) or len(item) != 2:
                raise RecipeError(
                    f"{where} must be a pair (inputs, target), not {type_name(item)}",
                    "yield a batch of one input and its labels as ((images,), labels)",
                )
            inputs = _flat(item[0], arguments, where)
            check_batch(inputs, like, where)
            yield inputs, item[1]

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        """The recipe's loss, a scalar; by default cross-entropy. Raises RecipeError."""
        if not self.has("loss"):
            return _cross_entropy(self.path, output, target)
        value = self.call("loss", output, target)
        if not hasattr(value, "backward") or value.numel() != 1:
            raise RecipeError(
                f"{self.path}: loss() must return a tensor of one number, not {type_name(value)}"
            )
        loss: torch.Tensor = value
        return loss

    def output_kinds(self, names: Sequence[str]) -> tuple[OutputKind, ...] | None:
        """The kind of each output by the recipe; None if it has no output_kinds().

        Raises RecipeError.
        """
        if not self.has("output_kinds"):
            return None
        value = self.call("output_kinds")
        kinds = [value] if isinstance(value, str) else list(value)
        if len(kinds) != len(names) or any(kind not in ("classes", "values") for kind in kinds):
            raise RecipeError(
                f"{self.path}: output_kinds() must return 'classes' or 'values' for each output of "
                f"the model ({', '.join(names)}), not {value!r}"
            )
        return tuple(cast("Iterable[OutputKind]", kinds))

    def input_sizes(self) -> tuple[Size, ...]:
        """The sizes (height, width) at which the model may run besides the example's, largest
        first; empty if the recipe has no input_sizes(). Raises RecipeError.
        """
        if not self.has("input_sizes"):
            return ()
        value = self.call("input_sizes")
        items = list(value) if isinstance(value, Iterable) else [value]
        sizes = [(item, item) if isinstance(item, int) else item for item in items]
        for size in sizes:
            if not _is_size(size):
                raise RecipeError(
                    f"{self.path}: input_sizes() must return sizes in pixels, each a number or a "
                    f"pair (height, width), not {size!r}",
                    "for example (192, 176, (160, 128))",
                )
        unique = {(int(height), int(width)) for height, width in sizes}
        return tuple(sorted(unique, key=lambda size: (-size[0] * size[1], size)))

    @contextmanager
    def _running(self, function: str) -> Iterator[None]:
        """Run the recipe's code with its default device. edgekit itself uses the CPU."""
        import torch

        torch.set_default_device(self._device)
        try:
            with user_code_errors(self.path, f"{function}()"):
                yield
        finally:
            self._device = take_default_device()

    def _iterate(self, function: str) -> Iterator[Any]:
        items = self.call(function)
        if not isinstance(items, Iterable):
            raise RecipeError(
                f"{self.path}: {function}() must return or yield tuples of tensors, "
                f"not {type_name(items)}"
            )
        waiting = iter(items)
        while True:
            with self._running(function):
                try:
                    item = next(waiting)
                except StopIteration:
                    return
            yield item


@contextmanager
def open_recipe(path: Path, seed: int) -> Iterator[Recipe]:
    """Run a recipe file. Inside the block its folder is first on the module path.

    Afterwards its local modules are removed from sys.modules, and torch's default type is
    restored, so that two recipes in one process cannot affect each other. Its default device is
    set only while its functions run. Random numbers start at ``seed``.
    Raises RecipeError if the file is missing, fails, or lacks a required function.
    """
    path = _resolve_path(path)
    folder = str(path.parent)
    before = set(sys.modules)
    sys.path.insert(0, folder)
    try:
        with default_torch_settings():
            _start_random_numbers(seed)
            module = _run_file(path)
            yield Recipe(path, module, seed, take_default_device())
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
        for name in set(sys.modules) - before:
            if _is_local(sys.modules[name], path.parent):
                del sys.modules[name]


@contextmanager
def default_torch_settings() -> Iterator[None]:
    """Set torch's original default type and device; restore the caller's afterwards."""
    import torch

    dtype, device = torch.get_default_dtype(), take_default_device()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_default_device(device)


def take_default_device() -> torch.device | None:
    """Reset torch's default device. Returns the previous one, None for the CPU."""
    import torch

    device = torch.get_default_device()
    torch.set_default_device(None)
    return device if device.type != "cpu" else None


def _is_size(value: object) -> bool:
    return (
        isinstance(value, (tuple, list))
        and len(value) == 2
        and all(isinstance(part, int) and part > 0 for part in value)
    )


def _flat(value: Nested, arguments: Arguments, where: str) -> Inputs:
    return as_float32(check_inputs(arguments.flatten(value, where), arguments.names, where))


def _plain(like: Inputs) -> Arguments:
    return read_arguments(like, (), "the example's inputs")


def _cross_entropy(path: Path, output: Any, target: Any) -> torch.Tensor:
    import torch

    if not (torch.is_tensor(output) and torch.is_tensor(target) and output.dim() > 1):
        raise RecipeError(
            f"{path}: the default loss is cross-entropy, for one output (N, classes) and a tensor "
            f"of labels, not for {type_name(output)} and {type_name(target)}",
            "write loss(output, target) in the recipe",
        )
    if not target.is_floating_point():
        labels = target[target != IGNORED]
        low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
        classes = output.shape[1]
        if low < 0 or high >= classes:
            raise RecipeError(
                f"{path}: training() has labels from {low} to {high}, but the model has "
                f"{classes} classes, 0 to {classes - 1}"
            )
    with user_code_errors(path, "the default loss, cross-entropy,"):
        return torch.nn.functional.cross_entropy(output, target)


def _is_local(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None) or ""
    return file != "" and Path(file).is_relative_to(folder) and "site-packages" not in file


def _resolve_path(path: Path) -> Path:
    if path.is_dir():
        raise RecipeError(f"{path} is a folder, not a recipe", f"did you mean {path}/recipe.py?")
    if not path.exists():
        raise RecipeError(
            f"there is no recipe {path}",
            "give its path (edgekit build RECIPE ...), or write one with edgekit init",
        )
    return path.resolve()


def _run_file(path: Path) -> ModuleType:
    module = ModuleType("edgekit_recipe")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    with user_code_errors(path, "the recipe"):
        try:
            code = compile(path.read_bytes(), str(path), "exec")
        except SyntaxError as error:
            raise RecipeError(
                f"{path} is not valid Python: line {error.lineno}: {error.msg}"
            ) from None
        with uninterruptible():  # it imports torch
            exec(code, module.__dict__)
    missing = [name for name in REQUIRED if not callable(getattr(module, name, None))]
    if missing:
        names = " and ".join(f"{name}()" for name in missing)
        raise RecipeError(
            f"{path} does not define {names}",
            "a recipe needs model() and example_inputs(); edgekit init writes a commented one",
        )
    return module


def _start_random_numbers(seed: int) -> None:
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
