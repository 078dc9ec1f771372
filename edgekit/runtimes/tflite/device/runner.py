#!/usr/bin/env python3
"""The runner for tflite-runtime: docs/runner.md specifies arguments, document, codes and frames.

It runs by the device's Python, 3.9 or later, with NumPy. tflite-runtime lies beside it, in a folder
of ``lib`` for each version of Python; without one for this Python, the system's own is used.
Nothing is written beside it.
"""

from __future__ import annotations

import array
import json
import os
import signal
import struct
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

SCHEMA, RUNTIME = "edgekit.runner/1", "tflite"
HELP = """\
usage: runner --model FILE [--input FILE]... [--output FILE]... [--warmup N] [--runs N]
              [--threads N] [--profile]
       runner --model FILE --serve [--threads N]
       runner --model FILE --describe
       runner --help | --version
"""
BAD_ARGUMENTS, BAD_PROGRAM, MISSING_KERNEL, NO_MEMORY = 2, 3, 4, 5
INPUT_DOES_NOT_FIT, EXECUTION_FAILED, FILE_ERROR = 6, 7, 8
INTERRUPTED = 130
HERE = os.path.dirname(os.path.realpath(sys.argv[0]))
MOST_TENSORS, MOST_RUNS, MOST_THREADS = 64, 100000000, 256
MOST_DIGITS = 9
FLAGS = ("--profile", "--serve", "--describe", "--help", "--version")
PATHS = ("--input", "--output")
# Option -> the least and the largest number that it takes.
NUMBERS = {"--warmup": (0, MOST_RUNS), "--runs": (0, MOST_RUNS), "--threads": (1, MOST_THREADS)}
IDENTIFIER = b"TFL3"
NUMPY_FROM, NUMPY_BELOW = (1, 23), (2, 0)
# What TFLite says about an operator that it lacks.
LACKS_OPERATOR = ("unresolved custom op", "unresolved-ops", "Didn't find op", "not supported by")

HEADER = struct.Struct("<4sIQ")
MAGIC, MOST_BYTES, SINK_BYTES = b"EKF1", 1 << 40, 1 << 16
END, RUN, STATS_REQUEST = 0, 1, 3
HELLO, RESULT, ERROR, STATS = 100, 101, 102, 103


class Failure(Exception):
    """An error with its exit code. The message is one line."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = " ".join(message.split())


class Broken(Failure):
    """No more requests can be read, or no more answers written."""


class ClientEnded(Exception):
    """Nobody reads the answers any more."""


def failure_of(error: Exception) -> Failure:
    """Any error as one with an exit code. The library raises errors of any kind."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, ClientEnded):
        return Failure(FILE_ERROR, "stdout cannot be written: Broken pipe")
    if isinstance(error, MemoryError):
        return Failure(NO_MEMORY, "out of memory; close other programs")
    return Failure(EXECUTION_FAILED, f"{type(error).__name__}: {error}")


# ---- the command line ----


def parse(values: Sequence[str]) -> dict[str, Any]:
    """The options by name. Raises Failure."""
    options: dict[str, Any] = {"--model": None, "--input": [], "--output": []}
    options.update({"--warmup": 3, "--runs": 20, "--threads": 1}, **dict.fromkeys(FLAGS, False))
    rest = list(values)
    while rest:
        option = rest.pop(0)
        if option in FLAGS:
            options[option] = True
        elif not rest:
            raise Failure(BAD_ARGUMENTS, f"unknown option or no value: {option}")
        else:
            take(options, option, rest.pop(0))
    if options["--help"] or options["--version"]:
        return options
    if options["--model"] is None:
        raise Failure(BAD_ARGUMENTS, "--model FILE is missing")
    if options["--describe"]:
        options["--runs"] = options["--warmup"] = 0
    if options["--output"] and options["--runs"] == 0:
        raise Failure(BAD_ARGUMENTS, "--output needs at least one run")
    return options


def take(options: dict[str, Any], option: str, value: str) -> None:
    """Store one option's value."""
    if option in PATHS:
        if len(options[option]) == MOST_TENSORS:
            raise Failure(BAD_ARGUMENTS, f"more than {MOST_TENSORS} times {option}")
        options[option].append(value)
    elif option in NUMBERS:
        low, high = NUMBERS[option]
        digits = value[1:] if value[:1] in ("+", "-") else value
        is_number = digits.isascii() and digits.isdigit() and len(digits) <= MOST_DIGITS
        if not (is_number and low <= int(value) <= high):
            message = f"{option} takes a whole number from {low} to {high}, not '{value}'"
            raise Failure(BAD_ARGUMENTS, message)
        options[option] = int(value)
    elif option == "--model":
        options[option] = value
    else:
        raise Failure(BAD_ARGUMENTS, f"unknown option: {option} (--help lists them)")


# ---- the operating system ----


class Streams:
    """The standard streams, and what an interrupted run must remove."""

    stderr = 2
    draft = ""

    @classmethod
    def prepare(cls) -> None:
        """A closed stream must not be replaced by the next file that is opened: an empty one
        stands in for it.
        """
        for number, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, mode)  # gets the lowest free number: this one
        cls.stderr = os.dup(2)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, cls.interrupted)

    @classmethod
    def interrupted(cls, *_: object) -> None:
        """End here: an exception might be caught by the library."""
        cls.tell("interrupted")
        cls.remove_draft()
        os._exit(INTERRUPTED)

    @classmethod
    def tell(cls, message: str) -> None:
        try:
            os.write(cls.stderr, f"edgekit-runner: {message}\n".encode(errors="replace"))
        except OSError:
            pass  # nobody reads it

    @classmethod
    def remove_draft(cls) -> None:
        try:
            os.unlink(cls.draft)
        except OSError:
            pass

    @classmethod
    @contextmanager
    def silent(cls) -> Iterator[None]:
        """Without what the library writes to stderr: only our own line of an error may stand
        there.
        """
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        try:
            yield
        finally:
            os.dup2(cls.stderr, 2)


def write_all(*parts: Any) -> None:
    """Write bytes to stdout. Raises ClientEnded, Broken."""
    views = [memoryview(part) for part in parts if len(part)]
    try:
        while views:
            written = os.writev(1, views)
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if written:
                views[0] = views[0][written:]
    except BrokenPipeError:
        raise ClientEnded from None
    except OSError as error:
        raise Broken(FILE_ERROR, f"stdout cannot be written: {error.strerror}") from None


def status_kb(row: str) -> int:
    """A row of /proc/self/status in the kernel's kB, e.g. "VmHWM:"; 0 if it is missing."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return next((int(line.split()[1]) for line in file if line.startswith(row)), 0)
    except (OSError, ValueError, IndexError):
        return 0


class Swap:
    """The most of this process that was seen in swap: the kernel keeps no peak of it."""

    peak_kb = 0

    @classmethod
    def look(cls) -> int:
        cls.peak_kb = max(cls.peak_kb, status_kb("VmSwap:"))
        return cls.peak_kb


def read_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise Failure(FILE_ERROR, f"{path} cannot be read: {error.strerror}") from None


def write_file(path: str, data: Any) -> None:
    """Write a file, which appears complete or not at all."""
    Streams.draft = path + ".part"
    try:
        with open(Streams.draft, "wb") as file:
            file.write(data)
        os.replace(Streams.draft, path)
    except OSError as error:
        Streams.remove_draft()
        raise Failure(FILE_ERROR, f"{path} cannot be written: {error.strerror}") from None


def fill_from_file(path: str, room: memoryview) -> None:
    """Read a file of exactly ``room``'s size. Raises Failure."""
    try:
        with open(path, "rb", buffering=0) as file:
            missing = fill(file.fileno(), room)
            more = not missing and file.read(1)
    except OSError as error:
        raise Failure(FILE_ERROR, f"{path} cannot be read: {error.strerror}") from None
    if missing or more:
        found = f"more than {len(room)}" if more else len(room) - missing
        raise Failure(
            INPUT_DOES_NOT_FIT, f"{path} has {found} bytes, but the input takes {len(room)}"
        )


def fill(descriptor: int, room: memoryview) -> int:
    """Read until ``room`` is full, without a copy; the number of bytes that are missing."""
    while len(room):
        count = os.readv(descriptor, [room[: 1 << 20]])
        if not count:
            break
        room = room[count:]
    return len(room)


# ---- tflite-runtime ----


class Library:
    """tflite-runtime's ``interpreter`` class, and the versions of the ``software`` that computes.

    Raises Failure: it, or NumPy, cannot be imported.
    """

    def __init__(self) -> None:
        sys.dont_write_bytecode = True  # the folder is a release, whose files are listed
        name = f"cp{sys.version_info[0]}{sys.version_info[1]}"
        own = os.path.join(HERE, "lib", name)
        is_bundled = os.path.isdir(own)
        sys.path[:] = ([own] if is_bundled else []) + safe_folders()
        self.software = {
            "python": ".".join(str(part) for part in sys.version_info[:3]),
            "numpy": numpy_version(is_bundled),
        }
        try:
            with Streams.silent():
                import tflite_runtime
                from tflite_runtime.interpreter import Interpreter
        except Exception as error:
            source = f"from {own}" if is_bundled else f"for Python {name[2]}.{name[3:]}"
            raise Failure(
                BAD_PROGRAM, f"a library cannot be loaded: tflite_runtime {source}: {error}"
            ) from None
        self.interpreter = Interpreter
        self.software["tflite_runtime"] = getattr(tflite_runtime, "__version__", "unknown")


def safe_folders() -> list[str]:
    """Where modules are looked for: neither beside this program, nor in the current directory."""
    try:
        unsafe = {HERE, os.getcwd()}
    except OSError:  # it was removed
        unsafe = {HERE}
    return [
        folder
        for folder in sys.path
        if os.path.isabs(folder) and os.path.realpath(folder) not in unsafe
    ]


def numpy_version(is_bundled: bool) -> str:
    """tflite-runtime 2.14 imports with another NumPy, and then fails. A system's own fits its
    NumPy.
    """
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # it would reserve memory for a thread of each core
    try:
        with Streams.silent():
            from numpy import __version__ as version
    except Exception as error:
        hint = "sudo apt install python3-numpy"
        raise Failure(BAD_PROGRAM, f"a library cannot be loaded: numpy ({hint}): {error}") from None
    found = tuple(int(part) for part in version.split(".")[:2])
    if is_bundled and not NUMPY_FROM <= found < NUMPY_BELOW:
        raise Failure(
            BAD_PROGRAM,
            "a library cannot be loaded: tflite-runtime needs numpy 1.23 or later and below 2, not "
            f"{version}",
        )
    return str(version)


def bytes_of(values: Any) -> memoryview:
    """The memory of an array that is in C order, which is not copied."""
    import numpy

    return memoryview(values.reshape(-1).view(numpy.uint8))


class Tensor:
    """An input or output. ``bytes``: its size."""

    def __init__(self, details: Mapping[str, Any], word: str) -> None:
        import numpy

        self.index = details["index"]
        self.dtype = numpy.dtype(details["dtype"])
        self.shape = tuple(int(size) for size in details["shape"])
        if any(size < 0 for size in details.get("shape_signature", ())):
            raise Failure(BAD_PROGRAM, f"{word} has a shape that is not fixed")
        if self.dtype.kind not in "biuf":
            raise Failure(BAD_PROGRAM, f"{word} has a type that the runner does not know")
        count = 1
        for size in self.shape:
            count *= size
        self.bytes = count * self.dtype.itemsize

    def describe(self) -> dict[str, Any]:
        return {"dtype": self.dtype.name, "shape": list(self.shape), "bytes": self.bytes}


class Engine:
    """A program that is ready to run."""

    def __init__(self, path: str, threads: int) -> None:
        self.threads = threads
        library = Library()
        self.software = library.software
        start_ns = time.monotonic_ns()
        # the library verifies nothing: for most damaged files it ends the process
        data = read_file(path)
        if data[4:8] != IDENTIFIER:
            raise Failure(BAD_PROGRAM, f"{path} is not a LiteRT model")
        try:
            with Streams.silent():
                # the bytes must live as long as the interpreter, which refers to them
                self.interpreter = library.interpreter(model_content=data, num_threads=threads)
                self.interpreter.allocate_tensors()
        except MemoryError:
            raise
        except Exception as error:
            text = str(error)
            lacks = any(words in text for words in LACKS_OPERATOR)
            if not lacks:
                raise Failure(BAD_PROGRAM, f"{path}: {text}") from None
            library_version = self.software["tflite_runtime"]
            raise Failure(
                MISSING_KERNEL, f"{path}: tflite_runtime {library_version}: {text}"
            ) from None
        self.inputs = self.tensors(self.interpreter.get_input_details(), "input")
        self.outputs = self.tensors(self.interpreter.get_output_details(), "output")
        self.load_ns = time.monotonic_ns() - start_ns
        self.loaded_kb = status_kb("VmRSS:")
        Swap.look()

    def tensors(self, details: Sequence[Mapping[str, Any]], word: str) -> list[Tensor]:
        if len(details) > MOST_TENSORS:
            message = f"the program has more than {MOST_TENSORS} inputs or outputs"
            raise Failure(BAD_PROGRAM, message)
        return [Tensor(one, f"{word} {place}") for place, one in enumerate(details)]

    @property
    def input_bytes(self) -> int:
        return sum(tensor.bytes for tensor in self.inputs)

    def zeros(self) -> list[Any]:
        """An array for each input."""
        import numpy

        return [numpy.zeros(tensor.shape, tensor.dtype) for tensor in self.inputs]

    def run(self, inputs: Iterable[Any]) -> int:
        """One inference; its nanoseconds. The inputs are copied before the clock starts."""
        try:
            for tensor, value in zip(self.inputs, inputs):
                self.interpreter.set_tensor(tensor.index, value)
            start_ns = time.monotonic_ns()
            self.interpreter.invoke()
            return time.monotonic_ns() - start_ns
        except (RuntimeError, ValueError) as error:
            raise Failure(EXECUTION_FAILED, f"the program failed: {error}") from None

    def results(self) -> list[memoryview]:
        """The bytes of each output of the last run, in C order."""
        return [bytes_of(self.interpreter.get_tensor(tensor.index)) for tensor in self.outputs]

    def document(self, latencies_ns: Iterable[int] = ()) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "runtime": RUNTIME,
            "software": self.software,
            "threads": self.threads,
            "load_ns": self.load_ns,
            "cpu_ns": time.process_time_ns(),
            "planned_bytes": 0,
            "peak_memory_kb": status_kb("VmHWM:"),
            "peak_swap_kb": Swap.look(),
            "rss_loaded_kb": self.loaded_kb,
            "inputs": [tensor.describe() for tensor in self.inputs],
            "outputs": [tensor.describe() for tensor in self.outputs],
            "latencies_ns": list(latencies_ns),
        }


# ---- a single measurement ----


def run_once(engine: Engine, options: Mapping[str, Any]) -> None:
    files, outputs = options["--input"], options["--output"]
    if outputs and len(outputs) != len(engine.outputs):
        raise Failure(
            BAD_ARGUMENTS,
            f"the program gives {len(engine.outputs)} outputs; {len(outputs)} files were named",
        )
    inputs = read_inputs(engine, files)
    latencies_ns = array.array("Q", bytes(8 * options["--runs"]))
    for _ in range(options["--warmup"]):
        engine.run(inputs)
    Swap.look()
    for place in range(options["--runs"]):
        latencies_ns[place] = engine.run(inputs)
    if outputs:
        for path, data in zip(outputs, engine.results()):
            write_file(path, data)
    write_all(to_json(engine.document(latencies_ns)))


def read_inputs(engine: Engine, files: Sequence[str]) -> list[Any]:
    """The inputs: of the files, or zeros."""
    if files and len(files) != len(engine.inputs):
        raise Failure(
            INPUT_DOES_NOT_FIT,
            f"the program takes {len(engine.inputs)} inputs; {len(files)} files were given",
        )
    inputs = engine.zeros()
    for path, values in zip(files, inputs):
        fill_from_file(path, bytes_of(values))
    return inputs


def to_json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, separators=(",", ":")) + "\n").encode("ascii")


# ---- serving: frames of a 16-byte header and a payload ----


def read_from_stdin(room: memoryview, may_end: bool = False) -> bool:
    """Fill ``room``; False if stdin ends before it and ``may_end``. Raises Broken."""
    try:
        missing = fill(0, room)
    except OSError as error:
        raise Broken(FILE_ERROR, f"stdin cannot be read: {error.strerror}") from None
    if missing == len(room) and may_end:
        return False
    if missing:
        raise Broken(FILE_ERROR, "the input ended inside a frame")
    return True


def drain(size: int) -> None:
    sink = memoryview(bytearray(min(size, SINK_BYTES)))
    while size:
        part = sink[: min(size, SINK_BYTES)]
        read_from_stdin(part)
        size -= len(part)


def send(kind: int, *parts: Any) -> None:
    write_all(HEADER.pack(MAGIC, kind, sum(len(part) for part in parts)), *parts)


def send_error(failure: Failure) -> None:
    send(ERROR, json.dumps({"code": failure.code, "message": failure.message}).encode("ascii"))


def serve(engine: Engine) -> None:
    inputs, header = engine.zeros(), bytearray(HEADER.size)
    send(HELLO, to_json(engine.document()))
    while read_from_stdin(memoryview(header), may_end=True):
        magic, kind, length = HEADER.unpack(header)
        if magic != MAGIC or length > MOST_BYTES:
            failure = Broken(BAD_ARGUMENTS, "a request is no frame of this protocol")
            send_error(failure)
            raise failure
        if kind == END:
            return
        try:
            answer(engine, inputs, kind, length)
        except (Broken, ClientEnded):
            raise
        except Exception as error:  # it was raised before anything was answered
            send_error(failure_of(error))


def answer(engine: Engine, inputs: Sequence[Any], kind: int, length: int) -> None:
    """Answer one request. Raises any error, after which the next request can be read; Broken or
    ClientEnded, after which none can.
    """
    if kind == RUN and length == engine.input_bytes:
        for values in inputs:
            read_from_stdin(bytes_of(values))
        latency_ns = engine.run(inputs)
        send(RESULT, struct.pack("<Q", latency_ns), *engine.results())
        return
    drain(length)
    if kind == RUN:
        raise Failure(
            INPUT_DOES_NOT_FIT,
            f"the request has {length} bytes, but the inputs take {engine.input_bytes}",
        )
    if kind != STATS_REQUEST:
        raise Failure(BAD_ARGUMENTS, f"a request of unknown kind {kind}")
    send(STATS, to_json(engine.document()))


def main(values: Sequence[str]) -> None:
    options = parse(values)
    if options["--help"]:
        write_all(HELP.encode())
    elif options["--version"]:
        write_all(f"{SCHEMA} {RUNTIME}\n".encode())
    else:
        engine = Engine(options["--model"], options["--threads"])
        if options["--serve"]:
            serve(engine)
        else:
            run_once(engine, options)


def guarded(values: Sequence[str]) -> int:
    """Run, and return the exit code. An error is one line on stderr."""
    try:
        main(values)
        return 0
    except Exception as error:
        if isinstance(error, ClientEnded) and "--serve" in values:
            return 0
        failure = failure_of(error)
        Streams.tell(failure.message)
        return failure.code


if __name__ == "__main__":
    Streams.prepare()
    # Not sys.exit(): the library's destructors stop thread pools, which is slow and useless here.
    os._exit(guarded(sys.argv[1:]))
