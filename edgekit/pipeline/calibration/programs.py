"""The calibration's programs, lowered by the installed runtime and cached."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import nn

from edgekit.cache import content_key, load_stage, store_stage, versions
from edgekit.cost.shapes import OperatorShape
from edgekit.measure.calibration import CalibrationProgram
from edgekit.pipeline.calibration import networks
from edgekit.plan import Plan
from edgekit.program import Artifact, Program
from edgekit.progress import Progress, Silent
from edgekit.recipe.tensors import Inputs
from edgekit.runtimes.base import FloatModel, Runtime
from edgekit.runtimes.export import export
from edgekit.runtimes.quiet import quiet

PRECISIONS = ("fp32", "int8")
# Only for devices that compute in it.
HALF = "fp16"
STAGE = "calibration"
# The folders of edgekit that decide the bytes of a program.
SOURCES = ("pipeline/calibration", "runtimes", "compress")
DESCRIPTION, SHAPES = "program.json", "shapes.json"
CALIBRATION_COUNT = 2


@dataclass(frozen=True)
class Network:
    """``make``: the network, from a generator of random numbers that its name seeds."""

    name: str
    make: Callable[[Random], nn.Module]
    inputs: Callable[[torch.Generator], Inputs]

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make(Random(self.name)).eval()

    def data(self, seed: int) -> Inputs:
        return self.inputs(torch.Generator().manual_seed(seed))


def _images(size: int) -> Callable[[torch.Generator], Inputs]:
    return lambda generator: (torch.randn(1, 3, size, size, generator=generator),)


def _rows(*shape: int) -> Callable[[torch.Generator], Inputs]:
    return lambda generator: (torch.randn(1, *shape, generator=generator),)


def _tokens(length: int) -> Callable[[torch.Generator], Inputs]:
    most = networks.VOCABULARY
    return lambda generator: (torch.randint(0, most, (1, length), generator=generator),)


SWISH: networks.Kinds = (nn.ReLU, nn.Hardswish)
LEAKY: networks.Kinds = (nn.ReLU6, nn.LeakyReLU)

NETWORKS = (
    Network("inverted0", lambda random: networks.inverted(random, 12), _images(128)),
    Network("inverted1", lambda random: networks.inverted(random, 20, SWISH), _images(192)),
    Network("inverted2", lambda random: networks.inverted(random, 24), _images(96)),
    Network("separable0", lambda random: networks.separable(random, 8), _images(192)),
    Network("separable1", lambda random: networks.separable(random, 24, LEAKY), _images(128)),
    Network("residual0", lambda random: networks.residual(random, 8), _images(32)),
    Network("residual1", lambda random: networks.residual(random, 16, True), _images(32)),
    Network("residual2", lambda random: networks.residual(random, 32), _images(28)),
    Network("residual3", lambda random: networks.residual(random, 12, True), _images(24)),
    Network("mixed0", lambda random: networks.mixed(random, 16), _images(96)),
    Network("mixed1", lambda random: networks.mixed(random, 32), _images(128)),
    Network("dense0", lambda random: networks.dense(random, 64, 12, (24, 1600)), _rows(64)),
    Network("dense1", lambda random: networks.dense(random, 800, 12, (24, 1600)), _rows(800)),
    Network("dense2", lambda random: networks.dense(random, 1280, 6, (700, 1600)), _rows(1280)),
    Network("dense3", lambda random: networks.dense(random, 100, 10, (24, 300)), _rows(100)),
    Network("dense4", lambda random: networks.dense(random, 700, 4, (200, 800)), _rows(700)),
    Network("dense5", lambda random: networks.dense(random, 600, 8, (300, 1100)), _rows(600)),
    Network("transformer0", networks.Transformer, _tokens(16)),
    Network("transformer1", networks.Transformer, _tokens(50)),
    Network("transformer2", lambda random: networks.Transformer(random, True), _tokens(96)),
    Network("recurrent0", lambda random: networks.Recurrent(random, 28), _rows(8, 28)),
    Network("recurrent1", lambda random: networks.Recurrent(random, 40), _rows(20, 40)),
)


def calibration_programs(
    runtime: Runtime, progress: Progress, with_half: bool
) -> list[CalibrationProgram]:
    """All programs, from the cache as far as they are there. Raises RuntimeFailure.

    ``with_half``: those in half precision too, if the runtime computes in it.
    """
    precisions = (*PRECISIONS, HALF) if with_half and runtime.half is not None else PRECISIONS
    cases = [(network, precision) for network in NETWORKS for precision in precisions]
    programs = []
    with progress.stage("lowering the calibration's programs") as stage:
        for done, (network, precision) in enumerate(cases):
            stage.show(f"{network.name}, {precision}")
            programs.append(_program(runtime, network, precision))
            stage.advance(done + 1, len(cases))
    return programs


def _program(runtime: Runtime, network: Network, precision: str) -> CalibrationProgram:
    facts = (runtime.name, runtime.version, network.name, precision, *versions(SOURCES))
    key = content_key(fact.encode() for fact in facts)[:40]
    folder = load_stage(STAGE, key)
    if folder is not None:
        return _read(folder, network, precision)
    artifact = _lowered(runtime, network, precision)
    program = CalibrationProgram(
        network.name, precision, artifact, runtime.operator_shapes(artifact) or ()
    )
    store_stage(STAGE, key, lambda draft: _write(draft, program))
    return program


def _lowered(runtime: Runtime, network: Network, precision: str) -> Artifact:
    model, example = network.model(), network.data(1)
    with quiet():
        if precision == "fp32":
            return runtime.lower(export(model, example))
        data = [network.data(2 + number) for number in range(CALIBRATION_COUNT)]
        source = FloatModel(model, example, data, data)
        if precision == HALF and runtime.half is not None:
            return runtime.lower(runtime.half.program(source, Plan(precision=HALF, seed=0)))
        quantized = runtime.quantize(source, Plan(precision="int8", seed=0), None, Silent())
        return quantized if isinstance(quantized, Artifact) else runtime.lower(quantized)


def _write(draft: Path, program: CalibrationProgram) -> None:
    (draft / program.artifact.file_name).write_bytes(program.artifact.data)
    (draft / DESCRIPTION).write_text(program.artifact.program.model_dump_json(), encoding="utf-8")
    shapes = [shape.model_dump(mode="json") for shape in program.shapes]
    (draft / SHAPES).write_text(json.dumps(shapes), encoding="utf-8")


def _read(folder: Path, network: Network, precision: str) -> CalibrationProgram:
    (model,) = folder.glob("model.*")
    program = Program.model_validate_json((folder / DESCRIPTION).read_bytes())
    shapes = tuple(_shapes(folder / SHAPES))
    artifact = Artifact(model.read_bytes(), model.name, program)
    return CalibrationProgram(network.name, precision, artifact, shapes)


def _shapes(path: Path) -> Iterator[OperatorShape]:
    for entry in json.loads(path.read_bytes()):
        yield OperatorShape.model_validate(entry)
