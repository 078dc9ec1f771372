"""A stand-in for a native runner that speaks docs/runner.md: y = 2 x, three float32 values.

DOUBLE_MODEL, as JSON, makes it another: `factor` for the 2, or lists of tensors, `inputs` and
`outputs`; all inputs' bytes are then given back as the outputs, the last `rotate` of them first.
DOUBLE_FAULT is what goes wrong. DOUBLE_REPORT, as JSON, is added to its report.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time

HEADER = struct.Struct("<4sIQ")
TENSOR = {"dtype": "float32", "shape": [3], "bytes": 12}
MODEL = {"inputs": [TENSOR], "outputs": [TENSOR], "factor": 2} | json.loads(
    os.environ.get("DOUBLE_MODEL", "{}")
)


def document(runs: int) -> dict:
    return {
        "schema": "edgekit.runner/1", "runtime": "double", "threads": 1, "load_ns": 2_000_000,
        "cpu_ns": 3_000_000 + 1_000_000 * runs,
        "planned_bytes": 64, "peak_memory_kb": 1000, "rss_loaded_kb": 900,
        "inputs": MODEL["inputs"], "outputs": MODEL["outputs"], "latencies_ns": [1_000_000] * runs,
        **json.loads(os.environ.get("DOUBLE_REPORT", "{}")),
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
        go_wrong(fault)
        if kind == 3:
            send(103, json.dumps(document(0)).encode())
        elif length != (wanted := sum(tensor["bytes"] for tensor in MODEL["inputs"])):
            message = f"the input has {length} bytes, not {wanted}"
            send(102, json.dumps({"code": 6, "message": message}).encode())
        elif MODEL["inputs"] != [TENSOR]:
            first = length - MODEL.get("rotate", 0)
            send(101, struct.pack("<Q", 1000) + payload[first:] + payload[:first])
        else:
            values = [MODEL["factor"] * value for value in struct.unpack("<3f", payload)]
            send(101, struct.pack("<Q3f", 1000, *values))


def go_wrong(fault: str) -> None:
    """What can go wrong at a request."""
    if fault == "last_words":
        print("edgekit-runner: no memory", "and a vendor's line", sep="\n", file=sys.stderr)
        sys.exit(5)
    if fault == "chatter":
        print("a vendor's line\n" * 20_000, file=sys.stderr)
    if fault == "hang":
        time.sleep(60)
    if fault == "noise":
        sys.stdout.buffer.write(b"HTTP/1.1 400 Bad Request\r\n")
        sys.stdout.buffer.flush()


def send(kind: int, payload: bytes) -> None:
    sys.stdout.buffer.write(HEADER.pack(b"EKF1", kind, len(payload)) + payload)
    sys.stdout.buffer.flush()


main()
