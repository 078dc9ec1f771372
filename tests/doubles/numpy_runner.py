"""A runner for the runtime double (numpy_runtime.py) that speaks docs/runner.md.

It is run as a program of its own, by a first line that numpy_runtime.py puts before it.
"""

from __future__ import annotations

import argparse
import json
import resource
import struct
import sys
import time
import zipfile
from pathlib import Path

import numpy as np

HEADER = struct.Struct("<4sIQ")
BAD_ARGUMENTS, BAD_PROGRAM, INPUT_DOES_NOT_FIT, FILE_ERROR = 2, 3, 6, 8


class Failure(Exception):  # noqa: N818 - it is no error of Python
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Model:
    def __init__(self, path: Path) -> None:
        start = time.perf_counter_ns()
        try:
            with np.load(path, allow_pickle=False) as file:
                self.arrays = {name: file[name] for name in file.files}
            self.program = json.loads(str(self.arrays["program"]))
        except OSError as error:
            raise Failure(FILE_ERROR, str(error)) from error
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise Failure(BAD_PROGRAM, f"not a program: {error}") from error
        self.load_ns = time.perf_counter_ns() - start

    def run(self, data: bytes, times_ns: list[list[int]] | None = None) -> bytes:
        given = self.program["inputs"][0]
        if len(data) != given["bytes"]:
            raise Failure(INPUT_DOES_NOT_FIT, f"{len(data)} bytes, not {given['bytes']}")
        value = np.frombuffer(data, np.float32).reshape(given["shape"])
        times = []
        for step in self.program["steps"]:
            start = time.perf_counter_ns()
            if step["kind"] == "linear":
                weight = self.arrays[step["weight"]].astype(np.float32) * step["scale"]
                value = value @ weight.T + self.arrays[step["bias"]]
            else:
                value = np.maximum(value, 0)
            times.append(time.perf_counter_ns() - start)
        if times_ns is not None:
            times_ns.append(times)
        return value.astype(np.float32).tobytes()

    def document(self, latencies_ns: list[int]) -> dict:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "schema": "edgekit.runner/1", "runtime": "numpy", "threads": 1,
            "load_ns": self.load_ns, "cpu_ns": int((usage.ru_utime + usage.ru_stime) * 1e9),
            "planned_bytes": 0, "peak_memory_kb": usage.ru_maxrss,
            "rss_loaded_kb": usage.ru_maxrss, "latencies_ns": latencies_ns,
            "inputs": self.program["inputs"], "outputs": self.program["outputs"],
        }  # fmt: skip

    def profile(self, times_ns: list[list[int]]) -> dict:
        rows = [
            {
                "name": step["kind"], "instruction": index, "index": 0, "delegated": True,
                "mean_ns": float(np.mean(times)),
            }
            for index, (step, times) in enumerate(
                zip(self.program["steps"], zip(*times_ns, strict=True), strict=True)
            )
        ]  # fmt: skip
        whole = float(np.mean([sum(times) for times in times_ns]))
        return {"profile": rows, "profiled_ns": whole, "profiled_runs": len(times_ns)}


def main() -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--input", type=Path, action="append", default=[])
    parser.add_argument("--output", type=Path, action="append", default=[])
    for name, default in (("--warmup", 3), ("--runs", 20), ("--threads", 1)):
        parser.add_argument(name, type=int, default=default)
    for name in ("--profile", "--serve", "--describe", "--version"):
        parser.add_argument(name, action="store_true")
    try:
        options = parser.parse_args()
        if options.version:
            print("edgekit.runner/1 numpy")
            return
        if options.model is None or options.runs < 1:
            raise Failure(BAD_ARGUMENTS, "--model and --runs of at least 1 are needed")
        model = Model(options.model)
        if options.serve:
            serve(model)
        else:
            print(json.dumps(measured(model, options)))
    except argparse.ArgumentError as error:
        end(BAD_ARGUMENTS, str(error))
    except Failure as failure:
        end(failure.code, str(failure))


def measured(model: Model, options: argparse.Namespace) -> dict:
    if options.describe:
        return model.document([])
    zeros = bytes(model.program["inputs"][0]["bytes"])
    data = options.input[0].read_bytes() if options.input else zeros
    for _ in range(options.warmup):
        model.run(data)
    latencies, times = [], []
    for _ in range(options.runs):
        start = time.perf_counter_ns()
        output = model.run(data, times)
        latencies.append(time.perf_counter_ns() - start)
    for path in options.output:
        path.write_bytes(output)
    return model.document(latencies) | (model.profile(times) if options.profile else {})


def serve(model: Model) -> None:
    send(100, json.dumps(model.document([])).encode())
    while header := sys.stdin.buffer.read(HEADER.size):
        _, kind, length = HEADER.unpack(header)
        payload = sys.stdin.buffer.read(length)
        if kind == 0:
            return
        if kind == 3:
            send(103, json.dumps(model.document([])).encode())
            continue
        try:
            start = time.perf_counter_ns()
            output = model.run(payload)
            send(101, struct.pack("<Q", time.perf_counter_ns() - start) + output)
        except Failure as failure:
            send(102, json.dumps({"code": failure.code, "message": str(failure)}).encode())


def send(kind: int, payload: bytes) -> None:
    sys.stdout.buffer.write(HEADER.pack(b"EKF1", kind, len(payload)) + payload)
    sys.stdout.buffer.flush()


def end(code: int, message: str) -> None:
    print(f"edgekit-runner: {message}", file=sys.stderr)
    sys.exit(code)


main()
