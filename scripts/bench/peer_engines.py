"""Other engines for CPUs: prepares a recipe's model for them, and times one. It runs in their
environments (runtimes.py, which makes them), so it imports nothing of edgekit.

python peer_engines.py prepare RECIPE FOLDER     ONNX, quantized by each engine's own tool
python peer_engines.py time ENGINE PRECISION THREADS SECONDS FOLDER     the median, in ms
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

MOST_RUNS, WARMUP, CALIBRATION = 5000, 3, 64
# What an engine's tool cannot do is written here, and told in place of a latency.
PROBLEMS = "problems.json"


def main() -> None:
    if sys.argv[1] == "prepare":
        prepare(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        engine, precision, threads, seconds, folder = sys.argv[2:]
        run = ENGINES[engine](Path(folder), precision, int(threads))
        print(1000 * median_s(run, float(seconds)))


def median_s(run: Callable[[], object], seconds: float) -> float:
    for _ in range(WARMUP):
        run()
    taken: list[float] = []
    start = time.perf_counter()
    while len(taken) < MOST_RUNS and (time.perf_counter() - start < seconds or len(taken) < 5):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def recipe_of(path: Path) -> Any:
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location("recipe", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prepare(path: Path, folder: Path) -> None:
    """The float model as ONNX, and each engine's int8; inputs for the timing."""
    import torch

    recipe = recipe_of(path)
    model, example = recipe.model().eval(), tuple(recipe.example_inputs())
    names = [f"input_{number}" for number in range(len(example))]
    np.savez(folder / "inputs.npz", **{n: x.numpy() for n, x in zip(names, example, strict=True)})
    with torch.no_grad():
        torch.onnx.export(
            model, example, str(folder / "fp32.onnx"), input_names=names, dynamo=True,
            external_data=False,
        )  # fmt: skip
    given = getattr(recipe, "calibration", lambda: [example])
    data = [
        dict(zip(names, (x.numpy() for x in one), strict=True))
        for one, _ in zip(given(), range(CALIBRATION), strict=False)
    ]
    problems = {}
    for name, tool in {"onnxruntime": for_onnxruntime, "openvino": for_openvino}.items():
        try:
            tool(folder, data)
        except Exception as error:  # any tool, any error
            problems[f"{name} int8"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    try:
        for_ncnn(folder, model, example)
    except Exception as error:
        problems["ncnn fp32"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    (folder / PROBLEMS).write_text(json.dumps(problems))


def for_onnxruntime(folder: Path, data: list[dict[str, np.ndarray]]) -> None:
    """QDQ, as its documentation advises for CPUs: static, int8 by channel, after its own
    preparation of the graph.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._next: Iterator[dict[str, np.ndarray]] = iter(data)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._next, None)

    prepared = folder / "prepared.onnx"
    shape_inference.quant_pre_process(str(folder / "fp32.onnx"), str(prepared))
    quantization.quantize_static(
        str(prepared), str(folder / "int8.onnx"), Reader(),
        quant_format=quantization.QuantFormat.QDQ, per_channel=True,
        activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
    )  # fmt: skip


def for_openvino(folder: Path, data: list[dict[str, np.ndarray]]) -> None:
    import nncf
    import openvino

    model = openvino.convert_model(str(folder / "fp32.onnx"))
    openvino.save_model(model, str(folder / "fp32.xml"), compress_to_fp16=False)
    quantized = nncf.quantize(model, nncf.Dataset(data), subset_size=len(data))
    openvino.save_model(quantized, str(folder / "int8.xml"), compress_to_fp16=False)


def for_ncnn(folder: Path, model: Any, example: tuple[Any, ...]) -> None:
    """By pnnx, from TorchScript. Its int8 has another calibration tool; it is not compared."""
    import torch

    script = folder / "ncnn.pt"
    with torch.no_grad():
        torch.jit.trace(model, example).save(str(script))
    shapes = ",".join(str(list(one.shape)).replace(" ", "") for one in example)
    pnnx = Path(sys.executable).with_name("pnnx")
    command = [str(pnnx), str(script), f"inputshape={shapes}", "fp16=0"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=600)
    if not (folder / "ncnn.ncnn.param").is_file():
        raise RuntimeError("pnnx wrote no file for ncnn")


def inputs_of(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "inputs.npz") as file:
        return {name: file[name] for name in file.files}


def onnxruntime(folder: Path, precision: str, threads: int) -> Callable[[], object]:
    import onnxruntime as engine

    options = engine.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    path = str(folder / f"{precision}.onnx")
    session = engine.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = inputs_of(folder)
    return lambda: session.run(None, inputs)


def openvino(folder: Path, precision: str, threads: int) -> Callable[[], object]:
    import openvino as engine

    settings = {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }  # fmt: skip
    compiled = engine.Core().compile_model(str(folder / f"{precision}.xml"), "CPU", settings)
    request, inputs = compiled.create_infer_request(), list(inputs_of(folder).values())
    return lambda: request.infer(inputs, share_inputs=True, share_outputs=True)


def ncnn(folder: Path, precision: str, threads: int) -> Callable[[], object]:
    import ncnn as engine

    assert precision == "fp32"
    net = engine.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    net.load_param(str(folder / "ncnn.ncnn.param"))
    net.load_model(str(folder / "ncnn.ncnn.bin"))
    given = [engine.Mat(value[0]).clone() for value in inputs_of(folder).values()]
    names, outputs = net.input_names(), net.output_names()

    def run() -> list[object]:
        extractor = net.create_extractor()
        for name, value in zip(names, given, strict=True):
            extractor.input(name, value)
        return [extractor.extract(name) for name in outputs]

    return run


def torch(folder: Path, precision: str, threads: int) -> Callable[[], object]:
    import torch as engine

    assert precision == "fp32"
    engine.set_num_threads(threads)
    recipe = recipe_of(Path((folder / "recipe.txt").read_text()))
    model, example = recipe.model().eval(), recipe.example_inputs()

    def run() -> object:
        with engine.inference_mode():
            return model(*example)

    return run


def tflite(folder: Path, precision: str, threads: int) -> Callable[[], object]:
    """tflite-runtime with the file that edgekit built for LiteRT."""
    from tflite_runtime.interpreter import Interpreter

    engine = Interpreter(str(folder / f"{precision}.tflite"), num_threads=threads)
    engine.allocate_tensors()
    for detail in engine.get_input_details():
        engine.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
    return engine.invoke


ENGINES = {
    "onnxruntime": onnxruntime, "openvino": openvino, "ncnn": ncnn, "torch": torch,
    "tflite": tflite,
}  # fmt: skip

if __name__ == "__main__":
    main()
