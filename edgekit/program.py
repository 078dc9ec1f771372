"""Program: the content of a runtime's file, in terms that all runtimes share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from edgekit.frozen import Extensible, Frozen, Omitted

ITEM_SIZE = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1,
}  # fmt: skip


class Quantization(Frozen):
    """Affine, per tensor: real = scale * (stored - zero_point)."""

    scale: float
    zero_point: int
    dtype: str = "int8"


class MovedBySteps(Frozen):
    """How far an output moves, at most, if the last int8 tensors change by one step. For an output
    whose last operators are float. For one in int8 that comes after float operators: if some values
    of all int8 tensors do.

    ``whole``: the largest change of any element. ``groups``: the same for each index of an axis.
    """

    whole: float
    groups: dict[int, tuple[float, ...]] = Field(default_factory=dict)


class TensorSpec(Frozen):
    """One input or output of the program, in C order.

    ``quantization``: the steps of the values, if the model quantizes them inside; the input or
    output itself stays in ``dtype``. ``moved``: only if float operators come last or
    before; otherwise JSON has no such key, as in older manifests.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    quantization: Quantization | None = None
    moved: Omitted[MovedBySteps | None] = None
    resized_from: Omitted[tuple[int, int] | None] = None

    @property
    def byte_count(self) -> int:
        return prod(self.shape) * ITEM_SIZE[self.dtype]


class Kind(NamedTuple):
    """The kind of an operator: the runtime's name for it, and whether it computes in int8."""

    name: str
    quantized: bool


class Operator(NamedTuple):
    """``layer``: the module's name in the recipe's model; '' the model itself, None unknown."""

    kind: Kind
    layer: str | None


class Call(NamedTuple):
    """One instruction of the program: a delegate's graph, or a kernel outside all delegates.

    ``operators``: in order of execution, each an index into the program's ``kinds`` and one into
    its ``layers`` (None: unknown). Indices keep the manifest small: the device gets a new one with
    every update, and names would be most of it.
    """

    instruction: int
    delegated: bool
    operators: tuple[tuple[int, int | None], ...]


def _is_housekeeping_in_0_1(name: str) -> bool:
    """Whether a kind is housekeeping. For manifests of edgekit 0.1.0, which have no list; all of
    them are for ExecuTorch.
    """
    layouts = ("Convert", "Transpose", "Reshape", "Copy")
    return name in layouts or name.startswith("executorch_prim::")


class LayerCount(Extensible):
    """Delegated operators of a layer ('' the model itself)."""

    layer: str
    quantized: int
    floating: int


class OutsideOperator(Extensible):
    """A kernel outside all delegates, ``count`` times in a layer ('' the model itself)."""

    operator: str
    layer: str
    count: int


class ProgramSummary(Extensible):
    """A program as documents show it, with operators counted by layer, inside and outside
    delegates. ``delegates``: empty although ``layers`` is not: the device's are unknown, and the
    counts are those of the runtime that ran the program on the host.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    delegates: tuple[str, ...]
    libraries: tuple[str, ...]
    planned_bytes: int
    layers: tuple[LayerCount, ...]
    outside: tuple[OutsideOperator, ...]


class Program(Frozen):
    """``delegates``: one name for each delegate's graph; none if the device's are unknown.
    ``planned_bytes``: the size of the arena for inputs, outputs and everything between
    delegates. ``housekeeping``: the names of kinds that only change a tensor's type or layout, or
    serve the runtime. They are not counted as operators of the model.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    delegates: tuple[str, ...]
    kinds: tuple[Kind, ...]
    layers: tuple[str, ...]
    calls: tuple[Call, ...]
    libraries: tuple[str, ...]
    planned_bytes: int
    housekeeping: Omitted[tuple[str, ...] | None] = None

    @model_validator(mode="after")
    def _check_calls(self) -> Self:
        layers = {None, *range(len(self.layers))}
        for call in self.calls:
            for kind, layer in call.operators:
                if not 0 <= kind < len(self.kinds) or layer not in layers:
                    raise ValueError("a call refers to a kind or layer that does not exist")
            if not call.delegated and len(call.operators) != 1:
                raise ValueError("a call of a kernel must have one operator")
        return self

    def operators_of(self, call: Call) -> list[Operator]:
        return [
            Operator(self.kinds[kind], None if layer is None else self.layers[layer])
            for kind, layer in call.operators
        ]

    @property
    def operator_count(self) -> int:
        """Of all calls, housekeeping included."""
        return sum(len(call.operators) for call in self.calls)

    @property
    def quantized_operators(self) -> int:
        return sum(operator.kind.quantized for operator in self._delegated())

    @property
    def float_operators(self) -> int:
        return sum(not operator.kind.quantized for operator in self._delegated())

    @property
    def outside_operators(self) -> int:
        return len(self._outside())

    def summary(self) -> ProgramSummary:
        """An operator of an unknown layer counts as the model's own."""
        layers: dict[str, Counter[bool]] = {}
        for operator in self._delegated():
            layers.setdefault(operator.layer or "", Counter())[operator.kind.quantized] += 1
        outside = Counter(
            (operator.kind.name, operator.layer or "") for operator in self._outside()
        )
        return ProgramSummary(
            inputs=self.inputs,
            outputs=self.outputs,
            delegates=self.delegates,
            libraries=self.libraries,
            planned_bytes=self.planned_bytes,
            layers=tuple(
                LayerCount(layer=layer, quantized=count[True], floating=count[False])
                for layer, count in layers.items()
            ),
            outside=tuple(
                OutsideOperator(operator=operator, layer=layer, count=count)
                for (operator, layer), count in outside.items()
            ),
        )

    def is_housekeeping(self, name: str) -> bool:
        if self.housekeeping is None:
            return _is_housekeeping_in_0_1(name)
        return name in self.housekeeping

    def _delegated(self) -> list[Operator]:
        return [
            operator
            for call in self.calls
            if call.delegated
            for operator in self.operators_of(call)
            if not self.is_housekeeping(operator.kind.name)
        ]

    def _outside(self) -> list[Operator]:
        return [
            operator
            for call in self.calls
            if not call.delegated
            for operator in self.operators_of(call)
            if not self.is_housekeeping(operator.kind.name)
        ]


@dataclass(frozen=True)
class Artifact:
    """The runtime's file and its content."""

    data: bytes
    file_name: str
    program: Program
