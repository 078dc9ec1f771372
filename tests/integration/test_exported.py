"""Without a recipe: programs that torch.export.save wrote elsewhere, and finished .pte files."""

from __future__ import annotations

import io
import json
import pickle
import zipfile

import pytest
from conftest import documented, run_edgekit

import edgekit
from edgekit.errors import RecipeError, SettingError

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
    assert [spec.name for spec in document.program.inputs] == ["image", "ids"]
    assert [spec.name for spec in document.program.outputs] == ["scores", "pooled.0"]
    assert document.parity.passed
    assert "body.0" in {row.layer for row in document.program.layers}


@pytest.mark.parametrize("name", ["free", "nested"])
def test_a_free_batch_and_nested_inputs(made, build, name) -> None:
    document = build(made / f"{name}.pt2")
    assert document.parity.passed
    assert document.plan.precision == "fp32"
    assert "no calibration data" in document.ladder[0].reason
    if name == "free":
        assert document.program.inputs[0].shape == (2, 3, 12, 12)


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


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_version, "exported by torch 2.4.0 in version 5 of the format; torch .* reads version"),
        (call_system, "'torch.os.system', which is not an operator"),
        (hide_call, "'_operator.methodcaller', which is not an operator"),
    ],
)
def test_another_version_or_another_call_is_refused(made, build, tmp_path, edit, message) -> None:
    path = tmp_path / "made.pt2"
    rewritten(made / "plain.pt2", path, in_graph(edit))
    with pytest.raises(RecipeError, match=message):
        build(path)


def opened(path):
    """Read the program and run it once, as a build does."""
    from edgekit.exported.program import open_program

    recipe = open_program(path, 0)
    inputs = recipe.example_inputs()
    return recipe.model()(*inputs)


def renamed(graph, old: str, new: str) -> None:
    """Another name for a value, wherever it stands."""
    text = json.dumps(graph).replace(json.dumps(old), json.dumps(new))
    graph.clear()
    graph.update(json.loads(text))


def bits(keep, valid, ids):
    """Python's operators on tensors: each keeps a name of its own in the program."""
    mixed = ((ids & 3) ^ 2) << 1
    mixed |= 5
    mixed >>= 1
    return keep & valid | ~keep ^ valid, mixed + (6 >> ids) + (ids.__iand__(6))


def batched(keep, valid, ids):
    import torch

    return torch.vmap(lambda a, b: torch.vmap(torch.logical_and)(a, b))(keep, valid)


def regions(keep, valid, ids):
    import torch

    with torch.no_grad():
        x = ids * 2.0
    with torch.autocast("cpu", enabled=False):
        y = torch.sin(x)
    return torch.cond(keep.any(), lambda t: t * 2, lambda t: t + 1, (y,))


@pytest.mark.parametrize("forward", [bits, batched, regions])
def test_what_torch_writes_is_taken(tmp_path, forward) -> None:
    import torch

    class Net(torch.nn.Module):
        def forward(self, keep, valid, ids):
            return forward(keep, valid, ids)

    inputs = (torch.ones(1, 6).bool(), torch.arange(6)[None] > 2, torch.arange(6)[None])
    expected = torch.utils._pytree.tree_leaves(Net()(*(x.clone() for x in inputs)))
    torch.export.save(torch.export.export(Net().eval(), inputs), tmp_path / "made.pt2")
    found = torch.utils._pytree.tree_leaves(opened(tmp_path / "made.pt2"))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def expression(graph, text: str) -> None:
    graph["graph_module"]["graph"]["sym_int_values"]["s"] = {"as_expr": {"expr_str": text}}
    for meta in graph["graph_module"]["graph"]["tensor_values"].values():
        meta["sizes"][:1] = [{"as_expr": {"expr_str": text}}]


def extra_call(graph, target: str, *arguments, **keywords) -> None:
    given = [{"name": "", "arg": value, "kind": 1} for value in arguments]
    given += [{"name": name, "arg": value, "kind": 2} for name, value in keywords.items()]
    node = {"target": target, "inputs": given, "outputs": [], "metadata": {}, "name": "more"}
    graph["graph_module"]["graph"]["nodes"].insert(0, node)


def tree(graph, kind: str, context) -> None:
    spec = {"type": kind, "context": context, "children_spec": []}
    signature = graph["graph_module"]["module_call_graph"][0]["signature"]
    text = json.dumps([1, spec]).replace("default_factory_module", "default_factory_m\\u006fdule")
    signature["in_spec"] = text


WRAP = "torch.ops.higher_order.wrap_with_set_grad_enabled"
PREDISPATCH = "torch._functorch.predispatch"
FACTORY = {"default_factory_module": "evil_module", "default_factory_name": "D", "dict_context": []}
ENUM = json.dumps({"__enum__": 1, "fqn": "evil_module:D", "name": "a"})
ATTACKS = {
    "input": (lambda g, code: renamed(g, "image", f"image={code}"), "not a plain identifier"),
    "node": (
        lambda g, code: renamed(g, "conv2d", f"a = {code} ; conv2d"),
        "not a plain identifier",
    ),
    "newline": (
        lambda g, code: renamed(g, "conv2d", f"conv2d\n    {code}"),
        "not a plain identifier",
    ),
    "parameter": (
        lambda g, code: renamed(g, "head.weight", f'head.w" + str({code}) + "eight'),
        "not a plain identifier",
    ),
    "keyword": (
        lambda g, code: extra_call(g, WRAP, **{f"a={code}, b": {"as_bool": True}}),
        "not a plain identifier",
    ),
    "subgraph": (
        lambda g, code: extra_call(
            g, WRAP, {"as_graph": {"name": code, "graph": {"inputs": [], "nodes": []}}}
        ),
        "not a plain identifier",
    ),
    "operator": (
        lambda g, _: extra_call(
            g, WRAP, {"as_operator": "torch.os.system"}, {"as_string": "touch trace"}
        ),
        "'torch.os.system', which is not an operator",
    ),
    "wrap": (
        lambda g, _: extra_call(g, "torch.ops.higher_order.wrap", {"as_string": "touch trace"}),
        "not an operator",
    ),
    "save": (
        lambda g, _: extra_call(g, "torch.ops.aten.save.default", filename={"as_string": "trace"}),
        "not an operator",
    ),
    "file": (
        lambda g, _: extra_call(
            g, "torch.ops.aten.from_file.default", filename={"as_string": "trace"}
        ),
        "not an operator",
    ),
    "memory": (
        lambda g, _: extra_call(g, "torch.ops.inductor._reinterpret_tensor.default"),
        "not an operator",
    ),
    "dunder": (lambda g, _: extra_call(g, "torch.ops.aten.__class__.mro"), "not an operator"),
    "method": (lambda g, _: extra_call(g, "torch.ops.aten.add.__call__"), "not an operator"),
    "opened": (
        lambda g, _: extra_call(
            g, f"{PREDISPATCH}._vmap_increment_nesting", {"as_int": 2}, {"as_string": "error"}
        ),
        "a level of vmap",
    ),
    "closed": (lambda g, _: extra_call(g, f"{PREDISPATCH}._vmap_decrement_nesting"), "of vmap"),
    "inner": (lambda g, _: extra_call(g, f"{PREDISPATCH}._enter_dual_level"), "not an operator"),
    "extension": (lambda g, _: extra_call(g, "#evil:run"), "not an operator"),
    "factorial": (
        lambda g, _: extra_call(g, "math.factorial", {"as_int": 10**9}),
        "not an operator",
    ),
    "power": (
        lambda g, _: extra_call(g, "_operator.pow", {"as_int": 9}, {"as_int": 9**9}),
        "grow without bound",
    ),
    "shift": (
        lambda g, _: extra_call(g, "_operator.lshift", {"as_int": 9}, {"as_int": 9**9}),
        "grow without bound",
    ),
    "expression": (expression, "not simple arithmetic"),
    "list": (lambda g, code: expression(g, [code]), "does not match torch's format"),
    "tower": (lambda g, _: expression(g, "9**9**9**9"), "not simple arithmetic"),
    "powers": (
        lambda g, _: expression(g, "Pow(Pow(Symbol('s0'), Integer(64)), Integer(64))"),
        "not simple arithmetic",
    ),
    "factorials": (lambda g, _: expression(g, "99999999!"), "not simple arithmetic"),
    "digits": (lambda g, _: expression(g, "9" * 9000), "not simple arithmetic"),
    "attribute": (lambda g, _: expression(g, "s0.__class__"), "not simple arithmetic"),
    "symbol": (lambda g, code: expression(g, f"Symbol({code!r})"), "not simple arithmetic"),
    "factory": (lambda g, _: tree(g, "collections.defaultdict", FACTORY), "not plain tuples"),
    "enum": (lambda g, _: tree(g, "builtins.dict", ENUM), "not plain tuples"),
    "nesting": (
        lambda g, _: expression(g, "(" * 3000 + "1" + ")" * 3000),
        "not simple arithmetic|malformed",
    ),
    "integer": (lambda g, _: extra_call(g, "math.ceil", {"as_int": 10**30}), "torch's format"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_code_and_endless_arithmetic_are_refused(made, tmp_path, monkeypatch, name) -> None:
    edit, message = ATTACKS[name]
    trace, path = tmp_path / "trace", tmp_path / "made.pt2"
    (tmp_path / "evil_module.py").write_text(f"open({str(trace)!r}, 'w')\nclass D: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    code = f"__import__('pathlib').Path({str(trace)!r}).touch()"
    rewritten(made / "plain.pt2", path, in_graph(lambda graph: edit(graph, code)))
    with pytest.raises(RecipeError, match=message) as caught:
        opened(path)
    assert "made.pt2" in str(caught.value)
    assert not trace.exists()


def test_guards_are_not_run(made, tmp_path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "made.pt2"

    def edit(graph) -> None:
        graph["guards_code"] = [f"__import__('pathlib').Path({str(trace)!r}).touch()"]

    rewritten(made / "plain.pt2", path, in_graph(edit))
    opened(path)
    assert not trace.exists()


ADDED = {
    "beside": ("plain/models/a/b.json", "holds 2 programs"),
    "suffix": ("plain/models/z.JSON", "holds 2 programs"),
    "case": ("plain/models/MODEL.json", "the same name"),
    "twice": ("plain/models/model.json", "the same name"),
    "root": ("other/models/model.json", "not in one folder"),
    "above": ("plain/../models/model.json", "does not write"),
    "compiled": ("plain/data/aotinductor/model/model.so", "compiled code"),
    "object": ("plain/data/constants/opaque_obj_0", "pickled object"),
    "unknown": ("plain/data/weights/a/weight_0", "does not write"),
    "old": ("serialized_exported_program.json", "torch 2.7 or older, in another layout"),
}


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("name", ADDED)
def test_entries_that_torch_does_not_write_are_refused(made, tmp_path, name, first) -> None:
    path, (entry, message) = tmp_path / "made.pt2", ADDED[name]
    with zipfile.ZipFile(made / "plain.pt2") as old, zipfile.ZipFile(path, "w") as new:
        entries = [(each, old.read(each)) for each in old.namelist()]
        entries.insert(0 if first else len(entries), (entry, old.read("plain/models/model.json")))
        for each, data in entries:
            if each in new.namelist():
                with pytest.warns(UserWarning, match="Duplicate name"):
                    new.writestr(each, data)
            else:
                new.writestr(each, data)
    with pytest.raises(RecipeError, match=message) as caught:
        opened(path)
    assert "made.pt2" in str(caught.value)


@pytest.mark.parametrize("config", ["weights", "constants"])
def test_a_pickle_among_the_tensors_is_refused(made, tmp_path, config) -> None:
    trace, path = tmp_path / "trace", tmp_path / "made.pt2"

    def change(name: str, data: bytes) -> bytes:
        if name.endswith(f"{config}_config.json"):
            stored = {"path_name": "weight_0", "is_param": True, "use_pickle": True}
            return json.dumps({"config": {"c": stored | {"tensor_meta": None}}}).encode()
        return pickle.dumps(Touch(trace)) if name.endswith("weight_0") else data

    rewritten(made / "plain.pt2", path, change)
    with pytest.raises(RecipeError, match="pickled object"):
        opened(path)
    assert not trace.exists()


def damage_signature(graph) -> None:
    graph["graph_module"]["signature"]["input_specs"].pop()


def damage_names(graph) -> None:
    renamed(graph, "image", "self")


def damage_stored(graph) -> None:
    graph["graph_module"]["graph"]["nodes"] = 3


@pytest.mark.parametrize("edit", [damage_signature, damage_names, damage_stored])
def test_a_graph_that_does_not_fit_together_is_refused(made, tmp_path, edit) -> None:
    path = tmp_path / "made.pt2"
    rewritten(made / "plain.pt2", path, in_graph(edit))
    with pytest.raises(RecipeError, match=r"made\.pt2"):
        opened(path)


def honest():
    """Programs that use much of the format: (forward, inputs, keywords, dynamic shapes)."""
    import torch
    from torch.nn import functional

    auto, free = torch.export.Dim.AUTO, torch.export.Dim("h", min=4, max=64)
    image, rows = torch.rand(1, 3, 8, 8), torch.rand(5, 8)

    def regions(x):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            return x @ x.transpose(-1, -2)

    def branch(x):
        return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))

    def words(ids, mask=None, flags=()):
        return {"out": ids * mask, "all": [ids.float(), (mask,)]}

    sizes = {2: free, 3: torch.export.Dim("w", min=4, max=64)}
    return {
        "twice": (lambda x: functional.interpolate(x, scale_factor=2.0), (image,), {}, sizes),
        "half": (
            lambda x: functional.interpolate(x, scale_factor=1.5, mode="bilinear"),
            (image,), {}, sizes,
        ),
        "root": (lambda x: x * x.shape[0] ** 0.5, (rows,), {}, {0: free}),
        "range": (lambda x: torch.arange(0, x.shape[1], 0.5), (rows,), {}, {1: auto}),
        "pad": (lambda x: functional.pad(x, (0, max(0, 16 - x.shape[1]))), (rows,), {}, {1: auto}),
        "shift": (lambda x: x[:, : x.shape[1] >> 1], (rows,), {}, {1: auto}),
        "mask": (lambda x: x[x > 0.5], (rows,), {}, None),
        "branch": (branch, (rows,), {}, None),
        "regions": (regions, (rows,), {}, None),
        "infinite": (lambda x: x.masked_fill(x > 0.5, float("-inf")), (rows,), {}, None),
        "words": (words, (rows.long(),), {"mask": rows.long(), "flags": (rows,)}, None),
    }  # fmt: skip


HONEST = (
    "twice half root range pad shift mask branch regions infinite words".split()  # noqa: SIM905
)


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_are_read(tmp_path, name) -> None:
    import torch

    forward, inputs, keywords, shapes = honest()[name]

    class Model(torch.nn.Module):
        pass

    Model.forward = staticmethod(forward)
    dynamic = None if shapes is None else (shapes,)
    program = torch.export.export(Model().eval(), inputs, keywords, dynamic_shapes=dynamic)
    path = tmp_path / f"{name}.pt2"
    torch.export.save(program, path)
    leaves = torch.utils._pytree.tree_leaves
    for found, expected in zip(
        leaves(opened(path)), leaves(forward(*inputs, **keywords)), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_a_quantized_program_is_read(tmp_path) -> None:
    import torch

    from edgekit.runtimes.quiet import quiet

    with quiet():  # importing them warns
        from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    inputs = (torch.rand(2, 4),)
    quantizer = xnnpack.XNNPACKQuantizer().set_global(
        xnnpack.get_symmetric_quantization_config(is_per_channel=True)
    )
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()).eval()
    prepared = prepare_pt2e(torch.export.export(model, inputs).module(), quantizer)
    prepared(*inputs)
    program = torch.export.export(convert_pt2e(prepared), inputs)
    torch.export.save(program, tmp_path / "int8.pt2")
    assert any("quantized_decomposed" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(opened(tmp_path / "int8.pt2"), program.module()(*inputs))


def test_an_output_class_is_read_as_a_dict(made, tmp_path) -> None:
    """What a transformers model returns: a class that this process does not know."""
    path = tmp_path / "made.pt2"

    def edit(graph) -> None:
        signature = graph["graph_module"]["module_call_graph"][0]["signature"]
        signature["out_spec"] = signature["out_spec"].replace(
            "builtins.dict", "transformers.modeling_outputs.BaseModelOutput"
        )

    rewritten(made / "plain.pt2", path, in_graph(edit))
    assert list(opened(path)) == ["scores", "pooled"]


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
        ({"picture": (2, 3, 12, 12)}, "picture, but the model's inputs are image"),
        ({"image": (12, 3, 8, 8)}, r"image is float32 \[12, 3, 8, 8\], but the model takes"),
        ({"first": (2, 3, 12, 12), "second": (2, 1)}, "first, second, but the model's"),
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
    with pytest.raises(RecipeError, match=r"data\.npz is not a complete \.npz file"):
        build(made / "plain.pt2", calibration=path, precision="int8")
    path.write_bytes((made / "plain.npz").read_bytes()[:1000])
    with pytest.raises(RecipeError, match=r"data\.npz is not a complete"):
        build(made / "plain.pt2", calibration=path, precision="int8")
    np.savez(path, image=np.full((4, 3, 12, 12), np.nan, np.float32))
    with pytest.raises(RecipeError, match=r"data\.npz: input 0: input '.*' contains NaN"):
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
    assert document.plan.precision == "as_is"
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
    with pytest.raises(SettingError, match="packaged as it is"):
        build(file, precision="int8")
    done = run_edgekit("build", str(file), "--target", "x86", "--calibration", "x.npz")
    assert done.returncode == 1
    broken = tmp_path / "broken.pte"
    broken.write_bytes(file.read_bytes()[:900])
    with pytest.raises(RecipeError, match=r"broken\.pte does not run on this host"):
        build(broken)
    with pytest.raises(RecipeError, match="there is no finished program"):
        build(tmp_path / "none.pte")


def test_files_that_are_no_model(build, tmp_path) -> None:
    for name in ("weights.pth", "net.onnx"):
        with pytest.raises(RecipeError, match="is not a recipe") as caught:
            build(tmp_path / name)
        assert "edgekit init" in caught.value.hint
    (tmp_path / "net.pt2").write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(RecipeError, match=r"net\.pt2 is not a complete exported program"):
        build(tmp_path / "net.pt2")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_program_converted_from_torchscript_with_batch_norm_builds(build, tmp_path) -> None:
    """What torch notes of its inputs used to contradict itself when it was lowered, and several
    outputs come as a list of its own.
    """
    import torch
    from torch import nn
    from torch._export.converter import TS2EPConverter

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.second, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)
            self.register_buffer("mean", torch.rand(1, 3, 1, 1))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = torch.relu(self.norm(self.first(x - self.mean)))
            y = y + torch.relu(self.second(y))
            return self.head(y.mean((2, 3), keepdim=True).flatten(1)), y

    image = torch.rand(1, 3, 12, 12)
    traced = torch.jit.trace(Residual().eval(), image)
    torch.export.save(TS2EPConverter(traced, (image,)).convert(), tmp_path / "converted.pt2")
    assert build(tmp_path / "converted.pt2").parity.passed
