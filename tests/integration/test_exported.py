"""Without a recipe: programs that torch.export.save wrote elsewhere, and finished .pte files."""

from __future__ import annotations

import io
import json
import pickle
import zipfile

import pytest
from conftest import documented, run_edgekit

import edgekit
from edgekit.errors import RecipeError, UsageError

pytestmark = pytest.mark.runtime


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with programs, exported as people do: arguments, keywords, a dict, a free batch."""
    import numpy as np
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
            self.head = nn.Linear(8, 4)
            self.words = nn.Embedding(10, 4)

        def forward(self, image, ids=None, scaled=True):
            x = self.body(image).mean((2, 3), keepdim=True).flatten(1)
            scores = self.head(x)
            if ids is not None:
                scores = scores + self.words(ids).sum(1)
            return {"scores": scores * (0.5 if scaled else 1.0), "pooled": (x,)}

    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(4, 4)

        def forward(self, batch):
            return self.mix(batch["x"]) + batch["y"][0]

    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    net, image = Net().eval(), torch.rand(1, 3, 12, 12)
    ids = torch.arange(5)[None]
    batch = {"image": {0: torch.export.Dim("batch", min=1, max=16)}}
    programs = {
        "plain": torch.export.export(net, (image,)),
        "keywords": torch.export.export(net, (image,), {"ids": ids, "scaled": False}),
        "free": torch.export.export(net, (torch.rand(2, 3, 12, 12),), dynamic_shapes=batch),
        "nested": torch.export.export(
            Nested().eval(), ({"x": torch.rand(1, 4), "y": [torch.rand(1, 4)]},)
        ),
        "training": torch.export.export(net.train(), (image,)),
    }
    for name, program in programs.items():
        torch.export.save(program, folder / f"{name}.pt2")
    images = np.random.default_rng(0).random((12, 3, 12, 12), dtype=np.float32)
    np.savez(folder / "plain.npz", images)
    np.savez(folder / "keywords.npz", ids=np.ones((12, 1, 5), np.int32), image=images[:, None])
    return folder


@pytest.fixture
def build(tmp_path):
    def run(source, **options):
        options.setdefault("output", tmp_path / "out")
        return edgekit.build(source, target=options.pop("target", "x86"), **options)

    return run


def test_a_program_with_calibration_becomes_int8(made, tmp_path) -> None:
    command = ["build", str(made / "plain.pt2"), "--calibration", str(made / "plain.npz")]
    document = documented(
        *command, "--target", "x86", "--precision", "int8", "--output", str(tmp_path / "out")
    )
    assert document["plan"]["precision"] == "int8"
    assert document["parity"]["passed"]
    assert document["parity"]["compared"] == 9
    assert document["accuracy"] == {"fp32": None, "artifact": None}
    layers = {row["layer"]: row["quantized"] for row in document["program"]["layers"]}
    assert layers["body.0"] >= 1  # the exported model's own names
    assert layers["head"] >= 1
    assert [spec["name"] for spec in document["program"]["inputs"]] == ["image"]
    assert edgekit.bench(tmp_path / "out", runs=3).parity.passed


def test_keywords_and_constants_become_a_flat_list_of_inputs(made, build) -> None:
    document = build(made / "keywords.pt2", calibration=made / "keywords.npz", precision="int8")
    assert [spec["name"] for spec in document.program["inputs"]] == ["image", "ids"]
    assert [spec["name"] for spec in document.program["outputs"]] == ["scores", "pooled.0"]
    assert document.parity.passed
    assert "body.0" in {row["layer"] for row in document.program["layers"]}


@pytest.mark.parametrize("name", ["free", "nested"])
def test_a_free_batch_and_nested_inputs(made, build, name) -> None:
    document = build(made / f"{name}.pt2")
    assert document.parity.passed
    assert document.plan["precision"] == "fp32"
    assert "no calibration data" in document.ladder[0].reason
    if name == "free":
        assert document.program["inputs"][0]["shape"] == [2, 3, 12, 12]


def test_the_same_program_again_is_taken_from_the_cache(made, build, monkeypatch) -> None:
    from edgekit.runtimes.executorch import lower

    build(made / "nested.pt2")
    monkeypatch.setattr(lower, "lower", lambda exported: pytest.fail("lowered again"))
    build(made / "nested.pt2")


def test_a_program_exported_for_training_is_refused(made, build) -> None:
    with pytest.raises(RecipeError, match="exported for training: its batch_norm") as caught:
        build(made / "training.pt2")
    assert "model.eval()" in caught.value.hint


def rewritten(source, target, change) -> None:
    """Copy an archive, each entry as ``change(name, data)`` gives it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))


def in_graph(edit):
    """A change of the program's JSON alone."""

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("/models/model.json"):
            return data
        graph = json.loads(data)
        edit(graph)
        return json.dumps(graph).encode()

    return change


def set_version(graph) -> None:
    graph["schema_version"]["major"] = 5
    graph["torch_version"] = "2.4.0"


def call_system(graph) -> None:
    graph["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.system"


def hide_call(graph) -> None:
    graph["graph_module"]["graph"]["nodes"][0]["target"] = "_operator.methodcaller"


def evaluate_text(graph) -> None:
    graph["guards"] = [{"as_expr": {"expr_str": "__import__('os').system('true')"}}]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_version, "exported by torch 2.4.0 in version 5 of the format; torch .* reads version"),
        (call_system, "'torch.os.system', which is no operator"),
        (hide_call, "'_operator.methodcaller', which is no operator"),
        (evaluate_text, "no arithmetic"),
    ],
)
def test_another_version_or_code_is_refused(made, build, tmp_path, edit, message) -> None:
    path = tmp_path / "made.pt2"
    rewritten(made / "plain.pt2", path, in_graph(edit))
    with pytest.raises(RecipeError, match=message):
        build(path)


class Touch:
    """Unpickling it would leave a file behind."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_nothing_is_unpickled(made, build, tmp_path) -> None:
    import torch

    trace, path = tmp_path / "trace", tmp_path / "made.pt2"
    saved = io.BytesIO()
    torch.save((Touch(trace),), saved)

    def change(name: str, data: bytes) -> bytes:
        if name.endswith("constants_config.json"):
            constant = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True}
            return json.dumps({"config": {"c": constant | {"tensor_meta": None}}}).encode()
        return saved.getvalue() if "sample_inputs" in name else data

    rewritten(made / "plain.pt2", path, change)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("plain/data/constants/opaque_obj_0", pickle.dumps(Touch(trace)))
    with pytest.raises(RecipeError, match="pickled object"):
        build(path)
    rewritten(
        made / "plain.pt2", path, lambda n, d: saved.getvalue() if "sample_inputs" in n else d
    )
    with pytest.raises(RecipeError, match="cannot read"):
        build(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": (12, 3, 8, 8)}, r"image is float32 \[12, 3, 8, 8\], but the model wants"),
        ({"first": (2, 3, 12, 12), "second": (2, 1)}, "holds first, second, but the model's"),
        ({"image": (0, 3, 12, 12)}, "its arrays are empty"),
    ],
)
def test_calibration_that_does_not_fit(made, build, tmp_path, arrays, message) -> None:
    import numpy as np

    path = tmp_path / "data.npz"
    np.savez(path, **{name: np.zeros(shape, np.float32) for name, shape in arrays.items()})
    with pytest.raises(RecipeError, match=message):
        build(made / "plain.pt2", calibration=path, precision="int8")


def test_calibration_files_that_are_none(made, build, tmp_path) -> None:
    import numpy as np

    path = tmp_path / "data.npz"
    np.savez(path, image=np.array([{"an": "object"}], dtype=object))
    with pytest.raises(RecipeError, match=r"data\.npz is no whole \.npz file of plain numbers"):
        build(made / "plain.pt2", calibration=path, precision="int8")
    path.write_bytes((made / "plain.npz").read_bytes()[:1000])
    with pytest.raises(RecipeError, match=r"data\.npz is no whole"):
        build(made / "plain.pt2", calibration=path, precision="int8")
    np.savez(path, image=np.full((4, 3, 12, 12), np.nan, np.float32))
    with pytest.raises(RecipeError, match=r"data\.npz: input 0: element 0 holds NaN"):
        build(made / "plain.pt2", calibration=path, precision="int8")
    with pytest.raises(RecipeError, match="there is no calibration file"):
        build(made / "plain.pt2", calibration=tmp_path / "none.npz", precision="int8")


def test_a_recipe_takes_calibration_from_a_file(write_recipe, build, tmp_path) -> None:
    import numpy as np

    recipe = write_recipe(
        "def model():\n    return nn.Linear(4, 3)\n\n"
        "def example_inputs():\n    return (torch.rand(1, 4),)\n"
    )
    np.savez(tmp_path / "data.npz", np.random.rand(9, 4))
    assert build(recipe, calibration=tmp_path / "data.npz", precision="int8").parity.passed


@pytest.mark.parametrize("target", ["x86", "rpi4"])
def test_a_finished_file_is_packaged_as_it_is(digits_bundle, build, tmp_path, target) -> None:
    document = build(digits_bundle / "model.pte", target=target, name="digits")
    assert (document.parity, document.accuracy.artifact) == (None, None)
    assert document.plan["precision"] == "as_is"
    assert document.verdict == "fits"
    assert (tmp_path / "out" / "model.pte").read_bytes() == (
        digits_bundle / "model.pte"
    ).read_bytes()
    assert edgekit.check(tmp_path / "out").verdict == "fits"
    if target == "x86":
        assert edgekit.bench(tmp_path / "out", runs=3).parity.passed


def test_a_finished_file_is_benchmarked_as_it_is(digits_bundle) -> None:
    file = digits_bundle / "model.pte"
    document = documented("bench", str(file), "local", "--runs", "5")
    assert document["bundle"] == str(file)
    assert document["parity"] is None
    assert document["verdict"] == "fits"
    assert document["latency_ms"]["median"] > 0


def test_what_a_finished_file_cannot_have(digits_bundle, build, tmp_path) -> None:
    file = digits_bundle / "model.pte"
    with pytest.raises(UsageError, match="packaged as it is"):
        build(file, precision="int8")
    done = run_edgekit("build", str(file), "--target", "x86", "--calibration", "x.npz")
    assert done.returncode == 2
    broken = tmp_path / "broken.pte"
    broken.write_bytes(file.read_bytes()[:900])
    with pytest.raises(RecipeError, match=r"broken\.pte does not run on this host"):
        build(broken)
    with pytest.raises(RecipeError, match="there is no finished program"):
        build(tmp_path / "none.pte")


def test_files_that_are_no_model(build, tmp_path) -> None:
    for name in ("weights.pth", "net.onnx", "net.tflite"):
        with pytest.raises(RecipeError, match="is not a recipe") as caught:
            build(tmp_path / name)
        assert "edgekit init" in caught.value.hint
    (tmp_path / "net.pt2").write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(RecipeError, match=r"net\.pt2 is no whole exported program"):
        build(tmp_path / "net.pt2")
