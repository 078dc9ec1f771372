"""The client that travels in a bundle, against a double of the runner."""

from __future__ import annotations

import array
import ast
import json
import math
import os
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import DOUBLES, ROOT

from edgekit.portable import edgekit_model
from edgekit.portable.edgekit_model import Model, ModelError
from edgekit.program import ITEM_SIZE

APPLICATIONS = ROOT / "examples" / "applications"
DOUBLE = DOUBLES / "runner_double.py"
CLIENT = Path(edgekit_model.__file__)
NUMBERS = {"float64": "float64", "float32": "float32", "float16": "float32", "bfloat16": "float32"}


def tensor(dtype: str, *shape: int) -> dict:
    return {"dtype": dtype, "shape": list(shape), "bytes": math.prod(shape) * ITEM_SIZE[dtype]}


X = [tensor("float32", 3)]


def make(folder: Path, inputs=X, outputs=X, fault: str = "", **model) -> Path:
    """A bundle whose runner is the double."""
    folder.mkdir(parents=True)
    model |= {"inputs": inputs, "outputs": outputs}
    write_runner(folder, f"DOUBLE_MODEL={shlex.quote(json.dumps(model))} DOUBLE_FAULT={fault} ")
    (folder / "golden").mkdir()
    manifest = {
        "schema": "edgekit.bundle/2",
        "name": "tiny",
        "threads": 3,
        "needs": {"architecture": "x86_64", "glibc": "2.28"},
        "plan": {"precision": "fp32"},
        "program": {
            "inputs": [{"name": f"in{i}", "quantization": None} for i in range(len(inputs))],
            "outputs": [{"name": f"out{i}", "quantization": None} for i in range(len(outputs))],
        },
        "golden": {
            "inputs": [f"golden/input_{i}.bin" for i in range(len(inputs))],
            "outputs": [f"golden/output_{i}.bin" for i in range(len(outputs))],
            "output_strides": [1] * len(outputs),
        },
        "files": [{"path": "model.pte", "role": "model"}, {"path": "runner", "role": "runner"}],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def write_runner(folder: Path, environment: str, before: str = "") -> None:
    command = f'{environment}exec "{sys.executable}" -S "{DOUBLE}" "$@"\n'
    (folder / "runner").write_text(f"#!/bin/sh\n{before}\n{command}")
    (folder / "runner").chmod(0o755)


def deploy(root: Path, release: str, **model) -> Path:
    """Put a release in a store as it lies on a device, and switch to it."""
    make(root / "releases" / release, **model)
    return switch(root, release)


def switch(root: Path, release: str) -> Path:
    (root / ".link").symlink_to(f"releases/{release}")
    (root / ".link").rename(root / "current")
    return root / "current"


def is_running(pid: int) -> bool:
    """Zombies have ended: who inherits an orphan may be slow to bury it."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen in 30 s")


def pid_of(model: Model) -> int:
    return model._runner._process.pid


# ---- what goes in, and what comes out ----


@pytest.fixture
def tiny(tmp_path):
    with Model(make(tmp_path / "tiny")) as model:
        yield model


@pytest.mark.parametrize(
    "value",
    [
        [1, 2, 3],
        (1.0, 2, 3),
        [[1, 2, 3]],
        [[1], [2], [3]],
        struct.pack("<3f", 1, 2, 3),
        bytearray(struct.pack("<3f", 1, 2, 3)),
        memoryview(struct.pack("<3f", 1, 2, 3)),
        array.array("f", [1, 2, 3]),
        np.array([1, 2, 3], "float32"),
        np.array([[1, 2, 3]], "<f4"),
        np.array([1, 0, 2, 0, 3, 0], "float32")[::2].copy(),
        list(np.array([1, 2, 3], "float64")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_an_input_may_be(tiny, value) -> None:
    assert tiny(value).tolist() == [2, 4, 6]
    assert tiny.last_latency_ms == 0.001


@pytest.mark.parametrize(
    ("value", "error", "part"),
    [
        ([1, 2], ValueError, "given the shape [2]"),
        ([[1, 2, 3]] * 2, ValueError, "given the shape [2, 3]"),
        ([[1, 2], [3]], ValueError, "lists of unequal length"),
        ([1, [2, 3]], ValueError, "lists of unequal length"),
        (b"123", ValueError, "takes 12 bytes, not 3"),
        (np.zeros(4, "float32"), ValueError, "given the shape [4]"),
        (np.zeros(6, "float32")[::2], ValueError, "not in C order"),
        (np.zeros(3), TypeError, "given float64 [3]"),
        (np.zeros(3, ">f4"), TypeError, "given '>f' [3]"),
        (np.zeros(3, "int32"), TypeError, "given int32 [3]"),
        (array.array("d", [1, 2, 3]), TypeError, "given float64 [3]"),
        (["a", "b", "c"], TypeError, "given str"),
        ([1e40, 0, 0], ValueError, "given float, int: float too large"),
        (None, TypeError, "not NoneType"),
        ("abc", TypeError, "not str"),
        (1.0, TypeError, "not float"),
    ],
)
def test_an_input_that_does_not_fit_is_named(tiny, value, error, part) -> None:
    with pytest.raises(error) as caught:
        tiny(value)
    assert "in0 (float32 [3])" in str(caught.value)
    assert part in str(caught.value)
    assert tiny([1, 2, 3]).tolist() == [2, 4, 6]


def test_as_many_inputs_as_the_model_has(tiny) -> None:
    with pytest.raises(TypeError, match=r"2 inputs.*in0 \(float32 \[3\]\)"):
        tiny([1, 2, 3], [1, 2, 3])
    with pytest.raises(TypeError, match="0 inputs"):
        tiny()


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ([b"abc", [1.5]], {}), ([b"abc"], {"in1": [1.5]}), ([], {"in1": [1.5], "in0": b"abc"}),
        ([{"in1": [1.5], "in0": b"abc"}], {}),
    ],
)  # fmt: skip
def test_inputs_by_position_and_by_name(tmp_path, inputs, named) -> None:
    io = [tensor("uint8", 3), tensor("float32", 1)]
    with Model(make(tmp_path / "tiny", io, io)) as model:
        assert [o.tolist() for o in model(*inputs, **named)] == [[97, 98, 99], [1.5]]


@pytest.mark.parametrize(
    ("inputs", "named", "part"),
    [
        ([b"abc"], {"in0": b"abc"}, r"2 inputs were given \(in0 is unknown or given twice"),
        ([b"abc"], {"other": [1.5]}, r"\(other is unknown or given twice"),
        ([{"in0": b"abc"}], {}, "1 inputs were given; the model takes in0"),
        ([{"in0": b"abc", "in1": [1.5]}], {"in1": [1.5]}, "not dict"),
    ],
)
def test_names_that_do_not_fit(tmp_path, inputs, named, part) -> None:
    io = [tensor("uint8", 3), tensor("float32", 1)]
    with Model(make(tmp_path / "tiny", io, io)) as model:
        with pytest.raises(TypeError, match=part):
            model(*inputs, **named)
        assert model(b"abc", [2.0])[1].tolist() == [2.0]


@pytest.mark.parametrize("dtype", ITEM_SIZE)
def test_every_dtype_there_and_back(tmp_path, dtype) -> None:
    io = [tensor(dtype, 2, 2)]
    with Model(make(tmp_path / "tiny", io, io)) as model:
        if dtype == "bfloat16":
            raw = b"\x80\x3f\x00\x00\x00\xc0\x80\x7f"
            with pytest.raises(TypeError, match=r"in0 \(bfloat16 \[2, 2\]\) takes raw bytes only"):
                model([[1, 0], [-2, 0]])
            output = model(raw)
            assert output.tolist() == [[1, 0], [-2, math.inf]]
        else:
            values = [[1, 0], [1, 1]] if dtype == "bool" else [[1, 0], [2, 127]]
            output = model(values)
            assert output.tolist() == values
            assert model(np.array(values, dtype)).tolist() == values
            other = np.zeros((2, 2), "int32" if dtype != "int32" else "int64")
            with pytest.raises(TypeError, match="was given int"):
                model(other)
        found = np.asarray(output)
        assert found.dtype == NUMBERS.get(dtype, dtype)
        assert found.shape == (2, 2)
        assert output[1, 0] == found[1, 0]


def test_numbers_out_of_range(tmp_path) -> None:
    io = [tensor("uint8", 2)]
    with Model(make(tmp_path / "tiny", io, io)) as model:
        with pytest.raises(ValueError, match=r"in0 \(uint8 \[2\]\) was given int"):
            model([1, 256])
        with pytest.raises(ValueError, match=r"in0 \(uint8 \[2\]\) was given float"):
            model([1.5, 2.0])


def test_scalars_and_tensors_without_elements(tmp_path) -> None:
    io = [tensor("int64"), tensor("float32", 0, 3)]
    with Model(make(tmp_path / "tiny", io, io)) as model:
        scalar, empty = model(7, [])
        assert (scalar.tolist(), scalar.shape) == (7, ())
        assert np.asarray(scalar) == 7
        assert (empty.tolist(), empty.shape, empty.format) == ([], (0,), "f")
        assert model(np.int64(7), np.zeros((0, 3), "float32"))[0].tolist() == 7


def test_several_inputs_and_outputs_in_order(tmp_path) -> None:
    """The second output begins at an odd address."""
    io = [tensor("uint8", 3), tensor("float32", 1, 2), tensor("bool", 1)]
    with Model(make(tmp_path / "tiny", io, io)) as model:
        assert [(t.name, t.dtype, t.shape) for t in model.inputs] == [
            ("in0", "uint8", (3,)), ("in1", "float32", (1, 2)), ("in2", "bool", (1,)),
        ]  # fmt: skip
        assert [t.name for t in model.outputs] == ["out0", "out1", "out2"]
        outputs = model(b"abc", [1.5, -2], [True])
        assert isinstance(outputs, tuple)
        assert [o.tolist() for o in outputs] == [[97, 98, 99], [[1.5, -2]], [True]]
        assert np.asarray(outputs[1]).tolist() == [[1.5, -2]]


@pytest.fixture
def delay(tmp_path):
    """Gives what it was given two calls before; in bfloat16, so that bits must stay bits."""
    tensors = [tensor("bfloat16", 1)] * 3
    folder = make(tmp_path / "delay", tensors, tensors, rotate=2)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "state").mkdir()
    for index in (1, 2):
        (folder / f"state/{index}").write_bytes(bytes([index, index]))
    manifest["state"] = [
        {"input": f"in{index}", "output": f"out{index}", "initial": f"state/{index}"}
        for index in (1, 2)
    ]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with Model(folder) as model:
        yield model


def bits(value: memoryview) -> bytes:
    return bytes(value)[2:]  # the upper half of a float32


def test_state_goes_from_call_to_call(delay) -> None:
    assert [t.name for t in (*delay.inputs, *delay.outputs)] == ["in0", "out0"]
    for _ in range(2):
        found = [bits(delay(given)) for given in (b"aa", b"bb", b"cc", b"dd")]
        assert found == [b"\2\2", b"\1\1", b"aa", b"bb"]
        delay.reset()


def test_sequences_may_take_turns(delay) -> None:
    delay(b"aa")
    kept = delay.state
    delay.reset()
    delay(b"bb")
    delay.state = kept
    assert delay.state == (b"aa", b"\1\1")
    delay(b"cc")
    assert bits(delay(b"dd")) == b"aa"
    with pytest.raises(ValueError, match="state"):
        delay.state = (b"a", b"b")


def test_a_call_that_fails_leaves_the_state(delay) -> None:
    with pytest.raises(ValueError, match="in0"):
        delay(b"aaa")
    assert delay.state == (b"\1\1", b"\2\2")


def test_a_transposed_image_is_refused_and_a_flat_one_taken(tmp_path) -> None:
    io = [tensor("float32", 1, 3, 4, 5)]
    with Model(make(tmp_path / "tiny", io, io)) as model:
        image = np.random.default_rng(0).random((3, 4, 5), "float32")
        assert (np.asarray(model(image)) == image[None]).all()
        assert (np.asarray(model(image.ravel())) == image[None]).all()
        assert (np.asarray(model(image.tolist())) == image[None]).all()
        with pytest.raises(ValueError, match=r"given the shape \[4, 5, 3\]"):
            model(image.transpose(1, 2, 0).copy())


def test_outputs_outlive_requests_and_the_model(tmp_path) -> None:
    with Model(make(tmp_path / "tiny")) as model:
        first, second = model([1, 2, 3]), model([4, 5, 6])
        shared = np.asarray(first)
    assert (first.tolist(), second.tolist()) == ([2, 4, 6], [8, 10, 12])
    shared[0] = 9
    assert first[0] == 9  # no copy


def test_large_tensors_pass_the_pipes(tmp_path) -> None:
    io = [tensor("uint8", 3_000_000)]
    with Model(make(tmp_path / "tiny", io, io), timeout_s=1e9) as model:
        data = os.urandom(3_000_000)
        assert bytes(model(data)) == data


# ---- processes: their end, their words, their pipes ----


def test_nothing_runs_afterwards(tmp_path) -> None:
    with Model(make(tmp_path / "tiny")) as model:
        pid = pid_of(model)
        assert is_running(pid)
    with pytest.raises(ProcessLookupError):  # not even a zombie
        os.kill(pid, 0)
    with pytest.raises(ModelError, match="it was closed"):
        model([1, 2, 3])
    model.close()


def test_a_model_that_is_forgotten_ends_too(tmp_path) -> None:
    model = Model(make(tmp_path / "tiny"))
    pid = pid_of(model)
    del model
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_threads_of_the_runner(tmp_path) -> None:
    folder = make(tmp_path / "tiny")
    for asked, given in ((None, b"3"), (2, b"2")):
        with Model(folder, threads=asked) as model:
            words = Path(f"/proc/{pid_of(model)}/cmdline").read_bytes().split(b"\0")
        assert words[words.index(b"--threads") + 1] == given
        assert words[words.index(b"--model") + 1] == bytes(folder / "model.pte")


def test_a_refused_request_leaves_the_model_open(tmp_path) -> None:
    """Only a program that contradicts its own HELLO can refuse what the client has checked."""
    with Model(make(tmp_path / "tiny")) as model:
        model._runner.inputs = (model.inputs[0]._replace(shape=(2,)),)
        with pytest.raises(ModelError, match="the model failed: the input has 8 bytes, not 12"):
            model([1, 2])
        model._runner.inputs = (model.inputs[0]._replace(shape=(3,)),)
        assert model([1, 2, 3]).tolist() == [2, 4, 6]


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        ("die", "ended with code 7: no message"),
        ("last_words", "ended with code 5: edgekit-runner: no memory"),
        ("noise", "not a frame"),
    ],
)
def test_a_runner_that_fails_is_told_and_opened_again(tmp_path, fault, part) -> None:
    with Model(make(tmp_path / "tiny", fault=fault)) as model:
        pid = pid_of(model)
        with pytest.raises(ModelError, match=part):
            model([1, 2, 3])
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        with pytest.raises(ModelError, match=f"the model is closed: .*{part}"):
            model([1, 2, 3])
        write_runner(tmp_path / "tiny", "")
        model.reload()
        assert model([1, 2, 3]).tolist() == [2, 4, 6]


def test_a_runner_that_is_killed(tiny) -> None:
    os.kill(pid_of(tiny), signal.SIGKILL)
    with pytest.raises(ModelError, match=r"killed by signal 9 \(is there enough memory\?\)"):
        tiny([1, 2, 3])


def test_a_talkative_runner_is_never_blocked(tmp_path) -> None:
    with Model(make(tmp_path / "tiny", fault="chatter"), timeout_s=60) as model:
        for _ in range(3):
            assert model([1, 2, 3]).tolist() == [2, 4, 6]
        assert len(model._runner._stderr_tail) <= edgekit_model.MAX_STDERR_BYTES


def test_a_time_limit(tmp_path) -> None:
    with Model(make(tmp_path / "tiny", fault="hang")) as model:
        pid = pid_of(model)
        model._runner._timeout_s = 0.3  # not at opening: a busy machine may be slow at that
        with pytest.raises(ModelError, match=r"did not answer within 0\.3 s"):
            model([1, 2, 3])
        assert not is_running(pid)
    with pytest.raises(ModelError, match=r"did not answer within 0\.2 s"):
        Model(make(tmp_path / "sleepy", fault="sleep"), timeout_s=0.2)


class AlarmError(Exception):
    pass


@pytest.fixture
def alarm():
    """Interrupts the main thread as Ctrl-C does, when a request is under way."""
    old = signal.getsignal(signal.SIGALRM)

    def set_alarm(handler) -> None:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.3)

    yield set_alarm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old)


def test_an_interrupted_request_answers_no_later_one(tmp_path, alarm) -> None:
    def interrupt(*_) -> None:
        raise AlarmError

    with Model(make(tmp_path / "tiny", fault="hang")) as model:
        with pytest.raises(AlarmError):
            alarm(interrupt)
            model([1, 2, 3])
        with pytest.raises(ModelError, match="the model is closed: AlarmError"):
            model([4, 5, 6])


def test_a_signal_handler_may_close_it(tmp_path, alarm) -> None:
    with Model(make(tmp_path / "tiny", fault="hang")) as model:
        alarm(lambda *_: model.close())
        with pytest.raises(ModelError, match="the model is closed: it was closed"):
            model([1, 2, 3])


def test_another_thread_may_close_it(tmp_path) -> None:
    with Model(make(tmp_path / "tiny", fault="hang")) as model:
        said = []

        def ask() -> None:
            try:
                model([1, 2, 3])
            except ModelError as error:
                said.append(str(error))

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.2)
        model.close()
        thread.join(30)
    assert said == ["the model is closed: it was closed"]


def test_threads_take_turns(tiny) -> None:
    wrong = []

    def ask(number: int) -> None:
        for index in range(50):
            if tiny([number, index, 0]).tolist() != [2 * number, 2 * index, 0]:
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_killed_application_takes_its_runner_along(tmp_path) -> None:
    folder = make(tmp_path / "tiny")
    code = (
        f"import sys; sys.path.insert(0, {str(CLIENT.parent)!r})\n"
        "import os, signal, edgekit_model\n"
        f"model = edgekit_model.Model({str(folder)!r})\n"
        "print(model._runner._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, env=environment)
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: not is_running(int(done.stdout)))


def test_a_fork_neither_uses_nor_ends_its_parent_s_model(tmp_path) -> None:
    folder = make(tmp_path / "tiny")
    code = (
        f"import sys; sys.path.insert(0, {str(CLIENT.parent)!r})\n"
        "import os, edgekit_model\n"
        f"model = edgekit_model.Model({str(folder)!r})\n"
        "if os.fork() == 0:\n"
        "    try:\n"
        "        model([1, 2, 3])\n"
        "    except edgekit_model.ModelError as error:\n"
        "        print(error, flush=True)\n"
        "    model.close()\n"
        "    del model\n"
        "    sys.exit()\n"
        "os.wait()\n"
        "print(model([1, 2, 3]).tolist())\n"
    )
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.splitlines() == [
        "the model belongs to another process: open it after the fork", "[2.0, 4.0, 6.0]",
    ]  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_the_terminal_s_interrupt_is_the_application_s(tiny) -> None:
    assert os.getsid(pid_of(tiny)) != os.getsid(0)


# ---- releases come and go ----


def test_a_model_stays_with_its_release_until_it_is_reloaded(tmp_path) -> None:
    current = deploy(tmp_path, "one", factor=2)
    with Model(current) as model:
        assert (model.release, model.is_current()) == ("one", True)
        deploy(tmp_path, "two", factor=3)
        assert (model.release, model.is_current()) == ("one", False)
        shutil.rmtree(tmp_path / "releases" / "one")
        assert model([1, 2, 3]).tolist() == [2, 4, 6]
        old = pid_of(model)
        model.reload()
        assert not is_running(old)
        assert (model.release, model.is_current()) == ("two", True)
        assert model([1, 2, 3]).tolist() == [3, 6, 9]


def test_a_reload_that_fails_changes_nothing(tmp_path) -> None:
    current = deploy(tmp_path, "one")
    with Model(current) as model:
        deploy(tmp_path, "two", fault="signal")
        with pytest.raises(ModelError, match="signal 6"):
            model.reload()
        assert model.release == "one"
        assert model([1, 2, 3]).tolist() == [2, 4, 6]


def test_a_release_that_goes_while_it_is_opened(tmp_path) -> None:
    """Its runner finds itself switched away and removed, as a deployment does it."""
    current = deploy(tmp_path, "new", factor=3)
    make(tmp_path / "releases" / "old")
    away = f'cd "{tmp_path}" && ln -s releases/new .l && mv -T .l current && rm -r releases/old'
    write_runner(tmp_path / "releases" / "old", "", before=f"{away}; exit 8")
    switch(tmp_path, "old")
    with Model(current) as model:
        assert model.release == "new"
        assert model([1, 2, 3]).tolist() == [3, 6, 9]


def test_a_release_that_is_put_in_place_again(tmp_path) -> None:
    """A repaired release is away for a moment, under the same name."""
    current = deploy(tmp_path, "one")
    release = tmp_path / "releases" / "one"
    release.rename(tmp_path / "draft")
    restore = threading.Timer(0.02, lambda: (tmp_path / "draft").rename(release))
    restore.start()
    with Model(current) as model:
        assert model([1, 2, 3]).tolist() == [2, 4, 6]
    restore.join()


def test_switched_many_times_while_models_open_and_answer(tmp_path) -> None:
    current = deploy(tmp_path, "one", factor=2)
    deploy(tmp_path, "two", factor=3)
    ended = threading.Event()

    def switch_on() -> None:
        for index in range(200):
            switch(tmp_path, ("one", "two")[index % 2])
            time.sleep(0.003)
        ended.set()

    thread = threading.Thread(target=switch_on)
    thread.start()
    seen = set()
    while not ended.is_set():
        with Model(current) as model:
            for _ in range(5):
                seen.add((model.release, *model([1, 2, 3]).tolist()))
    thread.join()
    assert seen <= {("one", 2, 4, 6), ("two", 3, 6, 9)}


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda folder: shutil.rmtree(folder), "there is no model"),
        (lambda folder: (folder / "manifest.json").unlink(), "there is no model"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "is damaged"),
        (
            lambda folder: (folder / "manifest.json").write_text('{"schema":"edgekit.bundle/3"}'),
            "edgekit_model.py beside it",
        ),
        (lambda folder: (folder / "runner").chmod(0o644), "Permission denied"),
        (lambda folder: (folder / "runner").write_bytes(b"\x7fELF" + bytes(60)), "for x86_64"),
        (lambda folder: (folder / "runner").unlink(), "runner cannot be started"),
        (lambda folder: (folder / "runner").write_text("#!/bin/sh\necho x >&2; exit 3"), "3: x"),
    ],
)
def test_what_cannot_be_opened(tmp_path, damage, part) -> None:
    folder = make(tmp_path / "tiny")
    damage(folder)
    with pytest.raises(ModelError, match=part):
        Model(folder)


def test_a_relative_folder_and_a_working_directory_that_changes(tmp_path, monkeypatch) -> None:
    deploy(tmp_path / "a", "one")
    monkeypatch.chdir(tmp_path)
    with Model("a/current") as model:
        monkeypatch.chdir("/")
        assert model.is_current()
        model.reload()
        assert model([1, 2, 3]).tolist() == [2, 4, 6]


def test_the_home_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make(tmp_path / "tiny")
    with Model("~/tiny") as model:
        assert model.folder == tmp_path / "tiny"


# ---- the golden case ----


def golden(
    folder: Path,
    inputs: bytes,
    outputs: bytes,
    stride=1,
    precision="fp32",
    scale=None,
    moved=0,
    pythons=(),
):
    (folder / "golden" / "input_0.bin").write_bytes(inputs)
    (folder / "golden" / "output_0.bin").write_bytes(outputs)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["golden"]["output_strides"] = [stride]
    manifest["plan"]["precision"] = precision
    manifest["needs"]["pythons"] = list(pythons)
    if scale:
        manifest["program"]["outputs"][0]["quantization"] = {"scale": scale, "zero_point": 0}
    if moved:  # float operators lie between int8 ones
        manifest["program"]["outputs"][0]["moved"] = {"whole": moved}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


@pytest.mark.parametrize(
    ("outputs", "options", "agrees"),
    [
        (floats(2, 4, 6), {}, True),
        (floats(2, 4.0005, 6), {}, True),
        (floats(2, 4.0007, 6), {}, False),
        (floats(2, 4, math.nan), {}, False),
        (floats(2, 6), {"stride": 2}, True),
        (floats(2, 4), {"stride": 2}, False),
        (floats(2, 4.9, 6), {"precision": "int8", "scale": 0.5}, True),
        (floats(2, 5.1, 6), {"precision": "int8", "scale": 0.5}, False),
        (floats(2, 4.03, 6), {"precision": "int8"}, True),
        (floats(2, 4.04, 6), {"precision": "int8"}, False),
        (floats(2, 4.09, 6), {"precision": "int8", "scale": 0.02, "moved": 0.05}, True),
        (floats(2, 4.11, 6), {"precision": "int8", "scale": 0.02, "moved": 0.05}, False),
        # tflite-runtime rounds differently: eight steps
        (floats(2, 4.15, 6), {"precision": "int8", "scale": 0.02, "pythons": ["3.11"]}, True),
        (floats(2, 4.17, 6), {"precision": "int8", "scale": 0.02, "pythons": ["3.11"]}, False),
        (floats(2, 4.4, 6), {"precision": "fp16"}, True),
        (floats(2, 4.5, 6), {"precision": "fp16"}, False),
        (floats(2, 4, math.nan), {"precision": "fp16"}, False),
    ],
)
def test_the_golden_case(tmp_path, outputs, options, agrees) -> None:
    folder = make(tmp_path / "tiny")
    golden(folder, floats(1, 2, 3), outputs, **options)
    with Model(folder) as model:
        problems = model.check()
    assert (problems == []) is agrees
    assert all("out0 (float32 [3]) differs by up to" in problem for problem in problems)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "bool", "int64"])
def test_a_golden_case_of_other_types_repeats_its_input(tmp_path, dtype) -> None:
    io = [tensor(dtype, 2, 8)]
    folder = make(tmp_path / "tiny", io, io)
    part = b"\x01\x00" * (2 * ITEM_SIZE[dtype])
    golden(folder, part, (part * 8)[: io[0]["bytes"]])
    with Model(folder) as model:
        assert model.check() == []


def test_equal_infinities_and_nans_agree(tmp_path) -> None:
    folder = make(tmp_path / "tiny")
    golden(folder, floats(math.nan, math.inf, 3), floats(math.nan, math.inf, 6))
    with Model(folder) as model:
        assert model.check() == []


@pytest.mark.parametrize(
    ("outputs", "code", "part"), [(floats(2, 4, 6), 0, "\nok\n"), (floats(2, 5, 6), 1, "differs:")]
)
def test_the_file_checks_the_model_beside_it(tmp_path, outputs, code, part) -> None:
    folder = make(tmp_path / "tiny")
    golden(folder, floats(1, 2, 3), outputs)
    shutil.copy(CLIENT, folder)
    command = [sys.executable, "-I", str(folder / CLIENT.name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert part in done.stdout
    assert "in0 (float32 [3])" in done.stdout
    other = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert other.returncode == 1
    assert other.stderr.startswith("edgekit_model: there is no model")


# ---- the files themselves ----


def test_it_is_python_3_7_and_needs_nothing_but_the_standard_library() -> None:
    tree = ast.parse(CLIENT.read_text(), feature_version=(3, 7))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert names <= sys.stdlib_module_names


@pytest.mark.parametrize("path", sorted(APPLICATIONS.glob("digits.*")), ids=lambda path: path.name)
def test_the_page_shows_the_examples_as_they_are(path) -> None:
    page = (ROOT / "docs" / "applications.md").read_text()
    assert f"\n{path.read_text()}```\n" in page
