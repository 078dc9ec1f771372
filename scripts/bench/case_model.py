"""A case's float model in torch, fresh inputs for it, and its artifact held against it."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

COUNT = 200  # fresh inputs: with fewer the figure differs by a dB from draw to draw
SEED_SHIFT = 1000  # added to every seed, so that calibration() gives inputs that nobody has seen
# 1 dB below what a build asks for: that is judged on some few other inputs.
WHOLE_DB, GROUP_DB, LONGEST_AXIS = 19.0, 14.0, 256
# What varies by less than STILL of its magnitude hardly varies: its error is held against that.
STILL, STILL_ERROR = 1e-3, 0.01
FLOAT_ERROR, HALF_DB = 1e-3, 25.0

Pair = tuple[torch.Tensor, torch.Tensor]
Leaves = dict[str, torch.Tensor]


@dataclass(frozen=True)
class CaseModel:
    """``program``: the .pt2 that is built in the place of the recipe ``path``."""

    path: Path
    program: Path | None = None

    def outputs_of(self, bundle: Path) -> list[Pair]:
        """For each output: the artifact's and torch's, stacked over the fresh inputs."""
        module = loaded(self.path) if self.program is None or has_inputs(self.path) else None
        net, example = self._net(module)
        inputs = fresh_inputs(module, example)
        with torch.no_grad():
            want = [leaves_of(net(*args, **kwargs)) for args, kwargs in map(arguments, inputs)]
        got = artifact_outputs(bundle, [named_leaves(one) for one in inputs])
        return [
            (torch.stack([one[index] for one in got]), torch.stack([one[index] for one in want]))
            for index in range(len(want[0]))
        ]

    @property
    def leaf_names(self) -> list[str]:
        """The last key of each tensor in example_inputs() that has a key."""
        paths = [
            path for path, _ in pytree.tree_flatten_with_path(loaded(self.path).example_inputs())[0]
        ]
        return [key_name(path[-1]) for path in paths if not key_name(path[-1]).isdigit()]

    @property
    def buffer_names(self) -> list[str]:
        return [name for name, _ in loaded(self.path).model().named_buffers()]

    def _net(self, module: ModuleType | None) -> tuple[Any, Any]:
        """The float model in float32, and its example inputs; random numbers as in a build."""
        torch.manual_seed(0)
        if self.program is not None:
            exported = torch.export.load(self.program)
            args, kwargs = exported.example_inputs or ((), {})
            return exported.module(), kwargs or args
        assert module is not None
        net = module.model().cpu().eval()
        example = module.example_inputs()
        if any(isinstance(p, torch.nn.UninitializedParameter) for p in net.parameters()):
            with torch.no_grad():
                args, kwargs = arguments(example)
                net(*args, **kwargs)
        halves = all(p.element_size() == 2 for p in net.parameters())
        return net.float() if halves else net, example


@dataclass(frozen=True)
class Comparison:
    """``outputs``: the artifact's and torch's float outputs. ``unequal``: of the others."""

    outputs: tuple[Pair, ...]
    unequal: float

    @property
    def relative_error(self) -> float:
        return max((relative_error(*pair) for pair in self.outputs), default=0.0)

    @property
    def plain_db(self) -> float:
        return min(decibels(w.square().sum(), (g - w).square().sum()) for g, w in self.outputs)

    @property
    def whole_db(self) -> float:
        """Centred signal to noise of the worst output."""
        return min((centred_db(*pair) for pair in self.outputs), default=math.inf)

    @property
    def group_db(self) -> float:
        return min((worst_group(*pair)[0] for pair in self.outputs), default=math.inf)

    def problems(self, precision: str) -> Iterator[str]:
        for index, (got, want) in enumerate(self.outputs):
            if precision == "fp32" and not relative_error(got, want) <= FLOAT_ERROR:
                yield f"output {index}: relative error {relative_error(got, want):.1e}"
            elif precision == "fp16" and not self.plain_db >= HALF_DB:
                yield f"output {index}: {self.plain_db:.1f} dB"
            elif precision in ("int8", "mixed"):
                yield from int8_problems(index, got, want)
        if self.unequal > 0.05:
            yield f"{100 * self.unequal:.0f} % of the whole numbers differ"

    def __str__(self) -> str:
        return (
            f"{self.whole_db:.1f} dB, worst group {self.group_db:.1f} dB, "
            f"relative error {self.relative_error:.1e}"
        )


def compare(model: CaseModel, bundle: Path) -> Comparison:
    pairs = model.outputs_of(bundle)
    floats = [(g.double(), w.double()) for g, w in pairs if w.is_floating_point()]
    others = [(g != w).double().mean().item() for g, w in pairs if not w.is_floating_point()]
    return Comparison(tuple(floats), max(others, default=0.0))


def against_torch(bundle: Path, fresh: Path) -> dict[str, float]:
    """The artifact against the outputs that a .npz holds beside its inputs, as output_0 and on."""
    arrays = {key: torch.from_numpy(array) for key, array in np.load(fresh).items()}
    outputs = [key for key in arrays if key.startswith("output_")]
    columns = {key: array[:, None] for key, array in arrays.items() if key not in outputs}
    rows = zip(*[column.unbind(0) for column in columns.values()], strict=True)
    got = artifact_outputs(bundle, [dict(zip(columns, row, strict=True)) for row in rows])
    pairs = [
        (torch.stack([one[index] for one in got]).double(), arrays[key][:, None].double())
        for index, key in enumerate(outputs)
    ]
    found = Comparison(tuple(pairs), 0.0)
    return {
        "whole_db": found.whole_db,
        "group_db": found.group_db,
        "relative_error": found.relative_error,
    }


def int8_problems(index: int, got: torch.Tensor, want: torch.Tensor) -> Iterator[str]:
    if not torch.isfinite(got).all():
        yield f"output {index}: not finite"
    elif not (whole := centred_db(got, want)) >= WHOLE_DB:
        yield f"output {index}: {whole:.1f} dB, should be {WHOLE_DB:.0f}"
    else:
        worst, axis, place = worst_group(got, want)
        if not worst >= GROUP_DB:
            yield f"output {index}, axis {axis}, index {place}: {worst:.1f} dB"


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got - want).abs().max() / want.abs().max().clamp_min(1e-30)).item()


def centred_db(got: torch.Tensor, want: torch.Tensor) -> float:
    """What varies over inputs (the first dimension) against the error.

    Where hardly anything varies: infinite if the error is within 1 % of the magnitude, else the
    least that there is.
    """
    varying = (want - want.mean(0, keepdim=True)).square().sum()
    noise, size = (got - want).square().sum(), want.square().sum()
    if varying <= STILL**2 * size:
        return math.inf if noise <= STILL_ERROR**2 * size else -math.inf
    return decibels(varying, noise)


def worst_group(got: torch.Tensor, want: torch.Tensor) -> tuple[float, int, int]:
    """The least signal to noise of any group, its axis and index in the output.

    The stack's first dimension counts inputs, its second is the model's batch of 1.
    """
    found = [(math.inf, 0, 0)]
    for axis in range(2, want.dim()):
        for place in range(want.shape[axis] if want.shape[axis] <= LONGEST_AXIS else 0):
            decibel = centred_db(got.select(axis, place), want.select(axis, place))
            found.append((decibel, axis - 1, place))
    return min(found)


def decibels(signal: torch.Tensor, noise: torch.Tensor) -> float:
    if noise == 0:
        return math.inf
    return (10 * torch.log10(signal / noise)).item() if signal > 0 else -math.inf


# --- inputs -----------------------------------------------------------------------------------


def fresh_inputs(module: ModuleType | None, example: Any) -> list[Any]:
    """Inputs as calibration() gives them, of other random numbers; else like the example's."""
    with other_random_numbers():
        found = calibrations(module) if hasattr(module, "calibration") else []
        if found:
            return found
        if module is not None:
            return [copied(module.example_inputs()) for _ in range(COUNT)]
        return [pytree.tree_map(like, example) for _ in range(COUNT)]


def calibrations(module: Any) -> list[Any]:
    """COUNT items of calibration(), which is called again and again, as long as it gives others."""
    found: list[Any] = []
    while len(found) < COUNT:
        more = [copied(item) for item in islice(module.calibration(), COUNT - len(found))]
        if not more or (found and same(more[0], found[0])):
            break
        found += more
    return found


def same(one: Any, other: Any) -> bool:
    pairs = zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def like(value: Any) -> Any:
    """Another tensor of the same kind; whole numbers and masks stay what they are."""
    floats = torch.is_tensor(value) and value.is_floating_point()
    return torch.randn_like(value) * value.std() + value.mean() if floats else value


@contextmanager
def other_random_numbers() -> Iterator[None]:
    """Generators that are seeded anew start elsewhere than they do in a build."""
    original = torch.Generator

    class Shifted(original):  # type: ignore[misc, valid-type]
        def manual_seed(self, seed: int) -> torch.Generator:
            return super().manual_seed(seed + SEED_SHIFT)

    torch.Generator = Shifted  # type: ignore[misc]
    torch.manual_seed(SEED_SHIFT)
    try:
        yield
    finally:
        torch.Generator = original  # type: ignore[misc]


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """As the model in float32 takes them; copies, for models that change their inputs."""
    inputs = pytree.tree_map(wide, copied(inputs))
    return ((), inputs) if isinstance(inputs, dict) else (tuple(inputs), {})


def wide(value: Any) -> Any:
    half = torch.is_tensor(value) and value.is_floating_point() and value.element_size() == 2
    return value.float() if half else value


def copied(value: Any) -> Any:
    """A copy that is usable outside of inference mode too."""
    return pytree.tree_map(lambda t: t.detach().clone() if torch.is_tensor(t) else t, value)


def named_leaves(inputs: Any) -> Leaves:
    pairs = pytree.tree_flatten_with_path(inputs)[0]
    return {"_".join(map(key_name, path)): wide(tensor) for path, tensor in pairs}


def key_name(key: Any) -> str:
    return str(getattr(key, "key", getattr(key, "idx", key)))


def leaves_of(output: Any) -> list[torch.Tensor]:
    return [leaf.detach().clone() for leaf in pytree.tree_leaves(output) if torch.is_tensor(leaf)]


# --- the artifact -----------------------------------------------------------------------------


def artifact_outputs(bundle: Path, inputs: list[Leaves]) -> list[list[torch.Tensor]]:
    """By the portable client that lies in the bundle; one sequence, where it has a state."""
    client = loaded(bundle / "edgekit_model.py")
    with client.Model(bundle) as model:
        found = []
        for leaves in inputs:
            values = zip(model.inputs, ordered(model.inputs, leaves), strict=True)
            output = model(*[encoded(tensor, value) for tensor, value in values])
            outputs = output if isinstance(output, tuple) else (output,)
            found.append([torch.from_numpy(np.array(one)) for one in outputs])
    return found


def ordered(tensors: Any, leaves: Leaves) -> list[torch.Tensor]:
    """A value for each input of the artifact: by name for keyword arguments, else by place."""
    names = [tensor.name for tensor in tensors]
    return [leaves[name] for name in names] if set(names) == set(leaves) else list(leaves.values())


def encoded(tensor: Any, value: torch.Tensor) -> Any:
    """As the client takes it; bfloat16 goes in as bytes."""
    if tensor.dtype == "bfloat16":
        return value.to(torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes()
    dtype = getattr(torch, tensor.dtype, value.dtype)
    return np.ascontiguousarray(value.to(dtype).contiguous().numpy())


def has_inputs(path: Path) -> bool:
    return "def example_inputs" in path.read_text()


def loaded(path: Path) -> ModuleType:
    """A file as a module; its folder is first on the path meanwhile."""
    name = f"{path.stem}_{abs(hash(path))}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
