"""A .tflite with several signatures: the chosen one is built, measured, and named."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import edgekit
from edgekit.bundle.manifest import read_manifest
from edgekit.errors import RecipeError, RuntimeFailure, UsageError
from edgekit.measure.golden import golden_inputs
from edgekit.runtimes.litert.edits.signatures import select
from edgekit.runtimes.litert.flatbuffer import read_graph
from edgekit.runtimes.litert.lower import _converter
from edgekit.runtimes.quiet import quiet
from edgekit.runtimes.registry import RUNTIMES

pytestmark = [
    pytest.mark.runtime,
    pytest.mark.skipif(find_spec("litert_torch") is None, reason="needs the extra litert"),
]


class Classify(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.stem(image)).mean((2, 3)))


class Embed(torch.nn.Module):
    """Another operator, constants of its own, and shared ones; two inputs and outputs."""

    def __init__(self, classify: Classify) -> None:
        super().__init__()
        self.classify, self.wide = classify, torch.nn.Linear(5, 4000)

    def forward(self, image: torch.Tensor, shift: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scores = self.classify(image)
        return torch.tanh(self.wide(scores)), scores + shift


IMAGE, SHIFT = torch.zeros(1, 3, 16, 16), torch.zeros(1, 5)


@pytest.fixture(scope="module")
def models() -> dict[str, tuple[torch.nn.Module, tuple[torch.Tensor, ...]]]:
    torch.manual_seed(0)
    classify = Classify().eval()
    return {"classify": (classify, (IMAGE,)), "embed": (Embed(classify).eval(), (IMAGE, SHIFT))}


def convert(path: Path, models) -> Path:
    with quiet():
        converter = _converter().Converter()
        for name, (model, example) in models.items():
            converter.signature(name, model, example)
        converter.convert().export(str(path))
    return path


@pytest.fixture(scope="module")
def two(models, tmp_path_factory) -> Path:
    return convert(tmp_path_factory.mktemp("two") / "two.tflite", models)


def arrays(blobs: list[bytes]) -> list[np.ndarray]:
    return [np.frombuffer(blob, np.float32) for blob in blobs]


@pytest.mark.parametrize("name", ["classify", "embed"])
def test_the_bundle_computes_what_the_chosen_signature_does(name, two, models, tmp_path) -> None:
    document = edgekit.build(two, target="x86", signature=name, output=tmp_path / "bundle")
    manifest = read_manifest(tmp_path / "bundle")
    model, example = models[name]
    assert [one.shape for one in manifest.program.inputs] == [tuple(one.shape) for one in example]
    assert [one.name for one in manifest.program.inputs] == [
        f"args_{n}" for n in range(len(example))
    ]
    given = arrays(golden_inputs(tmp_path / "bundle", manifest))
    with torch.no_grad():
        wanted = model(
            *(torch.tensor(one).reshape(e.shape) for one, e in zip(given, example, strict=True))
        )
    for n, tensor in enumerate(wanted if isinstance(wanted, tuple) else (wanted,)):
        found = np.frombuffer((tmp_path / f"bundle/golden/output_{n}.bin").read_bytes(), np.float32)
        np.testing.assert_allclose(found, tensor.numpy().ravel(), rtol=1e-4, atol=1e-5)
    assert name in document.ladder[0].reason


def test_what_only_another_signature_uses_is_not_in_the_bundle(two) -> None:
    small = select(two.read_bytes(), "classify").data
    large = select(two.read_bytes(), "embed").data
    assert len(small) < 10_000 < 80_000 < len(large)
    assert select(small, None).data is small  # one is left: nothing to choose


def test_bench_measures_the_chosen_signature(two) -> None:
    measured = {n: edgekit.bench(two, "local", runs=5, signature=n) for n in ("classify", "embed")}
    kinds = {name: {row.name for row in one.per_op} for name, one in measured.items()}
    assert any("tanh" in one.lower() for one in kinds["embed"])
    assert not any("tanh" in one.lower() for one in kinds["classify"])


def test_an_unknown_signature_is_an_error_with_the_nearest_name(two, tmp_path) -> None:
    with pytest.raises(RecipeError, match="embed") as caught:
        edgekit.build(two, target="x86", signature="embeds", output=tmp_path / "bundle")
    assert {"classify", "embed"} <= set(caught.value.hint.replace(",", " ").split())
    assert not (tmp_path / "bundle").exists()


def test_several_without_a_default_need_a_choice(two, tmp_path) -> None:
    with pytest.raises(RecipeError) as caught:
        edgekit.bench(two, "local")
    assert all(name in caught.value.hint for name in ("--signature", "classify", "embed"))


def test_the_default_signature_is_built_and_reported(models, tmp_path) -> None:
    named = {"classify": models["classify"], "serving_default": models["embed"]}
    file = convert(tmp_path / "model.tflite", named)
    document = edgekit.build(file, target="x86", output=tmp_path / "bundle")
    assert len(read_manifest(tmp_path / "bundle").program.inputs) == 2
    assert "serving_default" in document.ladder[0].reason


def test_a_bundle_takes_no_signature(two, tmp_path) -> None:
    edgekit.build(two, target="x86", signature="embed", output=tmp_path / "bundle")
    with pytest.raises(UsageError):
        edgekit.bench(tmp_path / "bundle", "local", signature="embed")


def test_tflite_runtime_gets_the_chosen_graph_first(two) -> None:
    from ai_edge_litert import schema_py_generated as schema

    runtime = RUNTIMES["tflite"].create()
    data = runtime.read(runtime.select(two.read_bytes(), "embed").data).data
    graph = read_graph(data)
    model = schema.Model.GetRootAs(data, 0)
    assert model.SubgraphsLength() == 1
    assert list(model.Subgraphs(0).InputsAsNumpy()) == list(graph.inputs)
    assert list(model.Subgraphs(0).OutputsAsNumpy()) == list(graph.outputs)


def test_a_truncated_file_ends_in_an_error(two) -> None:
    data = two.read_bytes()
    for size in range(4, len(data), len(data) // 40):
        with pytest.raises(RuntimeFailure):
            RUNTIMES["litert"].create().select(data[:size], "embed")
