"""Runs a deployed model from Python. Needs only this file and Python 3.7 or later.

    from edgekit_model import Model

    with Model("/opt/edgekit/digits/current") as model:
        scores = model(image)  # bytes, a numpy array, an array.array, or numbers in lists
        print(scores.tolist())

The model runs in a separate process, the runner in its folder. A Model stays with the release that
it opened, even if another one is deployed: check `is_current()` and call `reload()` when it suits
your application. Copy this file beside your application.

    python3 edgekit_model.py [FOLDER]      checks the model's outputs on this host
"""

from __future__ import annotations

import array
import json
import math
import operator
import os
import select
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

HEADER = struct.Struct("<4sIQ")  # of a frame: b"EKF1", its kind, the length of its payload
RUN, HELLO, RESULT, ERROR = 1, 100, 101, 102
ATTEMPTS = 5  # to open a release, which may be replaced at the same time
MAX_STDERR_BYTES = 4000  # only the last bytes of the runner's stderr are stored

# struct's letter for each dtype. It lacks bfloat16: here its bits.
LETTERS = {
    "float64": "d", "float32": "f", "float16": "e", "bfloat16": "H",
    "int64": "q", "int32": "i", "int16": "h", "int8": "b",
    "uint64": "Q", "uint32": "I", "uint16": "H", "uint8": "B", "bool": "?",
}  # fmt: skip


class ModelError(RuntimeError):
    """The model cannot be opened, or it failed. The message has the runner's reason."""


class Tensor(NamedTuple):
    """An input or output of the model. ``size``: the number of its elements. ``resized_from``:
    height and width of larger images that an input takes too; it resizes them.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    resized_from: tuple[int, int] | None = None

    @property
    def whole(self) -> Tensor:
        """The input before its images are resized."""
        return self._replace(shape=(*self.shape[:2], *(self.resized_from or self.shape[2:])))

    @property
    def size(self) -> int:
        return _product(self.shape)

    @property
    def byte_count(self) -> int:
        return self.size * struct.calcsize(LETTERS[self.dtype])

    def __str__(self) -> str:
        return f"{self.name} ({self.dtype} {list(self.shape)})"


class Model:
    """A loaded model.

    ``folder``: `<root>/NAME/current` on a device, or any bundle. ``threads``: by default those of
    the build. ``timeout_s``: the limit for opening and for each request; by default none.
    Threads may share a Model; their requests run one at a time. Processes may not: open it after
    a fork. A model with state keeps it between calls: call `reset()` before each new sequence.
    Raises ModelError.
    """

    def __init__(
        self, folder: str | Path, threads: int | None = None, timeout_s: float | None = None
    ) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self.last_latency_ms = 0.0  # of the last request, without the transfer of data
        self._options = (threads, timeout_s)
        self._turn = threading.RLock()
        self._runner = self._open()

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Run the model once. Returns its output, or a tuple of several outputs.

        Inputs are given by position, in the order of `inputs`, by keyword, or all in one dict. An
        input is raw bytes, a buffer of the input's dtype (numpy, array.array), or numbers in lists.
        One-dimensional values are read in C order; others must have the input's shape, except for
        dimensions of 1. bfloat16 must be raw bytes. An input that was built for smaller images
        than the recipe's takes both sizes; resizing takes a second for a large image, so that an
        application may better do it, bilinear with antialiasing.
        An output is a memoryview with its dtype and shape, for `tolist()` or `numpy.asarray()`.
        float16 and bfloat16 are converted to float32; a tensor without elements is flat.
        Raises TypeError or ValueError if an input does not fit; ModelError if the runner failed. If
        the runner has ended, all further calls fail until reload().
        """
        with self._turn:
            ordered = _in_order(self._runner.inputs, inputs, named)
            outputs, self.last_latency_ms = self._runner.step(ordered)
        return outputs[0] if len(outputs) == 1 else outputs

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self._runner.inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return self._runner.outputs

    @property
    def state(self) -> tuple[bytes, ...]:
        """The states of the model as raw bytes; empty without state. Set it to continue an earlier
        sequence.
        """
        return self._runner.state

    @state.setter
    def state(self, value: tuple[bytes, ...]) -> None:
        with self._turn:
            self._runner.set_state(value)

    def reset(self) -> None:
        """Start a new sequence with the initial state."""
        with self._turn:
            self._runner.state = self._runner.initial

    @property
    def release(self) -> str:
        """The id of the open release, which is its folder's name."""
        return self._runner.folder.name

    def is_current(self) -> bool:
        """Whether the open release is still the one that the folder links to."""
        return self.folder.resolve() == self._runner.folder

    def reload(self) -> None:
        """Open the release that the folder links to now, then close the old one.

        It works after an error, too. For a moment both are in memory. A new sequence starts. If it
        raises ModelError, the old release stays open.
        """
        with self._turn:
            old, self._runner = self._runner, self._open()
            old.close()

    def check(self) -> list[str]:
        """Run the release's golden inputs. Returns a line for each output that differs.

        Raises ModelError, and OSError if the release was removed from the disk.
        """
        with self._turn:
            return _check(self._runner)

    def close(self) -> None:
        """End the runner. A request of another thread fails."""
        self._runner.kill("it was closed")
        with self._turn:
            self._runner.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> _Runner:
        for attempt in range(1, ATTEMPTS + 1):
            folder = self.folder.resolve()  # once, so that files of two releases never mix
            try:
                return _Runner(folder, *self._options)
            except ModelError:
                still = self.folder.resolve() == folder and (folder / "manifest.json").exists()
                if still or attempt == ATTEMPTS:
                    raise
                time.sleep(0.05 * attempt)
        raise AssertionError


class _Runner:
    """A release's process and its pipes. Once loaded, it needs no files."""

    def __init__(self, folder: Path, threads: int | None, timeout_s: float | None) -> None:
        self.folder, self.manifest = folder, _read_manifest(folder)
        self.initial = self.state = _read_state(folder, self.manifest)
        self._owner, self._timeout_s, self._deadline = os.getpid(), timeout_s, math.inf
        self._end_reason = ""
        self._stderr_tail = b""
        self._process = _start(folder, self.manifest, threads)
        process: Any = self._process
        self._pipes = (process.stdin, process.stdout, process.stderr)
        for pipe in self._pipes:
            os.set_blocking(pipe.fileno(), False)
        kind, hello = self._exchange(b"")
        if kind != HELLO:
            self.close()
            raise ModelError(f"the first frame of {folder}/runner is of kind {kind}, not HELLO")
        report, program = json.loads(hello), self.manifest["program"]
        self.all_inputs = tuple(map(_tensor, program["inputs"], report["inputs"]))
        self.all_outputs = tuple(map(_tensor, program["outputs"], report["outputs"]))
        # the states are the last inputs and outputs
        self.inputs = self.all_inputs[: len(self.all_inputs) - len(self.initial)]
        self.outputs = self.all_outputs[: len(self.all_outputs) - len(self.initial)]

    def step(self, inputs: tuple[Any, ...]) -> tuple[tuple[Any, ...], float]:
        """Run once and update the state. Returns the outputs, and the latency in ms."""
        results, latency_ms = self.run((*map(_encode, self.inputs, inputs), *self.state))
        count = len(self.outputs)
        self.state = tuple(map(bytes, results[count:]))
        return tuple(map(_decode, self.outputs, results[:count])), latency_ms

    def set_state(self, value: tuple[bytes, ...]) -> None:
        if [len(part) for part in value] != [len(part) for part in self.initial]:
            raise ValueError("the state does not have the sizes of this model's")
        self.state = tuple(map(bytes, value))

    def run(self, inputs: tuple[bytes, ...]) -> tuple[list[Any], float]:
        """Run once. Inputs and outputs include states. Returns raw outputs, and latency in ms."""
        if self._owner != os.getpid():
            raise ModelError("the model belongs to another process: open it after the fork")
        if self._end_reason:
            raise ModelError(f"the model is closed: {self._end_reason}")
        data = b"".join(inputs)
        kind, answer = self._exchange(HEADER.pack(b"EKF1", RUN, len(data)) + data)
        if kind == ERROR:
            raise ModelError(f"the model failed: {json.loads(answer)['message']}")
        expected = 8 + sum(tensor.byte_count for tensor in self.all_outputs)
        if kind != RESULT or len(answer) != expected:
            raise ModelError(f"the runner answered with kind {kind} and {len(answer)} bytes")
        rest, results = memoryview(answer)[8:], []
        for tensor in self.all_outputs:
            results.append(rest[: tensor.byte_count])
            rest = rest[tensor.byte_count :]
        return results, int.from_bytes(answer[:8], "little") / 1e6

    def kill(self, why: str) -> None:
        if self._owner == os.getpid():  # a copy in a forked process must not end it
            self._end_reason = self._end_reason or why
            self._process.kill()

    def close(self) -> None:
        self.kill("it was closed")
        if self._owner == os.getpid():
            self._process.wait()
        for pipe in self._pipes:
            pipe.close()

    def __del__(self) -> None:
        if hasattr(self, "_pipes"):
            self.close()

    def _exchange(self, request: bytes) -> tuple[int, bytearray]:
        """Send a frame, unless ``request`` is empty, and receive one: its kind and payload.

        Any exception, even Ctrl-C, ends the process: otherwise its late answer would be read as
        that of the next request.
        """
        self._deadline = time.monotonic() + (self._timeout_s or math.inf)
        try:
            self._write(memoryview(request))
            magic, kind, length = HEADER.unpack(self._read(HEADER.size))
            if magic != b"EKF1":
                raise ModelError("the runner's answer is not a frame of its protocol")
            return kind, self._read(length)
        except BaseException as error:
            self.kill(str(error) or type(error).__name__)
            self.close()
            if isinstance(error, ValueError):  # a signal handler closed the pipe
                raise ModelError(f"the model is closed: {self._end_reason}") from None
            raise

    # The pipes do not block: a read or write that would block returns None.

    def _write(self, data: memoryview) -> None:
        while data:
            try:
                count = self._pipes[0].write(data)
            except BrokenPipeError:
                return  # the runner has ended: reading its answer raises the reason
            if count is None:
                self._wait(self._pipes[0], select.POLLOUT)
            data = data[count or 0 :]

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        rest = memoryview(data)
        while rest:
            count = self._pipes[1].readinto(rest)
            if count is None:
                self._wait(self._pipes[1], select.POLLIN)
            elif count == 0:
                raise ModelError(self._failure())
            rest = rest[count or 0 :]
        return data

    def _wait(self, pipe: Any, event: int) -> None:
        """Wait until ``pipe`` is ready. Read stderr as well, so that the runner never blocks."""
        poll = select.poll()
        poll.register(pipe, event)
        poll.register(self._pipes[2], select.POLLIN)
        left_s = self._deadline - time.monotonic()
        if not poll.poll(None if left_s == math.inf else max(0.0, min(left_s, 1e6)) * 1000):
            raise ModelError(f"the runner did not answer within {self._timeout_s:g} s")
        self._read_stderr()

    def _read_stderr(self) -> None:
        data = self._pipes[2].read(MAX_STDERR_BYTES)
        while data:
            self._stderr_tail = (self._stderr_tail + data)[-MAX_STDERR_BYTES:]
            data = self._pipes[2].read(MAX_STDERR_BYTES)

    def _failure(self) -> str:
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "the runner closed its output"
        if self._end_reason:
            return f"the model is closed: {self._end_reason}"
        self._read_stderr()
        lines = self._stderr_tail.decode(errors="replace").strip().splitlines() or ["no message"]
        message = ([line for line in lines if line.startswith("edgekit-runner: ")] or lines)[-1]
        if code >= 0:
            return f"the runner ended with code {code}: {message}"
        hint = " (is there enough memory?)" if code == -9 else ""
        return f"the runner was killed by signal {-code}{hint}: {message}"


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"there is no model: {path}: {error.strerror}") from None
    except ValueError:
        raise ModelError(f"{path} is damaged") from None
    if manifest.get("schema") != "edgekit.bundle/2":
        raise ModelError(f"{path} is of another version: use the edgekit_model.py beside it")
    return manifest


def _read_state(folder: Path, manifest: dict[str, Any]) -> tuple[bytes, ...]:
    """The states at the start of a sequence; empty for a model without state."""
    try:
        return tuple((folder / one["initial"]).read_bytes() for one in manifest.get("state", ()))
    except OSError as error:
        raise ModelError(f"{error.filename}: {error.strerror}") from None


def _start(folder: Path, manifest: dict[str, Any], threads: int | None) -> subprocess.Popen[bytes]:
    runner, pipe, needs = folder / "runner", subprocess.PIPE, manifest["needs"]
    model = next(file["path"] for file in manifest["files"] if file["role"] == "model")
    count = manifest["threads"] if threads is None else threads
    command = [str(runner), "--model", str(folder / model), "--serve", "--threads", str(count)]
    try:
        # a separate session: Ctrl-C must reach the application only
        return subprocess.Popen(
            command, bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True,
            env=_system_python() if needs.get("pythons") else None,
        )  # fmt: skip
    except OSError as error:
        needed = f"it is for {needs['architecture']} Linux with glibc {needs['glibc']} or later"
        raise ModelError(f"{runner} cannot be started: {error.strerror}; {needed}") from None


def _system_python() -> dict[str, str]:
    """The environment in which ``python3`` is the system's, which was checked at deployment, even
    if the application runs in a virtual environment.
    """
    own = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    found = {name: value for name, value in os.environ.items() if name not in own}
    virtual = os.environ.get("VIRTUAL_ENV")
    if virtual:
        folders = found.get("PATH", "").split(os.pathsep)
        found["PATH"] = os.pathsep.join(one for one in folders if one != f"{virtual}/bin")
    return found


def _tensor(spec: dict[str, Any], reported: dict[str, Any]) -> Tensor:
    size = spec.get("resized_from")
    shape, larger = tuple(reported["shape"]), tuple(size) if size else None
    return Tensor(spec["name"], reported["dtype"], shape, larger)


def _in_order(
    tensors: tuple[Tensor, ...], inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[Any, ...]:
    if len(inputs) == 1 and isinstance(inputs[0], dict) and not named:
        return _in_order(tensors, (), inputs[0])
    names = [tensor.name for tensor in tensors]
    wrong = [str(name) for name in named if name not in names[len(inputs) :]]
    if len(inputs) + len(named) != len(tensors) or wrong:
        what = f" ({', '.join(wrong)} is unknown or given twice)" if wrong else ""
        expected = ", ".join(map(str, tensors)) or "none"
        count = len(inputs) + len(named)
        raise TypeError(f"{count} inputs were given{what}; the model takes {expected}")
    return (*inputs, *(named[name] for name in names[len(inputs) :]))


def _encode(tensor: Tensor, value: Any) -> bytes:
    try:
        return _as_bytes(tensor, value)
    except ValueError:
        if tensor.resized_from is None:
            raise
    return resize(tensor, _as_bytes(tensor.whole, value))


def resize(tensor: Tensor, data: bytes) -> bytes:
    """Resize images from ``tensor.whole`` to ``tensor``: bilinear with antialiasing."""
    whole, letter = tensor.whole, LETTERS[tensor.dtype]
    (height, width), (rows, columns) = whole.shape[2:], tensor.shape[2:]
    across, down = _weights(width, columns), _weights(height, rows)
    numbers = struct.unpack(f"<{whole.size}{letter}", data)
    resized: list[float] = []
    for start in range(0, whole.size, height * width):
        plane = _resize_rows(numbers[start : start + height * width], width, across)
        turned = [number for x in range(columns) for number in plane[x::columns]]
        turned = _resize_rows(turned, height, down)
        resized += [number for y in range(rows) for number in turned[y::rows]]
    if letter not in "efd":
        resized = [round(number) for number in resized]
    return struct.pack(f"<{tensor.size}{letter}", *resized)


def _weights(large: int, small: int) -> list[tuple[int, list[float]]]:
    """For each new pixel of a row: the first pixel that counts, and the weights from there on."""
    rows, scale = [], large / small
    for index in range(small):
        center = (index + 0.5) * scale
        first, end = max(0, int(center - scale + 0.5)), min(large, int(center + scale + 0.5))
        weights = [max(0.0, 1 - abs(x + 0.5 - center) / scale) for x in range(first, end)]
        rows.append((first, [weight / sum(weights) for weight in weights]))
    return rows


def _resize_rows(numbers: Any, width: int, weights: list[tuple[int, list[float]]]) -> list[float]:
    return [
        sum(map(operator.mul, row, numbers[start + first : start + first + len(row)]))
        for start in range(0, len(numbers), width)
        for first, row in weights
    ]


def _as_bytes(tensor: Tensor, value: Any) -> bytes:
    try:
        view: Any = memoryview(value)
    except TypeError:
        return _pack(tensor, value)
    if view.ndim == 1 and view.format in ("B", "c"):  # raw bytes
        if view.nbytes != tensor.byte_count:
            raise ValueError(f"{tensor} takes {tensor.byte_count} bytes, not {view.nbytes}")
        return bytes(view)
    dtype = _dtype_of(view)
    if dtype != tensor.dtype:
        raise TypeError(f"{tensor} was given {dtype} {list(view.shape)}")
    if not view.c_contiguous:
        raise ValueError(f"{tensor} was given a buffer that is not in C order")
    _check_shape(tensor, view.shape)
    return bytes(view)


def _dtype_of(view: Any) -> str:
    letter = view.format.lstrip("@=<")
    for letters, kind in (("efd", "float"), ("bhilqn", "int"), ("BHILQN", "uint")):
        if letter in list(letters):
            return f"{kind}{8 * view.itemsize}"
    return "bool" if letter == "?" else repr(view.format)


def _pack(tensor: Tensor, value: Any) -> bytes:
    if tensor.dtype == "bfloat16":
        raise TypeError(f"{tensor} takes raw bytes only")
    numbers, shape = _flatten(tensor, value)
    if not shape and tensor.size != 1:
        raise TypeError(f"{tensor} takes bytes, buffers or lists, not {type(value).__name__}")
    _check_shape(tensor, shape)
    try:
        return struct.pack(f"<{len(numbers)}{LETTERS[tensor.dtype]}", *numbers)
    except (struct.error, OverflowError) as error:
        kinds = {type(number).__name__ for number in numbers}
        wrong = ValueError if kinds <= {"int", "float", "bool"} else TypeError
        raise wrong(f"{tensor} was given {', '.join(sorted(kinds))}: {error}") from None


def _flatten(tensor: Tensor, value: Any) -> tuple[list[Any], tuple[int, ...]]:
    """The numbers in nested lists, and the lists' shape."""
    numbers: list[Any] = [value]
    shape: tuple[int, ...] = ()
    while any(isinstance(number, (list, tuple)) for number in numbers):
        lengths = {len(part) if isinstance(part, (list, tuple)) else -1 for part in numbers}
        if len(lengths) > 1:
            raise ValueError(f"{tensor} was given lists of unequal length")
        shape += (lengths.pop(),)
        numbers = [number for part in numbers for number in part]
    return numbers, shape


def _check_shape(tensor: Tensor, shape: tuple[int, ...]) -> None:
    given, own = ([size for size in sizes if size != 1] for sizes in (shape, tensor.shape))
    if _product(shape) != tensor.size or (len(given) > 1 and given != own):
        raise ValueError(f"{tensor} was given the shape {list(shape)}")


def _decode(tensor: Tensor, data: Any) -> Any:
    letter = LETTERS[tensor.dtype]
    if tensor.dtype == "float16":
        letter, data = "f", memoryview(array.array("f", struct.unpack(f"<{tensor.size}e", data)))
    elif tensor.dtype == "bfloat16":  # the upper half of a float32
        bits = array.array("I", (half << 16 for half in data.cast("H")))
        letter, data = "f", memoryview(bits)
    flat = data.cast("B").cast(letter)
    return flat.cast("B").cast(letter, tensor.shape) if tensor.size else flat


def _product(sizes: tuple[int, ...]) -> int:
    return sizes[0] * _product(sizes[1:]) if sizes else 1


def _check(runner: _Runner) -> list[str]:
    """Compare with the golden outputs by the rule of `edgekit bench`: within two steps of a
    quantized output, or within 1e-4 of a float output's largest number; in half precision 25 dB.
    tflite-runtime rounds differently than the host's runner: there, within eight steps.
    """
    manifest, inputs, problems = runner.manifest, [], []
    golden, precision = manifest["golden"], manifest["plan"]["precision"]
    for index, tensor in enumerate(runner.all_inputs):
        data = (runner.folder / golden["inputs"][index]).read_bytes()  # the beginning of a pattern
        repeats = -(-tensor.byte_count // len(data)) if data else 0
        inputs.append((data * repeats)[: tensor.byte_count])
    for index, raw in enumerate(runner.run(tuple(inputs))[0]):
        tensor, stride = runner.all_outputs[index], golden["output_strides"][index]
        output = _decode(tensor, raw)
        data = (runner.folder / golden["outputs"][index]).read_bytes()  # every stride-th number
        actual = _flatten(tensor, output.tolist())[0][::stride]
        expected = _decode(tensor._replace(shape=(len(actual),)), memoryview(data)).tolist()
        finite = [number for number in expected if math.isfinite(number)] or [0.0]
        spec = manifest["program"]["outputs"][index]
        if precision == "fp16":
            problems += _half_problems(tensor, actual, expected)
            continue
        known, moved = spec["quantization"], (spec.get("moved") or {}).get("whole", 0.0)
        step = max(known["scale"] if known else (max(finite) - min(finite)) / 255, moved)
        steps = 8 if manifest["needs"].get("pythons") else 2
        allowed = steps * (1 + 1e-6) * step
        if precision == "fp32":
            allowed = 1e-4 * max(map(abs, finite))
        gap = max(map(_gap, actual, expected), default=0.0)
        if gap > allowed:
            problems.append(f"{tensor} differs by up to {gap:.3g}; allowed is {allowed:.3g}")
    return problems


def _half_problems(tensor: Tensor, actual: list[Any], expected: list[Any]) -> list[str]:
    gaps = list(map(_gap, actual, expected))
    noise = sum(gap * gap for gap in gaps)
    signal = sum(number * number for number in expected if math.isfinite(number))
    enough = noise <= signal * 10**-2.5
    return [] if enough else [f"{tensor} differs by up to {max(gaps):.3g}; less than 25 dB"]


def _gap(a: float, b: float) -> float:
    if a == b or (a != a and b != b):  # a NaN is not equal to itself
        return 0.0
    return abs(a - b) if math.isfinite(a - b) else math.inf


def main() -> int:
    folder = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent
    try:
        with Model(folder) as model:
            print("release:", model.release)
            print("inputs: ", *model.inputs)
            print("outputs:", *model.outputs)
            problems = model.check()
    except (ModelError, OSError) as error:
        print(f"edgekit_model: {error}", file=sys.stderr)
        return 1
    print("differs:" if problems else "ok", *problems, sep="\n  ")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
