"""Applications that use a deployed model: the bundle's client, and the examples of the docs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from conftest import DIGITS, ROOT, SYSROOT
from models import TWO_INPUTS

import edgekit
from edgekit.bundle.manifest import CLIENT, read_manifest
from edgekit.cache import cache_folder
from edgekit.device.local import LocalTransport
from edgekit.portable import edgekit_model
from edgekit.portable.edgekit_model import Model, ModelError
from edgekit.runner.client import Installed, Serving

pytestmark = pytest.mark.runtime
APPLICATIONS = ROOT / "examples" / "applications"
IMAGES = np.random.default_rng(0).uniform(-1, 1, (20, 1, 1, 8, 8)).astype("float32")


@pytest.fixture(scope="module")
def float_bundle(tmp_path_factory) -> Path:
    """The digits again, in fp32: it gives other scores."""
    output = tmp_path_factory.mktemp("float") / "digits"
    edgekit.build(DIGITS, target="x86", precision="fp32", output=output)
    return output


@pytest.fixture
def current(tmp_path, digits_bundle) -> Path:
    """The int8 digits as they lie on a device."""
    shutil.copytree(digits_bundle, tmp_path / "digits" / "releases" / "int8")
    return switch(tmp_path / "digits", "int8")


def switch(root: Path, release: str) -> Path:
    (root / ".link").symlink_to(f"releases/{release}")
    (root / ".link").rename(root / "current")
    return root / "current"


def scores(bundle: Path, inputs: list[list[bytes]]) -> list[list[bytes]]:
    """What edgekit's own client gets."""
    place = PurePosixPath(bundle)
    with Serving(Installed(LocalTransport(), place / "runner", place / "model.pte")) as serving:
        return [serving.infer(one) for one in inputs]


def digits(bundle: Path) -> list[str]:
    found = scores(bundle, [[image.tobytes()] for image in IMAGES])
    return [str(np.frombuffer(output, "float32").argmax()) for (output,) in found]


# ---- the client ----


def test_the_bundle_carries_it(digits_bundle) -> None:
    manifest = read_manifest(digits_bundle)
    (file,) = [file for file in manifest.files if file.role == "client"]
    assert file.path == CLIENT
    assert (digits_bundle / CLIENT).read_bytes() == Path(edgekit_model.__file__).read_bytes()
    assert edgekit.check(digits_bundle).verdict == "fits"


def test_it_gives_what_edgekit_s_own_client_gives(digits_bundle) -> None:
    expected = scores(digits_bundle, [[image.tobytes()] for image in IMAGES])
    with Model(digits_bundle) as model:
        assert str(model.inputs[0]) == "image (float32 [1, 1, 8, 8])"
        assert model.check() == []
        for image, (output,) in zip(IMAGES, expected, strict=True):
            for given in (image, image.tobytes(), image.tolist()):
                answer = model(given)
                assert answer.shape == (1, 10)
                assert bytes(answer) == output
        assert 0 < model.last_latency_ms < 1000


def test_several_inputs_and_outputs(write_recipe, tmp_path) -> None:
    edgekit.build(write_recipe(TWO_INPUTS), target="x86", output=tmp_path / "out")
    image, tokens = np.full((1, 1, 8, 8), 0.5, "float32"), np.array([[1, 2, 3, 4, 5]], "int64")
    (expected,) = scores(tmp_path / "out", [[image.tobytes(), tokens.tobytes()]])
    with Model(tmp_path / "out") as model:
        assert [t.name for t in model.inputs] == ["image", "tokens"]
        assert [t.name for t in model.outputs] == ["scores", "pair.0", "pair.1.0"]
        answer = model(image, tokens)
        assert [bytes(output) for output in answer] == expected
        assert [output.tolist() for output in model(image.tolist(), [1, 2, 3, 4, 5])] == [
            output.tolist() for output in answer
        ]
        assert answer[1].tolist() == [int(np.asarray(answer[0]).argmax())]
        with pytest.raises(TypeError, match=r"tokens \(int64 \[1, 5\]\) was given int32"):
            model(image, tokens.astype("int32"))
        assert model.check() == []


def test_deployed_reloaded_and_rolled_back(digits_bundle, float_bundle) -> None:
    """Through the real store, on this host."""
    image = IMAGES[0].tobytes()
    first, second = (scores(bundle, [[image]])[0][0] for bundle in (digits_bundle, float_bundle))
    name = read_manifest(digits_bundle).name
    deployed = edgekit.deploy(digits_bundle, "local")
    with Model(deployed.path) as model:
        assert model.release == deployed.release
        assert bytes(model(image)) == first
        newer = edgekit.deploy(float_bundle, "local")
        assert newer.path == deployed.path
        assert not model.is_current()
        assert bytes(model(image)) == first
        model.reload()
        assert model.release == newer.release
        assert bytes(model(image)) == second
        edgekit.rollback(name, "local")
        assert not model.is_current()
        model.reload()
        assert bytes(model(image)) == first
        edgekit.rm(name, "local")
        assert not model.is_current()
        with pytest.raises(ModelError, match="there is no model"):
            model.reload()
        assert bytes(model(image)) == first


def test_switched_while_models_open_and_answer(current, float_bundle) -> None:
    root = current.parent
    shutil.copytree(float_bundle, root / "releases" / "fp32")
    image = IMAGES[0]
    right = {
        release: scores(root / "releases" / release, [[image.tobytes()]])[0][0]
        for release in ("int8", "fp32")
    }
    assert right["int8"] != right["fp32"]
    ended = threading.Event()

    def switch_on() -> None:
        for index in range(200):
            switch(root, ("fp32", "int8")[index % 2])
            time.sleep(0.005)
        ended.set()

    thread = threading.Thread(target=switch_on)
    thread.start()
    seen = set()
    while not ended.is_set():
        with Model(current) as model:
            for _ in range(20):
                assert bytes(model(image)) == right[model.release]
            seen.add(model.release)
            model.reload()
            assert bytes(model(image)) == right[model.release]
    thread.join()
    assert seen == {"int8", "fp32"}


def test_releases_that_go_while_models_open(current, digits_bundle) -> None:
    """Each deployment removes the release before it at once, while the next model opens."""
    root = current.parent
    opened, ended = threading.Semaphore(0), threading.Event()

    def deploy() -> None:
        before = "int8"
        for index in range(100):
            release = root / "releases" / str(index)
            shutil.copytree(digits_bundle, release, copy_function=os.link)
            opened.acquire(timeout=30)
            time.sleep(index % 10 / 1000)
            switch(root, release.name)
            shutil.rmtree(root / "releases" / before)
            before = release.name
        ended.set()

    expected = scores(digits_bundle, [[IMAGES[0].tobytes()]])[0][0]
    thread = threading.Thread(target=deploy)
    thread.start()
    while not ended.is_set():
        with Model(current) as model:
            opened.release()
            assert bytes(model(IMAGES[0])) == expected
    thread.join()


def test_a_killed_runner(current) -> None:
    with Model(current) as model:
        os.kill(model._runner._process.pid, signal.SIGKILL)
        with pytest.raises(ModelError, match="killed by signal 9"):
            model(IMAGES[0])
        model.reload()
        assert model(IMAGES[0]).shape == (1, 10)


def test_a_damaged_model_is_told_in_the_runner_s_words(current) -> None:
    (current / "model.pte").write_bytes(b"no program")
    with pytest.raises(ModelError, match=r"ended with code 3: edgekit-runner: .*model\.pte"):
        Model(current)


def test_it_checks_the_model_beside_it(current) -> None:
    done = application([sys.executable, "-I", current / CLIENT])
    assert done.stdout.decode().splitlines() == [
        "release: int8",
        "inputs:  image (float32 [1, 1, 8, 8])",
        "outputs: output (float32 [1, 10])",
        "ok",
    ]


# ---- the examples ----


def application(command, check: bool = True, **options) -> subprocess.CompletedProcess[bytes]:
    command = list(map(str, command))
    done = subprocess.run(command, capture_output=True, timeout=120, check=False, **options)
    assert not check or done.returncode == 0, done.stderr.decode()
    return done


def compile_c(output: Path, target: str) -> Path:
    environment = os.environ | {"ZIG_GLOBAL_CACHE_DIR": str(cache_folder() / "zig")}
    command = [sys.executable, "-m", "ziglang", "cc", "-target", target, "-std=c11", "-O2"]
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    source = APPLICATIONS / "digits.c"
    application([*command, *warnings, source, "-o", output], env=environment)
    return output


@pytest.fixture(scope="module")
def c_program(tmp_path_factory) -> Path:
    machine = os.uname().machine
    return compile_c(tmp_path_factory.mktemp("c") / "digits", f"{machine}-linux-gnu.2.28")


def test_python(current, tmp_path) -> None:
    for path in (APPLICATIONS / "digits.py", current / CLIENT):
        shutil.copy(path, tmp_path)
    command = [sys.executable, tmp_path / "digits.py", current]
    assert application(command, input=IMAGES.tobytes()).stdout.decode().split() == digits(current)


def test_c(c_program, current) -> None:
    done = application([c_program, current], input=IMAGES.tobytes())
    assert done.stdout.decode().split() == digits(current)
    assert done.stderr == b""


def test_c_where_there_is_no_model(c_program, tmp_path) -> None:
    done = application([c_program, tmp_path / "none"], check=False, input=b"")
    assert done.returncode == 1
    assert b"none: No such file or directory" in done.stderr


def test_c_with_a_damaged_model(c_program, current) -> None:
    (current / "model.pte").write_bytes(b"no program")
    done = application([c_program, current], check=False, input=IMAGES.tobytes())
    assert done.returncode == 1
    assert b"edgekit-runner: " in done.stderr


def test_c_whose_runner_is_killed(c_program, current) -> None:
    process = subprocess.Popen(
        [c_program, current], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while not (children := runners_of(process.pid)):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(children[0], signal.SIGKILL)
    stdout, stderr = process.communicate(IMAGES[0].tobytes(), timeout=60)
    assert (stdout, stderr, process.returncode) == (b"", b"digits: the model failed\n", 1)


def runners_of(parent: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            lines = status.read_text().splitlines()
            if "Name:\trunner" in lines and f"PPid:\t{parent}" in lines:
                found.append(int(status.parent.name))
    return found


SHELLS = [[name] for name in ("sh", "dash", "bash") if shutil.which(name)]
SHELLS += [["busybox", "sh"]] if shutil.which("busybox") else []


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_shell(shell, current, tmp_path) -> None:
    environment = os.environ | {"LC_ALL": "de_DE.UTF-8", "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    for image, digit in zip(IMAGES[:5], digits(current)[:5], strict=True):
        (tmp_path / "image.bin").write_bytes(image.tobytes())
        command = [*shell, APPLICATIONS / "digits.sh", current, tmp_path / "image.bin"]
        assert application(command, env=environment).stdout.decode() == f"{digit}\n"
    (tmp_path / "image.bin").write_bytes(b"short")
    done = application(command, check=False, env=environment)
    assert done.returncode == 6
    assert b"the input takes 256" in done.stderr
    assert list((tmp_path / "tmp").iterdir()) == []


# ---- on another CPU ----


@pytest.fixture
def emulated(digits_arm_bundle, tmp_path) -> Path:
    """A Pi's bundle whose runner starts under QEMU."""
    bundle = Path(shutil.copytree(digits_arm_bundle, tmp_path / "arm"))
    (bundle / "runner").rename(bundle / "runner.bin")
    (bundle / "runner").write_text(
        f'#!/bin/sh\nexec qemu-aarch64 -cpu cortex-a72 -L {SYSROOT} "$0.bin" "$@"\n'
    )
    (bundle / "runner").chmod(0o755)
    return bundle


@pytest.mark.emulated
def test_the_client_with_a_pi_s_runner(emulated) -> None:
    with Model(emulated, threads=4) as model:
        assert model.check() == []


@pytest.mark.emulated
def test_c_on_a_pi_s_cpu(emulated, tmp_path) -> None:
    program = compile_c(tmp_path / "digits", "aarch64-linux-gnu.2.28")
    image = (emulated / "golden" / "input_0.bin").read_bytes()
    expected = struct.unpack("<10f", (emulated / "golden" / "output_0.bin").read_bytes())
    qemu = ["qemu-aarch64", "-cpu", "cortex-a72", "-L", SYSROOT]
    done = application([*qemu, program, emulated], input=image * 2)
    assert done.stdout.decode().split() == [str(expected.index(max(expected)))] * 2
