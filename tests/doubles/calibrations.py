"""Calibrations that were not measured: times by a rule that tests know."""

from __future__ import annotations

import math
from random import Random

from edgekit.cost.calibration.predict import with_left_out
from edgekit.cost.calibration.record import CalibratedDevice, Calibration, ProgramTimes
from edgekit.cost.shapes import CONVOLUTION, OperatorShape

DEVICE = CalibratedDevice(
    model="Raspberry Pi 4 Model B Rev 1.4",
    processor="Cortex-A72",
    architecture="aarch64",
    cpu="cortex-a72",
    features=("asimd",),
    cores=4,
    clock_ghz=1.8,
    threads=4,
)
COLUMNS, ROWS = 16, 4
BETWEEN_MS = 0.002


def convolution(size: int, channels: int, filters: int, **values) -> OperatorShape:
    """A 3x3 convolution of ``size`` x ``size`` pixels."""
    pixels = size * size
    return OperatorShape(
        **{
            "kind": CONVOLUTION,
            "precision": "fp32",
            "inputs": ((1, size, size, channels),),
            "outputs": ((1, size, size, filters),),
            "kernel": (3, 3),
            "weight_bytes": 36 * channels * filters,
            "activation_bytes": 4 * pixels * (channels + filters),
            "macs": 9 * pixels * channels * filters,
            "delegated": True,
            "layer": None,
            "instruction": 0,
            "index": 0,
        }
        | values
    )


def addition(size: int, channels: int, **values) -> OperatorShape:
    dims = (1, size, size, channels)
    known = {"kind": "add", "inputs": (dims, dims), "outputs": (dims,), "kernel": (1, 1), "macs": 0}
    return convolution(size, channels, channels, **(known | {"weight_bytes": 0} | values))


def latency_ms(shape: OperatorShape) -> float:
    """The rule: a product in tiles of 16 columns and 4 rows, or 1 ns for each element."""
    *_, height, width, channels = shape.outputs[0]
    if not shape.macs:
        return height * width * channels * 1e-6 + 1e-4
    depth = shape.macs / (height * width * channels)
    rows = math.ceil(height * width / ROWS) * ROWS
    return rows * math.ceil(channels / COLUMNS) * COLUMNS * depth * 1e-7 + 1e-3


def network(name: str, threads: int = 1, precision: str = "fp32", count: int = 12) -> ProgramTimes:
    """Convolutions and additions of random shapes, the same for the same name."""
    random, shapes = Random(name), []
    for index in range(count):
        size, outputs = random.choice((8, 12, 17, 24)), random.randint(4, 90)
        place = {"precision": precision, "index": index}
        shapes.append(
            convolution(size, random.randint(4, 90), outputs, **place)
            if index % 3
            else addition(size, outputs, **place)
        )
    times = [latency_ms(shape) / threads for shape in shapes]
    return ProgramTimes(
        network=name,
        precision=precision,
        threads=threads,
        shapes=tuple(shapes),
        operator_ms=tuple(times),
        latency_ms=sum(times) + BETWEEN_MS,
    )


def programs(threads: tuple[int, ...] = (1,)) -> list[ProgramTimes]:
    return [network(f"network{number}", count) for number in range(6) for count in threads]


def calibration(device: CalibratedDevice = DEVICE, threads=(1, 4), **values) -> Calibration:
    known = {
        "edgekit": "0.2.0",
        "device": device,
        "runtime": "executorch",
        "runtime_version": "1.5.1",
        "measured": "2026-11-29T12:00:00+00:00",
        "programs": with_left_out(programs(threads)),
    }
    return Calibration(**known | values)
