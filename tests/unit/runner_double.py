"""A stand-in for a native runner that speaks docs/runner.md: y = 2 x, three float32 values."""

from __future__ import annotations

import json
import os
import struct
import sys

HEADER = struct.Struct("<4sIQ")
TENSOR = {"dtype": "float32", "shape": [3], "bytes": 12}


def document(runs: int) -> dict:
    return {
        "schema": "edgekit.runner/1", "runtime": "double", "threads": 1, "load_ns": 2_000_000,
        "planned_bytes": 64, "peak_memory_kb": 1000, "rss_loaded_kb": 900, "inputs": [TENSOR],
        "outputs": [TENSOR], "latencies_ns": [1_000_000] * runs,
    }  # fmt: skip


def main() -> None:
    arguments = sys.argv[1:]
    fault = os.environ.get("DOUBLE_FAULT", "")
    if fault == "missing_kernel":
        print("edgekit-runner: the kernel aten::mean.out is missing", file=sys.stderr)
        sys.exit(4)
    if fault == "signal":
        os.abort()
    if fault == "sleep":
        import time

        time.sleep(60)
    if "--serve" not in arguments:
        runs = int(arguments[arguments.index("--runs") + 1])
        print("nonsense" if fault == "nonsense" else json.dumps(document(runs)))
        return
    serve(fault)


def serve(fault: str) -> None:
    send(100, json.dumps(document(0)).encode())
    while header := sys.stdin.buffer.read(HEADER.size):
        _, kind, length = HEADER.unpack(header)
        payload = sys.stdin.buffer.read(length)
        if kind == 0:
            return
        if fault == "die":
            os._exit(7)
        if kind == 3:
            send(103, json.dumps(document(0)).encode())
        elif length != 12:
            message = f"the input has {length} bytes, not 12"
            send(102, json.dumps({"code": 6, "message": message}).encode())
        else:
            values = [2 * value for value in struct.unpack("<3f", payload)]
            send(101, struct.pack("<Q3f", 1000, *values))


def send(kind: int, payload: bytes) -> None:
    sys.stdout.buffer.write(HEADER.pack(b"EKF1", kind, len(payload)) + payload)
    sys.stdout.buffer.flush()


main()
