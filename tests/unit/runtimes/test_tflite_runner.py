"""The runner for the device's Python, with a double of tflite_runtime: how it ends, whatever
happens to it. tests/integration/test_tflite.py has the real one.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT
from runner_frames import HEADER, frame, frames

from edgekit.runner.client import (
    BAD_PROGRAM,
    EXECUTION_FAILED,
    FILE_ERROR,
    INPUT_DOES_NOT_FIT,
    MISSING_KERNEL,
    NO_MEMORY,
)

DOUBLE = ROOT / "tests" / "doubles" / "tflite_double"
SOURCE = ROOT / "edgekit" / "runtimes" / "tflite" / "device" / "runner.py"
INPUT = struct.pack("<4f", 1, 2, 3, 4)
ANSWER = struct.pack("<4f", 2, 4, 6, 8)
INTERRUPTED = 130

Done = subprocess.CompletedProcess[bytes]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A release without a wheel: the system's own tflite_runtime is used."""
    folder = tmp_path / "release"
    folder.mkdir()
    shutil.copy(SOURCE, folder / "runner")
    return folder


@pytest.fixture
def model(folder) -> Callable[..., Path]:
    def write(**faults) -> Path:
        (folder / "model.tflite").write_bytes(b"\x1c\0\0\0TFL3" + json.dumps(faults).encode())
        return folder / "model.tflite"

    return write


def environment(*more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(DOUBLE), *more])}


@pytest.fixture
def run(folder) -> Callable[..., Done]:
    def call(*options, redirected: str = "", python=(sys.executable,), **more) -> Done:
        command = shlex.join([*python, str(folder / "runner"), *map(str, options)])
        more = {"env": environment(), "cwd": folder.parent, **more}
        shell = ["sh", "-c", f"exec {command} {redirected}"]
        return subprocess.run(shell, capture_output=True, check=False, timeout=60, **more)

    return call


def require_one_line(done: Done, code: int, part: str = "") -> None:
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(b"edgekit-runner: ")
    assert done.stderr.count(b"\n") == 1
    assert part in done.stderr.decode()


def test_a_run(run, model, tmp_path) -> None:
    (tmp_path / "in").write_bytes(INPUT)
    done = run("--model", model(), "--input", tmp_path / "in", "--output", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "out").read_bytes() == ANSWER
    document = json.loads(done.stdout)
    assert document["software"].keys() == {"python", "numpy", "tflite_runtime"}
    assert document["software"]["tflite_runtime"] == "2.14.0"
    assert document["software"]["python"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}")


@pytest.mark.parametrize("size", [0, 15, 17, 1000])
def test_an_input_of_another_size(run, model, tmp_path, size) -> None:
    (tmp_path / "in").write_bytes(bytes(size))
    done = run("--model", model(), "--input", tmp_path / "in")
    require_one_line(done, INPUT_DOES_NOT_FIT, "takes 16")


def test_an_input_that_has_no_size(run, model) -> None:
    """A pipe cannot tell it."""
    done = run("--model", model(), "--input", "/dev/stdin", input=INPUT)
    assert done.returncode == 0
    done = run("--model", model(), "--input", "/dev/zero")
    require_one_line(done, INPUT_DOES_NOT_FIT, "takes 16")


# ---- its streams ----


def test_serving_without_stdin_ends_like_serving_at_its_end(run, model) -> None:
    """The file that is opened next must not take its place."""
    done = run("--model", model(), "--serve", redirected="<&-")
    assert (done.returncode, done.stderr) == (0, b"")
    assert [kind for kind, _ in frames(done.stdout)] == [100]


def test_an_stdin_that_cannot_be_read(run, model, tmp_path) -> None:
    done = run("--model", model(), "--serve", redirected=f"0>{tmp_path}/written")
    require_one_line(done, FILE_ERROR, "stdin")


@pytest.mark.parametrize("mode", [["--serve"], ["--runs", "1"], ["--describe"]])
def test_without_stdout(run, model, mode) -> None:
    done = run("--model", model(), *mode, redirected=">&-")
    require_one_line(done, FILE_ERROR, "stdout")


@pytest.mark.parametrize(
    ("options", "code"), [(["--model", "/nowhere"], FILE_ERROR), (["--nonsense", "1"], 2)]
)
@pytest.mark.parametrize("redirected", ["2>&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_an_error_without_stderr(run, options, code, redirected) -> None:
    done = run(*options, redirected=redirected)
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


def test_a_run_without_stderr(run, model) -> None:
    done = run("--model", model(), redirected="2>&-")
    assert done.returncode == 0
    assert json.loads(done.stdout)["latencies_ns"]


# ---- errors of any kind ----


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("RuntimeError", "Encountered unresolved custom op: Foo.", MISSING_KERNEL),
        ("ValueError", "Didn't find op for builtin opcode 'GELU' version '2'.", MISSING_KERNEL),
        ("ValueError", "the model is invalid", BAD_PROGRAM),
        ("KeyError", "shape", BAD_PROGRAM),
        ("MemoryError", "", NO_MEMORY),
    ],
)
def test_a_program_that_does_not_load(run, model, name, text, code) -> None:
    require_one_line(run("--model", model(load=[name, text])), code)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("RuntimeError", EXECUTION_FAILED),
        ("KeyError", EXECUTION_FAILED),
        ("OSError", EXECUTION_FAILED),
        ("MemoryError", NO_MEMORY),
    ],
)
def test_any_error_of_a_request_is_answered(run, model, name, code) -> None:
    """The next request is served: nothing of the failed one is left in the stream."""
    requests = frame(1, INPUT) * 3
    done = run("--model", model(invoke=[name, "two\nlines"], good=1), "--serve", input=requests)
    assert (done.returncode, done.stderr) == (0, b"")
    answers = frames(done.stdout)
    assert [kind for kind, _ in answers] == [100, 101, 102, 101]
    assert answers[3][1][8:] == ANSWER
    problem = json.loads(answers[2][1])
    assert problem["code"] == code
    assert "\n" not in problem["message"]
    done = run("--model", model(invoke=[name, "two\nlines"]))
    require_one_line(done, code)


def test_an_answer_that_is_longer_than_a_pipe(run, model) -> None:
    payload = os.urandom(4 * 300_000)
    requests = frame(1, payload) * 2
    done = run("--model", model(values=300_000), "--serve", input=requests)
    assert [body[8:] for kind, body in frames(done.stdout) if kind == 101] == [payload] * 2


# ---- the end by a signal ----


def start(folder: Path, model: Path, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(folder / "runner"), "--model", str(model), *options],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
    )  # fmt: skip


def test_an_interrupted_service(folder, model) -> None:
    with start(folder, model(), "--serve") as process:
        assert process.stdout.read(HEADER.size)  # HELLO: it waits for a request
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    require_one_line(Done([], process.returncode, b"", errors), INTERRUPTED)


def test_an_interrupted_run(folder, model, tmp_path) -> None:
    """A pipe as the model: the runner is at work when it is read."""
    os.mkfifo(tmp_path / "pipe")
    with start(folder, tmp_path / "pipe") as process:
        (tmp_path / "pipe").write_bytes(model(sleep_s=30).read_bytes())
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert output == b""
    require_one_line(Done([], process.returncode, b"", errors), INTERRUPTED)


def test_a_service_that_ignores_interrupts(model) -> None:
    """A shell starts background jobs so: Ctrl-C is for others."""
    ignoring = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable]
    with subprocess.Popen(
        [*ignoring, str(model().parent / "runner"), "--model", str(model()), "--serve"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(),
    ) as process:  # fmt: skip
        process.stdout.read(HEADER.size)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(frame(1, INPUT), timeout=60)
    assert process.returncode == 0
    assert output.endswith(ANSWER)


# ---- what is imported ----


def test_a_python_without_numpy(run, model) -> None:
    done = run("--model", model(), python=(sys.executable, "-S"))
    require_one_line(done, BAD_PROGRAM, "python3-numpy")


@pytest.mark.parametrize("name", ["numpy", "tflite_runtime"])
@pytest.mark.parametrize("place", ["current", "release"])
def test_decoys_are_not_imported(run, model, folder, tmp_path, name, place) -> None:
    """An empty part of PYTHONPATH is the current directory."""
    here = tmp_path / "current"
    here.mkdir()
    decoy = (here if place == "current" else folder) / name
    decoy.mkdir()
    (decoy / "__init__.py").write_text("import os\nos._exit(99)\n")
    paths = ["", str(DOUBLE), "."]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = run("--model", model(), cwd=here, env=env)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_current_directory_that_was_removed(run, model, tmp_path) -> None:
    here = tmp_path / "gone"
    here.mkdir()
    target = model()
    done = subprocess.run(
        ["sh", "-c", f"cd {here} && rmdir {here} && exec {sys.executable} {target.parent}/runner "
         f"--model {target}"],
        capture_output=True, check=False, timeout=60, env=environment(),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")


def test_numpy_reserves_no_memory_for_threads(run, model, folder) -> None:
    (folder / "seen").mkdir()
    (folder / "seen" / "sitecustomize.py").write_text(
        "import atexit, os, sys\n"
        "class Look:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'numpy':\n"
        "            assert os.environ['OPENBLAS_NUM_THREADS'] == '1'\n"
        "sys.meta_path.insert(0, Look())\n"
    )
    done = run("--model", model(), env=environment(str(folder / "seen")))
    assert done.returncode == 0


def test_a_request_and_its_answer_are_in_memory_once(run, model) -> None:
    """40 MB, of which the double makes no copy."""
    count = 10_240_000
    stats = []
    for values in (1000, count):
        requests = frame(1, bytes(4 * values)) + frame(3)
        done = run("--model", model(values=values), "--serve", input=requests)
        stats.append(json.loads(frames(done.stdout)[-1][1]))
    more_kb = stats[1]["peak_memory_kb"] - stats[0]["peak_memory_kb"]
    assert more_kb < 1.5 * 4 * count / 1024
