"""The native runner itself: arguments, exit codes, serving, damaged programs."""

from __future__ import annotations

import json
import random
import resource
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from runner_frames import HEADER, frame, frames

from edgekit.progress import Silent
from edgekit.runtimes import native_runner
from edgekit.runtimes.executorch import native
from edgekit.runtimes.executorch.wheel import WHEEL
from edgekit.target import host_architecture

pytestmark = pytest.mark.runtime
IMAGE = bytes(8 * 8 * 4)


@pytest.fixture
def run(digits_bundle):
    def call(*options, runner: Path | None = None, **more) -> subprocess.CompletedProcess[bytes]:
        program = (runner or digits_bundle) / "runner"
        command = [str(program), *map(str, options)]
        return subprocess.run(command, capture_output=True, check=False, timeout=60, **more)

    return call


@pytest.fixture
def model(digits_bundle) -> Path:
    return digits_bundle / "model.pte"


def test_document_and_outputs(run, model, tmp_path) -> None:
    (tmp_path / "in").write_bytes(IMAGE)
    done = run("--model", model, "--input", tmp_path / "in", "--output", tmp_path / "out",
               "--runs", 7, "--warmup", 1, "--threads", 2)  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert done.stderr == b""
    assert document["schema"] == "edgekit.runner/1"
    assert document["threads"] == 2
    assert len(document["latencies_ns"]) == 7
    assert document["inputs"] == [{"dtype": "float32", "shape": [1, 1, 8, 8], "bytes": 256}]
    assert len((tmp_path / "out").read_bytes()) == 40
    assert document["peak_memory_kb"] >= document["rss_loaded_kb"] > 1000
    assert document["peak_swap_kb"] >= 0


def test_profile_lies_within_the_whole(run, model) -> None:
    done = run("--model", model, "--runs", 200, "--profile")
    document = json.loads(done.stdout)
    names = [row["name"] for row in document["profile"]]
    assert any("Convolution" in name for name in names)
    assert not {"Method::execute", "DELEGATE_CALL", "OPERATOR_CALL"} & set(names)
    assert 0 < document["profiled_runs"] <= 200
    assert 0 < sum(row["mean_ns"] for row in document["profile"]) <= document["profiled_ns"]


def test_profiling_slows_no_clock_of_others(run, model) -> None:
    """The runner's clock goes faster for XNNPACK alone: latencies stay those of the world."""
    start = time.monotonic_ns()
    done = run("--model", model, "--runs", 200, "--profile")
    assert sum(json.loads(done.stdout)["latencies_ns"]) < time.monotonic_ns() - start


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
        (["--model", "/nowhere/model.pte"], 8, "/nowhere/model.pte"),
        (["--model", "M", "--input", "/nowhere"], 8, "/nowhere"),
        (["--model", "M", "--input", "M"], 6, "the input takes 256"),
        (["--model", "M", "--input", "I", "--input", "I"], 6, "takes 1 inputs; 2"),
        (["--model", "M", "--output", "/nowhere/out"], 8, "/nowhere/out"),
    ],
)
def test_exit_codes(run, model, tmp_path, options, code, part) -> None:
    (tmp_path / "image").write_bytes(IMAGE)
    names = {"M": str(model), "I": str(tmp_path / "image")}
    done = run(*[names.get(option, option) for option in options])
    assert done.returncode == code
    assert done.stdout == b""
    assert done.stderr.startswith(b"edgekit-runner: ")
    assert done.stderr.count(b"\n") == 1
    assert part in done.stderr.decode()


def test_a_missing_backend(run, model, bundle) -> None:
    (bundle / "lib" / "libexecutorch_backend_xnnpack.so").unlink()
    done = run("--model", model, runner=bundle)
    assert done.returncode == 4
    assert b"XnnpackBackend" in done.stderr


def test_a_library_that_cannot_be_loaded(run, model, bundle) -> None:
    (bundle / "lib" / "libexecutorch_kernels_broken.so").write_text("no library")
    done = run("--model", model, runner=bundle)
    assert done.returncode == 3
    assert b"libexecutorch_kernels_broken.so" in done.stderr


def test_no_memory(run, model) -> None:
    """An address space too small for the model's own runs, but not for the libraries."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (60_000_000, 60_000_000))

    done = run("--model", model, "--runs", 90_000_000, preexec_fn=limit)
    assert done.returncode == 5, done.stderr
    assert b"memory" in done.stderr


def test_damaged_programs_never_hang_and_always_say_something(run, model, tmp_path) -> None:
    whole = model.read_bytes()
    generator = random.Random(0)
    path = tmp_path / "damaged.pte"
    killed = []
    for index in range(60):
        data = bytearray(whole)
        if index % 3 == 0:
            data = data[: generator.randrange(len(whole))]
        else:
            for _ in range(1 + index % 5):
                data[generator.randrange(min(len(data), 6000))] = generator.randrange(256)
        path.write_bytes(data)
        done = run("--model", path, "--runs", 1)
        if done.returncode < 0:
            killed.append(done.returncode)  # in the vendor's code
        elif done.returncode != 0:
            assert done.stderr.startswith(b"edgekit-runner: ")
            assert done.stdout == b""
    assert len(killed) <= 6, killed


def talk(run_, model_, data: bytes) -> subprocess.CompletedProcess[bytes]:
    return run_("--model", model_, "--serve", input=data)


def test_serving_many_and_the_end(run, model) -> None:
    done = talk(run, model, frame(1, IMAGE) * 5 + frame(3) + frame(0) + frame(1, IMAGE))
    answers = frames(done.stdout)
    assert done.returncode == 0
    assert [kind for kind, _ in answers] == [100, 101, 101, 101, 101, 101, 103]
    assert len({payload[8:] for kind, payload in answers if kind == 101}) == 1
    assert json.loads(answers[0][1])["outputs"][0]["shape"] == [1, 10]


def test_serving_refuses_a_request_and_goes_on(run, model) -> None:
    done = talk(run, model, frame(1, b"short") + frame(9, b"?") + frame(1, IMAGE))
    kinds = [(kind, payload) for kind, payload in frames(done.stdout)]
    assert [kind for kind, _ in kinds] == [100, 102, 102, 101]
    assert json.loads(kinds[1][1]) == {
        "code": 6,
        "message": "the request has 5 bytes, but the inputs take 256",
    }
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\n", 2),
        (HEADER.pack(b"EKF1", 1, 1 << 50), 2),
        (b"EKF1", 8),
        (frame(1, IMAGE)[:-1], 8),
        (b"", 0),
    ],
)
def test_serving_ends_on_a_broken_stream(run, model, data, code) -> None:
    assert talk(run, model, data).returncode == code


def test_building_it_twice_from_elsewhere_gives_the_same_bytes(tmp_path, monkeypatch) -> None:
    first = native.runner_files(host_architecture(), Silent())
    source = tmp_path / "another place" / "native"
    engine = tmp_path / "another place" / "engine"
    shutil.copytree(native_runner.SHARED_SOURCE, source)
    shutil.copytree(native.ENGINE.source, engine)
    monkeypatch.setattr(native_runner, "SHARED_SOURCE", source)
    wheel = WHEEL.folder(host_architecture(), Silent())
    elsewhere = replace(native.ENGINE, source=engine)
    native_runner._compile(elsewhere, host_architecture(), wheel, tmp_path / "runner")
    assert (tmp_path / "runner").read_bytes() == first.runner.read_bytes()
