"""The client of a native runner: single measurements, and a serving process (docs/runner.md)."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Timer
from types import TracebackType
from typing import IO, Any, Self

from edgekit.device.base import Process, Transport
from edgekit.device.scratch import scratch
from edgekit.errors import RunnerError

HEADER = struct.Struct("<4sIQ")
MAGIC = b"EKF1"
END, RUN, STATS_REQUEST = 0, 1, 3
HELLO, RESULT, ERROR, STATS = 100, 101, 102, 103

# docs/runner.md, "Exit codes"
BAD_ARGUMENTS, BAD_PROGRAM, MISSING_KERNEL, NO_MEMORY = 2, 3, 4, 5
INPUT_DOES_NOT_FIT, EXECUTION_FAILED, FILE_ERROR = 6, 7, 8


@dataclass(frozen=True)
class RunnerTensor:
    """Shape, dtype and size of an input or output, as the runner reports them."""

    dtype: str
    shape: tuple[int, ...]
    byte_count: int


@dataclass(frozen=True)
class ProfileRow:
    """One operator's mean time. ``instruction``: its number in the program; ``index``: its number
    inside that instruction. ``readings``: how often the runtime read a clock after parts of it; 0
    if the runner reads it, or does not report this (edgekit 0.1).
    """

    name: str
    mean_us: float
    delegated: bool
    instruction: int
    index: int
    readings: int = 0


@dataclass(frozen=True)
class RunReport:
    """The runner's report. The names give the units; 1 MB = 1e6 bytes.

    ``cpu_ms``: the process's CPU time on all cores so far, with loading; None if unknown.
    ``peak_memory_mb``: the peak resident set, plus what was swapped out. ``swapped_mb``: the latter
    alone; None if the runner does not report it (edgekit 0.1).
    ``profiled_us``: the mean of the profiled runs, without the time of profiling itself.
    ``software``: name -> version of the device's own software that computes; None if the bundle has
    all of it.
    """

    runtime: str
    threads: int
    load_ms: float
    planned_bytes: int
    peak_memory_mb: float
    inputs: tuple[RunnerTensor, ...]
    outputs: tuple[RunnerTensor, ...]
    latencies_ms: tuple[float, ...] = ()
    profile: tuple[ProfileRow, ...] = ()
    profiled_us: float | None = None
    cpu_ms: float | None = None
    swapped_mb: float | None = None
    software: dict[str, str] | None = None


@dataclass(frozen=True)
class Installed:
    """A runner and its model on a device."""

    transport: Transport
    runner: PurePosixPath
    model: PurePosixPath

    def command(self, *options: str) -> list[str]:
        return [str(self.runner), "--model", str(self.model), *options]


def measure(
    at: Installed,
    inputs: Sequence[bytes] = (),
    *,
    runs: int,
    warmup: int,
    threads: int,
    timeout_s: float | None = None,
    profile: bool = False,
) -> RunReport:
    """Time ``runs`` inferences after ``warmup`` inferences, in a new process.

    ``inputs``: raw bytes in C order, one per model input; empty for zeros. Raises RunnerError for
    the runner's own errors and if it takes longer than ``timeout_s``.
    """
    options = ["--runs", str(runs), "--warmup", str(warmup), "--threads", str(threads)]
    options += ["--profile"] if profile else []
    if not inputs:
        return _report(_run(at, options, timeout_s))
    with scratch(at.transport) as folder:
        for index, data in enumerate(inputs):
            options += ["--input", _put_bytes(at.transport, data, folder / f"input_{index}")]
        return _report(_run(at, options, timeout_s))


class Serving:
    """A runner process that serves many requests.

    >>> with Serving(installed) as model:
    ...     outputs = model.infer([image_bytes])

    After a total of ``timeout_s`` seconds the process is killed and the call fails.
    """

    def __init__(self, at: Installed, threads: int = 1, timeout_s: float | None = None) -> None:
        self._process: Process = at.transport.start(
            at.command("--serve", "--threads", str(threads))
        )
        self._timeout_s, self._timed_out = timeout_s, False
        self._limit = Timer(timeout_s or 0, self._time_out)
        self._limit.daemon = True
        if timeout_s:
            self._limit.start()
        try:
            kind, payload = self._answer()
        except BaseException:
            self._kill()
            raise
        if kind != HELLO:
            self._kill()
            raise RunnerError(f"the runner's first frame is of kind {kind}, not HELLO")
        self.report = _report(json.loads(payload))
        self.last_latency_ms = 0.0

    def infer(self, inputs: Sequence[bytes]) -> list[bytes]:
        """Run once. Inputs and outputs are bytes in C order.

        Raises RunnerError. After an error of the model, the process continues to serve.
        """
        _send(self._process.stdin, RUN, inputs)
        kind, payload = self._answer()
        if kind == ERROR:
            problem = json.loads(payload)
            raise RunnerError(problem["message"], runner_code=problem["code"])
        if kind != RESULT:
            raise RunnerError(f"the runner answered with a frame of kind {kind}, not RESULT")
        self.last_latency_ms = struct.unpack_from("<Q", payload)[0] / 1e6
        return self._split(memoryview(payload)[8:])

    def stats(self) -> RunReport:
        """The runner's report now, with its peak memory so far."""
        _send(self._process.stdin, STATS_REQUEST, [])
        _, payload = self._answer()
        return _report(json.loads(payload))

    def close(self) -> None:
        try:
            _send(self._process.stdin, END, [])
            self._process.wait(timeout_s=5)
        except (OSError, ValueError, TimeoutError, RunnerError):
            pass  # it has ended, or does not end: kill handles both
        self._kill()

    def _time_out(self) -> None:
        self._timed_out = True
        self._process.kill()

    def _kill(self) -> None:
        self._limit.cancel()
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._kill()

    def _answer(self) -> tuple[int, bytes]:
        try:
            header = self._process.stdout.read(HEADER.size)
        except ValueError:  # the time limit killed the process and closed its stdout
            raise self._end_error() from None
        if len(header) < HEADER.size:
            raise self._end_error()
        magic, kind, length = HEADER.unpack(header)
        if magic != MAGIC:
            raise RunnerError("the runner's answer is not a frame of its protocol")
        payload = self._process.stdout.read(length)
        if len(payload) < length:
            raise self._end_error()
        return kind, payload

    def _end_error(self) -> RunnerError:
        if self._timed_out:
            return _timeout_error(self._timeout_s)
        try:
            done = self._process.wait(timeout_s=5)
        except TimeoutError:
            return RunnerError("the runner closed its output but did not end")
        return runner_error(done.returncode, done.stderr)

    def _split(self, payload: memoryview) -> list[bytes]:
        outputs, start = [], 0
        for tensor in self.report.outputs:
            outputs.append(bytes(payload[start : start + tensor.byte_count]))
            start += tensor.byte_count
        if start != len(payload):
            raise RunnerError(f"the runner sent {len(payload)} bytes of output, not {start}")
        return outputs


def runner_error(code: int, stderr: bytes) -> RunnerError:
    """The error for a runner's exit code and stderr."""
    lines = stderr.decode(errors="replace").strip().splitlines()
    own = next((line for line in reversed(lines) if line.startswith("edgekit-runner: ")), "")
    detail = own.removeprefix("edgekit-runner: ") or (lines[-1] if lines else "no message")
    if code < 0:
        return RunnerError(f"the runner was killed by signal {-code}: {detail}", runner_code=code)
    if code == MISSING_KERNEL:
        return RunnerError(
            f"the runner lacks a kernel or backend: {detail}",
            "the runtime's libraries on the device do not match the model: build it again, or with "
            "another --runtime",
            code,
        )
    return RunnerError(f"the runner ended with code {code}: {detail}", runner_code=code)


def _run(at: Installed, options: list[str], timeout_s: float | None) -> dict[str, Any]:
    try:
        done = at.transport.run(at.command(*options), timeout_s=timeout_s)
    except TimeoutError:
        raise _timeout_error(timeout_s) from None
    if done.returncode != 0:
        raise runner_error(done.returncode, done.stderr)
    try:
        document = json.loads(done.stdout)
    except ValueError:
        raise RunnerError("the runner's answer is not JSON: is this edgekit's runner?") from None
    if not isinstance(document, dict) or document.get("schema") != "edgekit.runner/1":
        raise RunnerError(
            "the runner uses another version of the protocol", "build the bundle again"
        )
    return document


def _timeout_error(timeout_s: float | None) -> RunnerError:
    return RunnerError(
        f"the runner took longer than {timeout_s:g} s and was ended",
        "raise the limit with --timeout, or lower the number of runs with --runs",
    )


def _report(document: dict[str, Any]) -> RunReport:
    swapped_kb = document.get("peak_swap_kb")
    return RunReport(
        runtime=document["runtime"],
        threads=document["threads"],
        load_ms=document["load_ns"] / 1e6,
        planned_bytes=document["planned_bytes"],
        peak_memory_mb=_mb(document["peak_memory_kb"] + (swapped_kb or 0)),
        inputs=_tensors(document["inputs"]),
        outputs=_tensors(document["outputs"]),
        latencies_ms=tuple(ns / 1e6 for ns in document["latencies_ns"]),
        profile=tuple(
            ProfileRow(
                name=row["name"],
                mean_us=row["mean_ns"] / 1e3,
                delegated=row["delegated"],
                instruction=row["instruction"],
                index=row["index"],
                readings=row.get("readings", 0),
            )
            for row in document.get("profile", [])
        ),
        profiled_us=document["profiled_ns"] / 1e3 if "profiled_ns" in document else None,
        cpu_ms=document["cpu_ns"] / 1e6 if "cpu_ns" in document else None,
        swapped_mb=None if swapped_kb is None else _mb(swapped_kb),
        software=document.get("software"),
    )


def _mb(kernel_kb: int) -> float:
    return kernel_kb * 1024 / 1e6  # the kernel's kB is 1024 bytes


def _tensors(rows: list[dict[str, Any]]) -> tuple[RunnerTensor, ...]:
    return tuple(RunnerTensor(row["dtype"], tuple(row["shape"]), row["bytes"]) for row in rows)


def _send(stream: IO[bytes], kind: int, parts: Sequence[bytes]) -> None:
    try:
        stream.write(HEADER.pack(MAGIC, kind, sum(len(part) for part in parts)))
        for part in parts:
            stream.write(part)
        stream.flush()
    except BrokenPipeError:
        pass  # the runner has ended: reading its answer raises the reason


def _put_bytes(transport: Transport, data: bytes, place: PurePosixPath) -> str:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        transport.put(Path(file.name), place)
    return str(place)
