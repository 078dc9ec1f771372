"""Program: what a runtime's file holds, in terms that every runtime shares."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from edgekit.frozen import Extensible, Frozen

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
    """How far one step of the last int8 tensors moves an element of an output whose last operators
    are float, at most: of the ``whole`` output, and of each index of an axis (``groups``).
    """

    whole: float
    groups: dict[int, tuple[float, ...]] = Field(default_factory=dict)


class TensorSpec(Frozen):
    """One input or output at the program's boundary; always C order there.

    ``quantization`` tells the steps of the values where the model quantizes them inside,
    though the boundary itself stays in ``dtype``; ``moved`` stands there where float operators
    come last, and has no key otherwise, as before there was one.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    quantization: Quantization | None = None
    moved: MovedBySteps | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        return {key: value for key, value in data.items() if key != "moved" or value is not None}

    @property
    def byte_count(self) -> int:
        return prod(self.shape) * ITEM_SIZE[self.dtype]


class Kind(NamedTuple):
    """What an operator computes, by the runtime's name; ``quantized``: in int8."""

    name: str
    quantized: bool


class Operator(NamedTuple):
    """``layer`` is the module's name in the recipe's model, '' the model itself, None not known."""

    kind: Kind
    layer: str | None


class Call(NamedTuple):
    """One instruction of the program: a delegate's graph, or a kernel that no delegate took.

    ``operators`` are in order of execution, each a place in the program's ``kinds`` and one in
    its ``layers`` (None: not known). Tuples and places, because a manifest goes to the device
    with every new weight, and most of it would be names.
    """

    instruction: int
    delegated: bool
    operators: tuple[tuple[int, int | None], ...]


def _is_housekeeping_in_0_1(name: str) -> bool:
    """Manifests of edgekit 0.1.0 do not list it; they are all of ExecuTorch."""
    layouts = ("Convert", "Transpose", "Reshape", "Copy")
    return name in layouts or name.startswith("executorch_prim::")


class LayerCount(Extensible):
    """Delegated operators of a layer ('' the model itself)."""

    layer: str
    quantized: int
    floating: int


class OutsideOperator(Extensible):
    """A kernel that no delegate took, ``count`` times in a layer ('' the model itself)."""

    operator: str
    layer: str
    count: int


class ProgramSummary(Extensible):
    """A program as documents show it: operators counted by layer, those outside apart."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    delegates: tuple[str, ...]
    libraries: tuple[str, ...]
    planned_bytes: int
    layers: tuple[LayerCount, ...]
    outside: tuple[OutsideOperator, ...]


class Program(Frozen):
    """``planned_bytes``: the arena for inputs, outputs and everything between delegates.
    ``housekeeping``: the names of kinds that only change a tensor's type or layout, or serve the
    runtime; they are not counted as operators of the model.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    delegates: tuple[str, ...]
    kinds: tuple[Kind, ...]
    layers: tuple[str, ...]
    calls: tuple[Call, ...]
    libraries: tuple[str, ...]
    planned_bytes: int
    housekeeping: tuple[str, ...] | None = None

    @model_serializer(mode="wrap")
    def _without_what_0_1_lacks(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = serialize(self)
        return {k: v for k, v in data.items() if k != "housekeeping" or v is not None}

    @model_validator(mode="after")
    def _calls_refer_to_what_is_there(self) -> Self:
        layers = {None, *range(len(self.layers))}
        for call in self.calls:
            for kind, layer in call.operators:
                if not 0 <= kind < len(self.kinds) or layer not in layers:
                    raise ValueError("a call refers to a kind or layer that is not there")
            if not call.delegated and len(call.operators) != 1:
                raise ValueError("a kernel's call has one operator")
        return self

    def operators_of(self, call: Call) -> list[Operator]:
        return [
            Operator(self.kinds[kind], None if layer is None else self.layers[layer])
            for kind, layer in call.operators
        ]

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

    def _is_housekeeping(self, name: str) -> bool:
        if self.housekeeping is None:
            return _is_housekeeping_in_0_1(name)
        return name in self.housekeeping

    def _delegated(self) -> list[Operator]:
        return [
            operator
            for call in self.calls
            if call.delegated
            for operator in self.operators_of(call)
            if not self._is_housekeeping(operator.kind.name)
        ]

    def _outside(self) -> list[Operator]:
        return [
            operator
            for call in self.calls
            if not call.delegated
            for operator in self.operators_of(call)
            if not self._is_housekeeping(operator.kind.name)
        ]


@dataclass(frozen=True)
class Artifact:
    """The runtime's file, and what is in it."""

    data: bytes
    file_name: str
    program: Program
