"""Lost connections and silent devices: nothing hangs, nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path, PurePosixPath

import pytest
from watching import gone, holding, running, sleeper, until
from wire import Wire

from edgekit.device.scratch import scratch
from edgekit.errors import DeviceError

pytestmark = pytest.mark.ssh

QUICK = "ServerAliveInterval 1\nServerAliveCountMax 1"


@pytest.fixture
def wire(server):
    wire = Wire(server.port)
    server.write_config(QUICK, alias_options=f"Port {wire.port}\nHostKeyAlias the-board")
    server.known_hosts.write_text(f"the-board {server.public_key('ed25519')}\n")
    yield wire
    wire.close()


def when(condition, act) -> None:
    """Call ``act`` as soon as ``condition`` holds."""

    def wait() -> None:
        until(condition, "it does not start")
        act()

    threading.Thread(target=wait).start()


def when_running(mark: str, act) -> None:
    when(lambda: running(mark), act)


@pytest.fixture
def pipe(tmp_path):
    """A file on the device whose other end is open, and neither read nor written."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    yield path
    os.close(end)


@pytest.fixture
def source(tmp_path):
    """A file that is never sent to its end."""
    path = tmp_path / "source"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    return path


@pytest.mark.parametrize("end", ["cut", "freeze"])
def test_loss_while_a_program_runs(end, wire, reach, mark, capfd):
    transport = reach()
    when_running(mark, getattr(wire, end))
    with pytest.raises(DeviceError, match="lost while running sh") as caught:
        transport.run(sleeper(mark))
    assert caught.value.exit_code == 4
    assert caught.value.hint
    assert "stopped answering" in caught.value.message or end == "cut"
    with pytest.raises(DeviceError):
        transport.run(["true"])
    transport.close()
    wire.close()
    gone(mark)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("end", ["cut", "freeze"])
def test_loss_in_the_middle_of_put(end, wire, reach, pipe, source):
    transport = reach()
    when(lambda: holding(str(pipe)), getattr(wire, end))
    with pytest.raises(DeviceError, match="lost while"):
        transport.put(source, PurePosixPath(pipe))
    wire.close()
    until(lambda: not holding(str(pipe)), "its program still runs")


@pytest.mark.parametrize("end", ["cut", "freeze"])
def test_loss_in_the_middle_of_get(end, wire, reach, pipe, tmp_path):
    transport = reach()
    when(lambda: holding(str(pipe)), getattr(wire, end))
    with pytest.raises(DeviceError, match="lost while"):
        transport.get(PurePosixPath(pipe), tmp_path / "back")
    wire.close()
    until(lambda: not holding(str(pipe)), "its program still runs")
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "server0"}


@pytest.mark.parametrize("end", ["cut", "freeze"])
def test_loss_while_reading_from_a_program(end, wire, reach, mark):
    transport = reach()
    process = transport.start(sleeper(mark))
    getattr(wire, end)()
    with pytest.raises(DeviceError, match="lost while"):
        process.stdout.read(10)
    with pytest.raises(DeviceError, match="lost while"):
        process.wait(30)
    process.kill()
    wire.close()
    gone(mark)


def test_sending_to_a_frozen_device(wire, reach, mark):
    process = reach().start(sleeper(mark))
    wire.freeze()
    with pytest.raises(DeviceError, match="stopped answering"):
        while True:
            process.stdin.write(bytes(1_000_000))


def test_kill_and_close_on_a_frozen_device(wire, reach, mark):
    transport = reach()
    process = transport.start(sleeper(mark))
    wire.freeze()
    process.kill()
    transport.close()
    wire.close()
    gone(mark)


def test_device_that_is_stopped(server, reach, mark):
    server.write_config(QUICK)
    transport = reach()
    sessions = server.sessions()

    def stop():
        for pid in sessions:
            os.kill(pid, signal.SIGSTOP)

    when_running(mark, stop)
    try:
        with pytest.raises(DeviceError, match="stopped answering"):
            transport.run(sleeper(mark))
    finally:
        for pid in sessions:
            os.kill(pid, signal.SIGCONT)
    gone(mark)


def test_silent_program_on_a_device_that_answers(wire, reach):
    assert reach().run(["sleep", "4"]).returncode == 0


def test_server_that_ends(server, reach, mark):
    transport = reach()
    when_running(mark, server.stop)
    with pytest.raises(DeviceError, match="lost while"):
        transport.run(sleeper(mark))
    gone(mark)


def test_host_that_is_killed(server, mark):
    code = (
        "import sys; from edgekit.device.connect import connect\nconnect('board').run(sys.argv[1:])"
    )
    host = subprocess.Popen([sys.executable, "-c", code, *sleeper(mark)])
    until(lambda: len(running(mark)) >= 3, "it does not start")
    host.kill()
    host.wait()
    gone(mark)


def test_interruption_in_the_middle_of_put(server, reach, pipe, source):
    transport = reach()
    main = threading.main_thread().ident
    when(lambda: holding(str(pipe)), lambda: signal.pthread_kill(main, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        transport.put(source, PurePosixPath(pipe))
    assert not holding(str(pipe))
    assert transport.run(["echo", "on"]).stdout == b"on\n"


def test_scratch_folder_goes_with_the_connection(wire, reach):
    with pytest.raises(DeviceError), scratch(reach()) as folder:
        assert Path(folder).is_dir()
        wire.cut()
        time.sleep(0.1)
        reach.said.append(folder)
        raise DeviceError("lost")
    until(lambda: not Path(reach.said[0]).exists(), "the folder stays")
