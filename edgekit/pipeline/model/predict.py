"""``predict``: one function for every stage that is judged, as the recipe contract promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils import _pytree as pytree

from edgekit.compress.divergence import arrays
from edgekit.errors import EdgekitError, RecipeError
from edgekit.fidelity.groups import Array
from edgekit.pipeline.state.sequence import Carried
from edgekit.progress import Stage
from edgekit.recipe.arguments import Arguments
from edgekit.recipe.image_size import Resizing
from edgekit.recipe.tensors import Inputs, as_float32, describe_all, dtype_name
from edgekit.recipe.user_code import user_line
from edgekit.runner.client import Serving
from edgekit.runtimes.cause import summary

Outputs = list[torch.Tensor]
Run = Callable[[Inputs], Outputs]
# Progress is shown after every so many of the inputs.
COUNTED = 64


@dataclass(frozen=True)
class Structure:
    """The names of a model's flat outputs, and their nesting. New states follow the outputs and
    have names only.
    """

    names: tuple[str, ...]
    spec: pytree.TreeSpec

    def rebuild(self, outputs: Outputs) -> Any:
        return pytree.tree_unflatten(outputs[: self.spec.num_leaves], self.spec)


def structure_of(outputs: Any) -> tuple[Outputs, Structure]:
    """Flatten a model's outputs. Raises RecipeError: one is not a tensor."""
    _register_named_tuples(outputs)
    paths, spec = pytree.tree_flatten_with_path(outputs)
    for path, value in paths:
        if not torch.is_tensor(value):
            raise RecipeError(
                f"the model's output{pytree.keystr(path)} is {type(value).__name__}, not a tensor",
                "return tensors only, alone or in a tuple, list or dict",
            )
    if not paths:
        raise RecipeError("the model returns nothing")
    names = tuple(_name(path, index, len(paths)) for index, (path, _) in enumerate(paths))
    return [value for _, value in paths], Structure(names, spec)


def _register_named_tuples(value: Any) -> None:
    """Register named tuples: torch can only serialize, and so lower, registered ones."""
    kind = type(value)
    named = isinstance(value, tuple) and hasattr(value, "_fields")
    if named and kind not in pytree.SUPPORTED_NODES:
        name = f"{kind.__module__}.{kind.__qualname__}"
        pytree._register_namedtuple(kind, serialized_type_name=name)
    if isinstance(value, (tuple, list)):
        for item in value:
            _register_named_tuples(item)
    elif isinstance(value, dict):
        for item in value.values():
            _register_named_tuples(item)


def run_eager(model: torch.nn.Module) -> Run:
    """A PyTorch model as a function from one set of inputs to flat outputs."""

    def run(inputs: Inputs) -> Outputs:
        with _blaming_the_model(inputs), torch.no_grad():
            return list(pytree.tree_leaves(model(*inputs)))

    return run


@contextmanager
def _blaming_the_model(inputs: Inputs) -> Iterator[None]:
    """Raise RecipeError if the model, which ran on the example, fails on other inputs."""
    try:
        yield
    except EdgekitError:
        raise
    except Exception as error:
        line = user_line(error)
        raise RecipeError(
            f"the model failed on inputs other than the example ({describe_all(inputs)}): "
            f"{summary(error)}" + (f" ({line})" if line else ""),
            "calibration and evaluation must give inputs that the model accepts: indices within "
            "their tables, and no empty or infinite values",
        ) from error


def run_serving(serving: Serving) -> Run:
    """A native runner as a function from one set of inputs to flat outputs."""

    def run(inputs: Inputs) -> Outputs:
        results = serving.infer([to_bytes(tensor) for tensor in inputs])
        specs = serving.report.outputs
        return [
            from_bytes(data, spec.dtype, spec.shape)
            for data, spec in zip(results, specs, strict=True)
        ]

    return run


@runtime_checkable
class Many(Protocol):
    """A ``Run`` that takes many inputs at once faster than one by one (model/batched.py)."""

    def many(self, parts: Sequence[Inputs]) -> list[Outputs]: ...


def run_all(run: Run, parts: Sequence[Inputs]) -> list[Outputs]:
    return run.many(parts) if isinstance(run, Many) else [run(part) for part in parts]


@dataclass
class CountedRun:
    """``run`` with progress by inferences. ``expected``: their number, 0 if unknown."""

    run: Run
    stage: Stage
    expected: int = 0
    count: int = 0

    def __call__(self, inputs: Inputs) -> Outputs:
        outputs = self.run(inputs)
        self._add(1)
        return outputs

    def many(self, parts: Sequence[Inputs]) -> list[Outputs]:
        if not isinstance(self.run, Many):
            return [self(part) for part in parts]
        outputs: list[Outputs] = []
        for start in range(0, len(parts), COUNTED):
            outputs += self.run.many(parts[start : start + COUNTED])
            self._add(len(parts[start : start + COUNTED]))
        return outputs

    def _add(self, count: int) -> None:
        self.count += count
        self.stage.advance(self.count, self.expected)


class Predictor:
    """``predict``: wraps ``run``; called like the model, also with batches. With a ``Carried`` as
    ``run``, which keeps states, it takes one step of a sequence at a time. ``resizing``: of the
    images that it is called with, to those of ``example``, which it takes too.
    """

    def __init__(
        self,
        run: Run | Carried,
        example: Inputs,
        arguments: Arguments,
        structure: Structure,
        resizing: Resizing | None = None,
    ) -> None:
        self._example, self._arguments, self._structure = example, arguments, structure
        self._resizing = resizing
        self._run = run
        is_step = isinstance(run, Carried)
        self._whole = step_by_step(run, example) if is_step else batched(run, example, structure)

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        leaves = self._arguments.flatten_call(inputs, keywords, "predict")
        tensors = as_exported(leaves, self._example, self._arguments.names)
        if self._resizing is not None and self._resizing.fits(tensors):
            tensors = self._resizing(tensors)
        return self._structure.rebuild(self._whole(tensors))

    def reset(self) -> None:
        """Start a new sequence; without state this does nothing."""
        if isinstance(self._run, Carried):
            self._run.reset()


def step_by_step(run: Run, example: Inputs) -> Run:
    """Wrap ``run``, which keeps states, to reject batches: rows could be steps or sequences."""

    def run_step(inputs: Inputs) -> Outputs:
        if any(a.shape != b.shape for a, b in zip(inputs, example, strict=True)):
            raise RecipeError(
                f"predict: the model has state and takes one step of a sequence at a time, "
                f"{describe_all(example)}, not {describe_all(inputs)}",
                "call predict for each step, in order; predict.reset() starts a new sequence",
            )
        return run(inputs)

    return run_step


def batched(run: Run, example: Inputs, structure: Structure) -> Run:
    """Wrap ``run``: batches are split to the example's shapes and joined again."""

    def run_batch(inputs: Inputs) -> Outputs:
        parts = run_all(run, split(inputs, example))
        if len(parts) == 1:
            return parts[0]
        for name, tensor in zip(structure.names, parts[0], strict=True):
            if tensor.dim() == 0:
                raise RecipeError(
                    f"predict: the output {name} has no dimension to join the parts of a batch by",
                    f"call predict with the example's exact shapes: {describe_all(example)}",
                )
        return [torch.cat(tensors) for tensors in zip(*parts, strict=True)]

    return run_batch


def as_exported(leaves: Sequence[Any], example: Inputs, names: Sequence[str]) -> Inputs:
    """The inputs as tensors of the example's types. Raises RecipeError: another type."""
    tensors = as_float32(torch.as_tensor(leaf) for leaf in leaves)
    for name, tensor, like in zip(names, tensors, example, strict=True):
        if tensor.dtype != like.dtype:
            raise RecipeError(
                f"predict: input '{name}' is {dtype_name(tensor)}, but the model was exported "
                f"for {dtype_name(like)}"
            )
    return tensors


def split(inputs: Inputs, example: Inputs) -> list[Inputs]:
    """Split inputs whose first dimensions are all the same multiple of the example's.

    Raises RecipeError: any other shape.
    """
    multiples = {_multiple(tensor, like) for tensor, like in zip(inputs, example, strict=True)}
    if len(multiples) != 1 or None in multiples:
        raise RecipeError(
            f"predict: the inputs are {describe_all(inputs)}, but the model was exported for "
            f"{describe_all(example)}",
            "give exactly these shapes, or the same multiple of every first dimension",
        )
    count = multiples.pop() or 1
    chunks = [tensor.chunk(count) if count > 1 else (tensor,) for tensor in inputs]
    return [tuple(part) for part in zip(*chunks, strict=True)]


def to_bytes(tensor: torch.Tensor) -> bytes:
    """C-order bytes, whatever the strides."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def from_bytes(data: bytes, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    if not data:
        return torch.empty(shape, dtype=getattr(torch, dtype))
    return torch.frombuffer(bytearray(data), dtype=getattr(torch, dtype)).reshape(shape)


def to_arrays(outputs: Outputs) -> Sequence[Array]:
    """Flat arrays; bfloat16, which numpy lacks, becomes float32."""
    return [array.ravel() for array in arrays(outputs)]


def _multiple(tensor: torch.Tensor, like: torch.Tensor) -> int | None:
    if tensor.shape == like.shape:
        return 1
    if tensor.dim() == 0 or tensor.shape[1:] != like.shape[1:] or not like.shape[0]:
        return None
    count, rest = divmod(tensor.shape[0], like.shape[0])
    return count if count > 0 and rest == 0 else None


def _name(path: tuple[Any, ...], index: int, count: int) -> str:
    """The name of an output: the dict's keys and indices, or ``output`` with a number."""
    keys = [str(part.key) for part in path if isinstance(part, pytree.MappingKey)]
    if not keys:
        return "output" if count == 1 else f"output_{index}"
    rest = [str(part.idx) for part in path if isinstance(part, pytree.SequenceKey)]
    return ".".join(keys + rest)
