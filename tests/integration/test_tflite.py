"""tflite-runtime: the builds, and the device's runner in an environment of its own on this host."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from old_python import SUPPORTED, VERSION, old_environment, path_with
from runner_frames import HEADER, frame, frames
from runtime_contract import Many, RuntimeContract, lowered, perceptron, quantized

import edgekit
from edgekit.bundle.manifest import read_manifest
from edgekit.errors import MissingExtraError, PreflightError, RuntimeFailure, TargetError
from edgekit.plan import Plan
from edgekit.progress import Silent
from edgekit.runner.client import MISSING_KERNEL, Serving, measure
from edgekit.runner.files import RunnerFiles
from edgekit.runner.staging import staged
from edgekit.runtimes.base import Runtime
from edgekit.runtimes.litert.edits.corrections import edited
from edgekit.runtimes.registry import RUNTIMES, choose_runtime
from edgekit.runtimes.tflite.operators import NEWEST, has_operator
from edgekit.target import host_architecture, load_target

pytestmark = [
    pytest.mark.runtime,
    pytest.mark.skipif(find_spec("litert_torch") is None, reason="needs the extra litert"),
]
needs_old_python = pytest.mark.skipif(
    VERSION not in SUPPORTED, reason=f"tflite-runtime has no wheel for Python {VERSION}"
)
INPUT = bytes(16 * 4)


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return RUNTIMES["tflite"].create()


def files_here(runtime: Runtime) -> RunnerFiles:
    """The runner of a device like this host, with this Python."""
    target = load_target("x86").replaced(
        architecture=host_architecture(), runtimes=("tflite",), pythons=(VERSION,)
    )
    return runtime.device_files(target, Silent())


@pytest.fixture
def old_python(monkeypatch) -> None:
    """``python3`` has NumPy 1, and no tflite_runtime."""
    monkeypatch.setenv("PATH", path_with(old_environment()))
    monkeypatch.delenv("PYTHONPATH", raising=False)


class TestTFLiteOnThisHost(RuntimeContract):
    """Artifacts run here by LiteRT's runner."""

    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls) -> Runtime:
        return RUNTIMES["tflite"].create()


@needs_old_python
@pytest.mark.usefixtures("old_python")
class TestTheDevicesRunner(RuntimeContract):
    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls) -> Runtime:
        return RUNTIMES["tflite"].create()

    def files(self, runtime: Runtime) -> RunnerFiles:
        return files_here(runtime)

    def test_each_row_of_a_profile_has_an_operator(self, runtime, here, artifact) -> None:
        """tflite-runtime's Python has no profile."""
        report = measure(here, runs=3, warmup=1, threads=1, profile=True)
        assert report.profile == ()
        assert report.software["tflite_runtime"] == "2.14.0"
        assert len(report.latencies_ms) == 3


# ---- the device's runner: as test_runner.py has it for the native ones ----


@pytest.fixture(scope="module")
def folder(runtime) -> Path:
    with staged(lowered(runtime, perceptron()), files_here(runtime)) as here:
        yield Path(here.runner).parent


@pytest.fixture
def run(folder, old_python):
    def call(*options, **more) -> subprocess.CompletedProcess[bytes]:
        command = [str(folder / "runner"), *map(str, options)]
        return subprocess.run(command, capture_output=True, check=False, timeout=60, **more)

    return call


@pytest.fixture
def model(folder) -> Path:
    return folder / "model.tflite"


@needs_old_python
def test_document_and_outputs(run, model, folder, tmp_path) -> None:
    (tmp_path / "in").write_bytes(INPUT)
    before = sorted(folder.rglob("*"))
    done = run("--model", model, "--input", tmp_path / "in", "--output", tmp_path / "out",
               "--runs", 7, "--warmup", 1, "--threads", 2)  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert done.stderr == b""
    assert (document["schema"], document["runtime"]) == ("edgekit.runner/1", "tflite")
    assert document["threads"] == 2
    assert len(document["latencies_ns"]) == 7
    assert document["inputs"] == [{"dtype": "float32", "shape": [1, 16], "bytes": 64}]
    assert len((tmp_path / "out").read_bytes()) == 40
    assert document["peak_memory_kb"] >= document["rss_loaded_kb"] > 1000
    assert document["peak_swap_kb"] >= 0
    assert sorted(folder.rglob("*")) == before  # a release's files are listed: no bytecode


@needs_old_python
@pytest.mark.parametrize(
    ("options", "code", "part"),
    [
        ([], 2, "--model FILE is missing"),
        (["--model"], 2, "no value"),
        (["--model", "M", "--runs", "many"], 2, "--runs"),
        (["--model", "M", "--threads", "0"], 2, "--threads"),
        (["--model", "M", "--threads", "1000"], 2, "--threads"),
        (["--model", "M", "--nonsense", "1"], 2, "--nonsense"),
        (["--model", "M", "--runs", "0", "--output", "o"], 2, "at least one run"),
        (["--model", "M", "--output", "a", "--output", "b"], 2, "1 outputs; 2"),
        (["--model", "/nowhere/model.tflite"], 8, "/nowhere/model.tflite"),
        (["--model", "M", "--input", "/nowhere"], 8, "/nowhere"),
        (["--model", "M", "--input", "M"], 6, "the input takes 64"),
        (["--model", "M", "--input", "I", "--input", "I"], 6, "takes 1 inputs; 2"),
        (["--model", "M", "--output", "/nowhere/out"], 8, "/nowhere/out"),
        (["--model", "I"], 3, "not a LiteRT model"),
    ],
)
def test_exit_codes(run, model, tmp_path, options, code, part) -> None:
    (tmp_path / "input").write_bytes(INPUT)
    names = {"M": str(model), "I": str(tmp_path / "input")}
    done = run(*[names.get(option, option) for option in options])
    assert done.returncode == code
    assert done.stdout == b""
    assert done.stderr.startswith(b"edgekit-runner: ")
    assert done.stderr.count(b"\n") == 1
    assert part in done.stderr.decode()


@needs_old_python
def test_help_and_version(run) -> None:
    assert run("--version").stdout == b"edgekit.runner/1 tflite\n"
    assert b"--serve" in run("--help").stdout


@needs_old_python
def test_damaged_programs_give_no_answer(run, model, tmp_path) -> None:
    """tflite-runtime does not verify a file: for most it ends the process."""
    whole = model.read_bytes()
    for size in (0, 4, 100, len(whole) // 2):
        (tmp_path / "damaged").write_bytes(whole[:size])
        done = run("--model", tmp_path / "damaged", "--runs", 1)
        assert done.returncode < 0 or done.stderr.startswith(b"edgekit-runner: ")
        assert done.returncode != 0
        assert done.stdout == b""


@needs_old_python
def test_serving_many_and_the_end(run, model) -> None:
    requests = frame(1, INPUT) * 3 + frame(3) + frame(0) + frame(1, INPUT)
    done = run("--model", model, "--serve", input=requests)
    answers = frames(done.stdout)
    assert done.returncode == 0
    assert [kind for kind, _ in answers] == [100, 101, 101, 101, 103]
    assert len({payload[8:] for kind, payload in answers if kind == 101}) == 1
    assert json.loads(answers[0][1])["outputs"][0]["shape"] == [1, 10]


@needs_old_python
def test_serving_refuses_a_request_and_goes_on(run, model) -> None:
    requests = frame(1, b"short") + frame(9, b"?") + frame(1, INPUT)
    done = run("--model", model, "--serve", input=requests)
    kinds = frames(done.stdout)
    assert [kind for kind, _ in kinds] == [100, 102, 102, 101]
    assert json.loads(kinds[1][1]) == {
        "code": 6,
        "message": "the request has 5 bytes, but the inputs take 64",
    }
    assert done.returncode == 0


@needs_old_python
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\n", 2),
        (HEADER.pack(b"EKF1", 1, 1 << 50), 2),
        (b"EKF1", 8),
        (frame(1, INPUT)[:-1], 8),
        (b"", 0),
    ],
)
def test_serving_ends_on_a_broken_stream(run, model, data, code) -> None:
    assert run("--model", model, "--serve", input=data).returncode == code


@needs_old_python
def test_a_python_that_does_not_fit(folder, model, tmp_path) -> None:
    """One without NumPy; one whose NumPy is too new: this test's own."""
    env = {**os.environ, "PATH": "/usr/bin:/bin"}
    command = [str(Path(os.sys.executable)), str(folder / "runner"), "--model", str(model)]
    done = subprocess.run(command, capture_output=True, check=False, env=env)
    assert done.returncode == 3
    assert b"numpy" in done.stderr
    assert done.stderr.count(b"\n") == 1


# ---- builds ----


def test_a_build_for_a_32_bit_board(write_recipe, tmp_path) -> None:
    recipe = write_recipe(
        """
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)).eval()

def example_inputs():
    return (torch.zeros(1, 3, 8, 8),)

def calibration():
    torch.manual_seed(1)
    return [(torch.randn(1, 3, 8, 8),) for _ in range(40)]
"""
    )
    document = edgekit.build(
        recipe, target="rpi3-32", precision="int8", output=tmp_path / "bundle", memory_mb=100.0
    )
    assert document.runtime == "tflite"
    assert document.parity.passed
    lines = {line.name: line for line in document.budgets}
    for name in ("latency_ms", "peak_memory_mb"):
        assert lines[name].value is None  # what runs here is another runner
    assert lines["peak_memory_mb"].status == "unknown"
    manifest = read_manifest(tmp_path / "bundle")
    assert manifest.program.delegates == document.program.delegates == ()
    assert manifest.needs.pythons == ("3.9", "3.11")
    assert manifest.needs.architecture == "armv7l"
    assert manifest.needs.glibc == "2.27"
    paths = {file.path for file in manifest.files}
    assert {f"lib/{abi}/tflite_runtime/interpreter.py" for abi in ("cp39", "cp311")} <= paths
    assert (tmp_path / "bundle" / "runner").read_text().startswith("#!/usr/bin/env python3\n")
    with pytest.raises(PreflightError, match="armv7l"):
        edgekit.bench(tmp_path / "bundle", "local")


@pytest.mark.parametrize("name", ["executorch", "litert"])
def test_other_runtimes_do_not_run_on_32_bits(name) -> None:
    target = load_target("rpi3-32")
    with pytest.raises(TargetError):
        choose_runtime(name, target)
    with pytest.raises((TargetError, MissingExtraError), match="armv7l"):
        choose_runtime(None, target.replaced(runtimes=(name,)))


def test_dynamic_int8_is_refused(runtime) -> None:
    source = perceptron()
    with pytest.raises(RuntimeFailure, match="dynamic"):
        runtime.quantize(source, Plan(precision="int8", linear="dynamic"), None, Silent())


@pytest.mark.parametrize("bits", [4, 8])
def test_a_finished_file_that_is_known_to_go_wrong(runtime, bits) -> None:
    """Weights in 4 bits end the process, int8 weights with float inputs give wrong outputs."""
    from ai_edge_quantizer import quantizer, recipe

    data = lowered(RUNTIMES["litert"].create(), perceptron()).data
    made = recipe.dynamic_wi8_afp32() if bits == 8 else recipe.dynamic_wi4_afp32()
    rounded = bytes(quantizer.Quantizer(bytearray(data), made).quantize().quantized_model)
    with pytest.raises(RuntimeFailure, match="int4" if bits == 4 else "dynamic int8"):
        runtime.read(rounded)


# ---- operators that are newer than 2.14 ----


def renumbered(data: bytes, version: int) -> bytes:
    """The file with another version of its first operator."""

    def change(model) -> bool:
        model.operatorCodes[0].version = version
        return True

    return edited(data, change)


def test_an_operator_that_is_too_new(runtime) -> None:
    """LiteRT, which runs the file on this host, has it."""
    newer = NEWEST["FULLY_CONNECTED"] + 1
    data = renumbered(lowered(runtime, perceptron()).data, newer)
    assert RUNTIMES["litert"].create().read(data)
    with pytest.raises(RuntimeFailure, match=f"FULLY_CONNECTED {newer}"):
        runtime.read(data)


@needs_old_python
def test_an_operator_that_is_too_new_for_the_device(run, model, tmp_path) -> None:
    (tmp_path / "newer").write_bytes(renumbered(model.read_bytes(), 99))
    done = run("--model", tmp_path / "newer")
    assert done.returncode == MISSING_KERNEL
    assert b"tflite_runtime 2.14.0" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert done.stdout == b""


def files_with_one_operator(folder: Path) -> dict[str, bool]:
    """A file for each operator's newest version and the next one -> whether we say it is there."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    files = {}
    for kind, number in vars(schema.BuiltinOperator).items():
        if not isinstance(number, int) or kind in NO_BUILTIN:
            continue
        newest = NEWEST.get(kind, 1)
        for version in (newest, newest + 1):
            code = schema.OperatorCodeT()
            code.builtinCode, code.version = number, version
            code.deprecatedBuiltinCode = min(number, 127)
            graph = schema.SubGraphT()
            graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []
            model = schema.ModelT()
            model.version, model.operatorCodes = 3, [code]
            model.subgraphs, model.buffers = [graph], [schema.BufferT()]
            name = f"{kind} {version}"
            data = flatbuffer_utils.convert_object_to_bytearray(model)
            (folder / name).write_bytes(bytes(data))
            files[name] = has_operator(kind, version)
    return files


@needs_old_python
@pytest.mark.usefixtures("old_python")
def test_the_wheel_has_the_operators_that_we_say(runtime, tmp_path) -> None:
    files = files_with_one_operator(tmp_path)
    wheel = next(path for name, path in files_here(runtime).libraries.items() if "interp" in name)
    done = subprocess.run(
        ["python3", "-c", ASK, str(wheel.parent.parent), str(tmp_path)],
        capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    assert set(done.stdout.decode().splitlines()) == {name for name, has in files.items() if has}


# Prints the files that tflite-runtime finds the operator of.
ASK = """
import os, sys
sys.path.insert(0, sys.argv[1])
from tflite_runtime.interpreter import Interpreter
for name in os.listdir(sys.argv[2]):
    try:
        Interpreter(os.path.join(sys.argv[2], name))
    except ValueError:
        continue
    print(name)
"""
# Names for other numbers; and one that is refused as control flow.
NO_BUILTIN = ("CUSTOM", "PLACEHOLDER_FOR_GREATER_OP_CODES", "CALL")


def test_inputs_keep_their_order_on_the_device(runtime, request) -> None:
    """tflite-runtime goes by the graph's inputs, LiteRT by the signature's."""
    if VERSION not in SUPPORTED:
        pytest.skip("tflite-runtime has no wheel for this Python")
    request.getfixturevalue("old_python")

    torch.manual_seed(0)
    inputs = tuple(torch.randn(1, 4) for _ in range(12))
    artifact = lowered(runtime, replace(perceptron(), model=Many().eval(), example=inputs))
    with staged(artifact, files_here(runtime)) as place, Serving(place) as serving:
        answers = serving.infer([tensor.numpy().tobytes() for tensor in inputs])
    for answer, wanted in zip(answers, Many()(*inputs), strict=True):
        found = np.frombuffer(answer, np.float32).reshape(wanted.shape)
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5)


def test_a_finished_file_goes_to_the_targets_runtime(runtime, tmp_path) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(quantized(runtime, perceptron()).data)
    document = edgekit.build(file, target="rpi-zero2w-32", output=tmp_path / "bundle")
    assert document.runtime == "tflite"
    assert (tmp_path / "bundle" / "model.tflite").read_bytes() == file.read_bytes()
