"""Program: what a runtime's file holds, in terms that every runtime shares."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

ITEM_SIZE = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1,
}  # fmt: skip


class Quantization(BaseModel):
    """Affine, per tensor: real = scale * (stored - zero_point)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: float
    zero_point: int
    dtype: str = "int8"


class TensorSpec(BaseModel):
    """One input or output at the program's boundary; always C order there.

    ``quantization`` tells the steps of the values where the model quantizes them inside,
    though the boundary itself stays in ``dtype``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dtype: str
    shape: tuple[int, ...]
    quantization: Quantization | None = None

    @property
    def byte_count(self) -> int:
        return prod(self.shape) * ITEM_SIZE[self.dtype]


class LayerOperators(NamedTuple):
    """How many operators inside the delegate one layer became, by the type they compute in.

    A tuple, which JSON has as a list: a manifest goes to the device with every new weight, and
    most of it would be the names of these fields.
    """

    layer: str
    quantized: int
    floating: int


class OutsideOperator(BaseModel):
    """An operator that no delegate took: it runs on the runtime's slow portable kernels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    operator: str
    layer: str
    count: int


class Program(BaseModel):
    """``planned_bytes``: the arena for inputs, outputs and everything between delegates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    delegates: tuple[str, ...]
    layers: tuple[LayerOperators, ...]
    outside: tuple[OutsideOperator, ...]
    libraries: tuple[str, ...]
    planned_bytes: int

    @property
    def quantized_operators(self) -> int:
        return sum(layer.quantized for layer in self.layers)

    @property
    def float_operators(self) -> int:
        return sum(layer.floating for layer in self.layers)

    @property
    def outside_operators(self) -> int:
        return sum(operator.count for operator in self.outside)
