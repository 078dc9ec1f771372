"""What a user can get wrong: one clear message each, exit 1 or 2, no traceback, nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import jsonschema
import pytest
from models import LINEAR

import edgekit
from edgekit.errors import EdgekitError, ExportError, RecipeError

pytestmark = pytest.mark.runtime

INPUTS = "\ndef example_inputs():\n    return (torch.rand(1, 4),)\n"
MODEL = "\ndef model():\n    return nn.Linear(4, 3)\n"
BRANCH = """
class Net(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x * 2
        return x

def model():
    return Net()
"""
ITEM = """
class Net(nn.Module):
    def forward(self, x):
        return x[: int(x.sum().item())]

def model():
    return Net()
"""


def calibration(body: str) -> str:
    return LINEAR + f"\ndef calibration():\n    {body}\n"


def evaluate(body: str) -> str:
    return LINEAR + f"\ndef evaluate(predict):\n    {body}\n"


CASES = {
    "syntax": ("def model(:\n", ["not valid Python", "line 3"]),
    "import": ("import not_there_at_all\n", ["not_there_at_all", "recipe.py:3"]),
    "raises": ("1 / 0\n", ["ZeroDivisionError", "recipe.py:3"]),
    "exits": ("raise SystemExit(3)\n", ["SystemExit"]),
    "no model": (INPUTS, ["does not define model()"]),
    "no inputs": (MODEL, ["does not define example_inputs()"]),
    "not a module": (INPUTS + "\ndef model():\n    return 3\n", ["torch.nn.Module, not int"]),
    "a bare tensor": (
        MODEL + "\ndef example_inputs():\n    return torch.rand(1, 4)\n",
        ["must be a tuple of tensors", "not Tensor"],
    ),
    "not tensors": (MODEL + "\ndef example_inputs():\n    return (1,)\n", ["not input (int)"]),
    "an array": (
        MODEL + "\ndef example_inputs():\n    return (torch.rand(1, 4).numpy(),)\n",
        ["input 'input' is ndarray"],
    ),
    "no inputs at all": (MODEL + "\ndef example_inputs():\n    return ()\n", ["no tensors"]),
    "NaN in the example": (
        MODEL + "\ndef example_inputs():\n    return (torch.full((1, 4), torch.nan),)\n",
        ["input 'input' contains NaN"],
    ),
    "weights missing": (
        INPUTS + "\ndef model():\n    return torch.load('gone.pt', weights_only=True)\n",
        ["gone.pt", "FileNotFoundError", "recipe.py"],
    ),
    "inputs that do not fit": (
        MODEL + "\ndef example_inputs():\n    return (torch.rand(1, 5),)\n",
        ["the model on example_inputs()", "[1, 5]"],
    ),
    "empty calibration": (calibration("return []"), ["calibration() yielded nothing"]),
    "calibration of another shape": (
        calibration("return [(torch.rand(1, 4),), (torch.rand(2, 4),)]"),
        ["calibration() item 1", "[2, 4]", "[1, 4]"],
    ),
    "calibration of another type": (
        calibration("return [(torch.zeros(1, 4, dtype=torch.int64),)]"),
        ["item 0", "int64"],
    ),
    "calibration of another count": (
        calibration("return [(torch.rand(1, 4), torch.rand(1, 4))]"),
        ["has input, input_1, but example_inputs() has input"],
    ),
    "calibration not iterable": (calibration("return 3"), ["not int"]),
    "calibration that raises late": (
        calibration("yield (torch.rand(1, 4),); raise OSError('no disk')"),
        ["calibration()", "no disk"],
    ),
    "evaluate returns nothing": (evaluate("return None"), ["a number, not NoneType"]),
    "evaluate returns NaN": (evaluate("return float('nan')"), ["evaluate() returned nan"]),
    "evaluate raises": (evaluate("raise ValueError('no data')"), ["evaluate()", "no data"]),
    "predict with another shape": (
        evaluate("predict(torch.rand(1, 5))"),
        ["predict: the inputs are float32 [1, 5]", "float32 [1, 4]"],
    ),
    "predict with another type": (
        evaluate("predict(torch.zeros(1, 4, dtype=torch.int64))"),
        ["predict: input 'input' is int64"],
    ),
    "predict with another count": (evaluate("predict()"), ["has nothing", "has input"]),
    "an output that is no tensor": (
        INPUTS
        + "\nclass Net(nn.Module):\n    def forward(self, x):\n        return x, 3\n"
        + "\ndef model():\n    return Net()\n",
        ["output[1] is int"],
    ),
    "NaN weights": (
        INPUTS + "\ndef model():\n    m = nn.Linear(4, 3)\n    nn.init.constant_(m.weight, "
        "float('nan'))\n    return m\n",
        ["weight contains NaN"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_recipe(name, write_recipe, tmp_path) -> None:
    source, parts = CASES[name]
    path = write_recipe(source)
    with pytest.raises(RecipeError) as caught:
        edgekit.build(path, target="x86", output=tmp_path / "out")
    for part in (*parts, "recipe.py" if "predict" not in name else "predict"):
        if part != "recipe.py" or "output" not in name:
            assert part in caught.value.message, caught.value.message
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__") == ["recipe.py"]
    assert "edgekit_recipe" not in sys.modules


@pytest.mark.parametrize(("source", "line"), [(BRANCH, "x.sum() > 0"), (ITEM, "x.sum().item()")])
def test_control_flow_is_refused_with_its_line(write_recipe, tmp_path, source, line) -> None:
    path = write_recipe(source + INPUTS)
    with pytest.raises(ExportError) as caught:
        edgekit.build(path, target="x86", output=tmp_path / "out")
    assert "recipe.py:6" in caught.value.message
    assert line in caught.value.message
    assert "torch.where" in caught.value.hint


OWN = {
    "cond": ("torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x + 1, (x,))", "torch.where"),
    "while_loop": (
        "torch.while_loop(lambda x: x.sum() < 10, lambda x: (x + 1,), (x,))[0]",
        "fixed number of steps",
    ),
    "scan": ("ops.scan(lambda c, y: (c + y, c * 2), torch.zeros(4), x.repeat(4, 1))[1]", "unbind"),
    "map": ("ops.map(lambda y: y * 2, x.repeat(4, 1))", "unbind"),
}


@pytest.mark.parametrize(
    ("name", "form"), [*((name, "recipe") for name in OWN), ("cond", "program")]
)
def test_control_flow_of_torch_itself_is_refused(write_recipe, tmp_path, name, form) -> None:
    """Before anything is evaluated: such operators cannot be lowered with layers inside them."""
    line, instead = OWN[name]
    body = f"import torch._higher_order_ops as ops\n\n{BRANCH}".replace(
        "if x.sum() > 0:", "if True:"
    )
    path = write_recipe(body.replace("return x * 2", f"return {line}") + INPUTS)
    if form == "program":
        path = exported(path)
    with pytest.raises(ExportError) as caught:
        edgekit.build(path, target="x86", output=tmp_path / "out")
    assert f"in {'torch.' if name in ('cond', 'while_loop') else ''}{name}" in caught.value.message
    assert f"return {line}" in caught.value.message
    assert instead in caught.value.hint


def exported(path):
    """The recipe's model as a program beside it."""
    import torch

    from edgekit.runtimes.quiet import quiet

    names: dict[str, object] = {}
    exec(compile(path.read_text(), str(path), "exec"), names)
    torch._dynamo.reset()  # it skips functions that ran beside an operator mode
    with quiet():
        made = torch.export.export(names["model"]().eval(), names["example_inputs"]())
    torch.export.save(made, path.with_suffix(".pt2"))
    return path.with_suffix(".pt2")


def test_no_recipe(edgekit_command) -> None:
    done = edgekit_command("build", "--target", "x86")
    assert done.returncode == 1
    assert "there is no recipe recipe.py" in done.stderr
    assert "edgekit init" in done.stderr
    assert "Traceback" not in done.stderr


def test_errors_as_json(edgekit_command, tmp_path) -> None:
    schema = json.loads((edgekit_schema()).read_text())
    (tmp_path / "recipe.py").write_text("print('noise on stdout')\nimport not_there_at_all\n")
    for arguments, code, kind in [
        (["build", "--target", "x86"], 1, "RecipeError"),
        (["build", "--target", "nowhere"], 1, "TargetError"),
        (["build"], 2, "UsageError"),
        (["build", "--size-mb", "0"], 2, "UsageError"),
        (["build", "--target", "x86", "--precision", "int4"], 2, "UsageError"),
        (["build", "--target", "x86", "--device", "ssh://127.0.0.1:9"], 4, "DeviceError"),
        (["build", "--target", "rpi4", "--device", "local"], 1, "TargetError"),
        (["check", "nowhere"], 1, "BundleError"),
        (["bench", "nowhere", "local"], 1, "BundleError"),
        (["check"], 2, "UsageError"),
        (["deploy", "nowhere", "local"], 1, "BundleError"),
        (["ls", "ssh://127.0.0.1:9"], 4, "DeviceError"),
        (["ls", "-x"], 2, "UsageError"),
        (["fit", "x", "y"], 2, "UsageError"),
    ]:
        done = edgekit_command(*arguments, "--json")
        assert done.returncode == code, (arguments, done.stderr)
        document = json.loads(done.stdout)
        jsonschema.validate(document, schema)
        assert document["error"] == kind
        assert document["message"]
        assert "Traceback" not in done.stderr


def test_a_missing_extra_names_its_command(write_recipe, tmp_path, monkeypatch) -> None:
    from importlib.metadata import PackageNotFoundError

    from edgekit.runtimes import base

    def gone(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(base, "installed_version", gone)
    with pytest.raises(edgekit.MissingExtraError) as caught:
        edgekit.build(
            write_recipe(LINEAR), target="x86", runtime="executorch", output=tmp_path / "out"
        )
    assert "edgekit doctor" in caught.value.hint


def test_an_output_that_is_no_bundle(edgekit_command, tmp_path) -> None:
    (tmp_path / "recipe.py").write_text("import torch\nfrom torch import nn\n" + LINEAR)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    done = edgekit_command("build", "--target", "x86", "--output", "out")
    assert done.returncode == 1
    assert "thesis.txt" in done.stderr
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_a_full_disk(write_recipe, tmp_path, monkeypatch) -> None:
    from edgekit.pipeline import package

    def full(source, target, **_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(package.shutil, "copyfile", full)
    with pytest.raises(edgekit.OutputError, match="disk is full"):
        edgekit.build(write_recipe(LINEAR), target="x86", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_changed_byte_is_named_by_check_and_refused_by_bench(bundle, edgekit_command) -> None:
    data = bytearray((bundle / "model.pte").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "model.pte").write_bytes(data)
    for arguments in (["check", str(bundle)], ["bench", str(bundle), "local"]):
        done = edgekit_command(*arguments)
        assert done.returncode == 1
        assert "model.pte was changed" in done.stderr


def test_a_runner_that_lost_its_right_to_run(bundle) -> None:
    """A copy through a zip or a memory card loses modes: the device gives them back."""
    (bundle / "runner").chmod(0o644)
    assert edgekit.bench(bundle, runs=3).verdict == "fits"


def test_bench_times_out(digits_bundle) -> None:
    with pytest.raises(EdgekitError, match="took longer"):
        edgekit.bench(digits_bundle, runs=1_000_000, timeout_s=1)


@pytest.mark.parametrize(
    ("wait_for", "how"),
    [
        ("starting", signal.SIGINT),
        ("calibrating", signal.SIGINT),
        ("lowering", signal.SIGINT),
        ("lowering", signal.SIGTERM),
        ("packaging", signal.SIGINT),
    ],
)
def test_an_interrupted_build_leaves_nothing(tmp_path, fresh_cache, wait_for, how) -> None:
    from conftest import DIGITS

    command = [sys.executable, "-m", "edgekit", "build", str(DIGITS), "--target", "x86"]
    process = subprocess.Popen(
        [*command, "--output", str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    for line in process.stderr:
        if wait_for in line:
            break
    if wait_for != "packaging":
        time.sleep(0.3)
    process.send_signal(how)
    rest = process.stderr.read()
    process.wait(timeout=60)
    process.stderr.close()
    assert process.returncode == 130
    assert "Traceback" not in rest
    left = {path.name for path in tmp_path.iterdir()}
    assert {name for name in left if not name.startswith("torchinductor")} == set()


def edgekit_schema():
    from conftest import ROOT

    return ROOT / "edgekit" / "schemas" / "contract.schema.json"
