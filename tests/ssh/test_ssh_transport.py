"""run, start, put and get over a real server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import PurePosixPath

import pytest
from watching import gone, running, sleeper, until

from edgekit.errors import DeviceError, RunnerError, StoreError

pytestmark = pytest.mark.ssh

LIMIT_S = 30.0


def test_arguments_arrive_as_they_are(transport):
    words = ["a b", "$HOME", "'", '"', "\\", "*", "", "-n", "ä", "a\nb", ";echo", "`id`", "!x"]
    done = transport.run(["printf", "<%s>", *words])
    assert done.stdout.decode() == "".join(f"<{word}>" for word in words)


@pytest.mark.parametrize(
    ("command", "code"),
    [("exit 0", 0), ("exit 41", 41), ("exit 255", 255), ("kill -9 $$", -9), ("kill -15 $$", -15),
     ("kill -1 $$", -1), ("kill -11 $$", -11)],
)  # fmt: skip
def test_exit_codes_and_signals(command, code, transport):
    assert transport.run(["sh", "-c", command]).returncode == code


def test_streams_are_kept_apart(transport):
    done = transport.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")


def test_stdin_is_empty_or_what_was_given(transport):
    data = os.urandom(5_000_000)
    assert transport.run(["cat"]).stdout == b""
    assert transport.run(["cat"], stdin=data).stdout == data


def test_stdin_in_pieces(transport):
    data = os.urandom(3_000_000)
    pieces = (data[i : i + 70_000] for i in range(0, len(data), 70_000))
    assert transport.run(["cat"], stdin=pieces).stdout == data


def test_stdin_that_breaks_off(transport, tmp_path, mark):
    """The program must not take half for the whole."""

    def pieces():
        yield b"half"
        raise OSError("the source cannot be read")

    script = 'cat >/dev/null; touch "$1"'
    with pytest.raises(OSError, match="the source cannot be read"):
        transport.run(["sh", "-c", script, mark, str(tmp_path / "whole")], stdin=pieces())
    gone(mark)
    assert not (tmp_path / "whole").exists()


def test_program_that_does_not_read_its_stdin(transport):
    assert transport.run(["true"], stdin=bytes(10_000_000)).returncode == 0


def test_much_on_stdout_and_stderr_at_once(transport):
    code = (
        "import sys, threading\n"
        "def write(stream):\n"
        "    for _ in range(600): stream.write(b'x' * 10000)\n"
        "both = (sys.stdout.buffer, sys.stderr.buffer)\n"
        "ts = [threading.Thread(target=write, args=(s,)) for s in both]\n"
        "[t.start() for t in ts]; [t.join() for t in ts]\n"
    )
    done = transport.run([sys.executable, "-c", code])
    assert (len(done.stdout), len(done.stderr)) == (6_000_000, 6_000_000)


def test_program_that_is_not_there(transport, tmp_path):
    (tmp_path / "data").write_text("no program")
    for name in ("/nowhere/program", "no-such-program", str(tmp_path), str(tmp_path / "data")):
        with pytest.raises(RunnerError, match="cannot be started on board"):
            transport.run([name])
        with pytest.raises(RunnerError, match="cannot be started on board"):
            transport.start([name])


def test_program_that_the_kernel_refuses(transport, tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(
        RunnerError, match=r"script cannot be started on board: (not found|No such)"
    ):
        transport.run([str(script)])
    with pytest.raises(RunnerError, match="cannot be started"):
        transport.start([str(script)]).wait(LIMIT_S)


def test_127_of_a_program_is_its_own(transport):
    assert transport.run(["sh", "-c", "exit 127"]).returncode == 127


def test_timeout_ends_the_program_and_its_children(transport, mark):
    with pytest.raises(TimeoutError):
        transport.run(sleeper(mark), timeout_s=1)
    assert not running(mark)
    assert transport.run(["echo", "on"]).stdout == b"on\n"


def test_program_that_is_ended_may_clean_up(transport, tmp_path):
    place = tmp_path / "clean"
    script = 'trap "touch $0; exit 1" TERM; while sleep 0.1; do :; done'
    with pytest.raises(TimeoutError):
        transport.run(["sh", "-c", script, str(place)], timeout_s=1)
    assert place.exists()


def test_interruption_ends_the_program(transport, mark):
    def interrupt():
        until(lambda: running(mark), "it does not start")
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        transport.run(sleeper(mark))
    assert not running(mark)
    assert transport.run(["echo", "on"]).stdout == b"on\n"


def test_what_an_ended_program_left_behind_stays(ssh_device, reach, mark):
    """A service that `deploy --after` starts is not ours to end."""
    transport = reach(ssh_device)
    script = 'exec >/dev/null 2>&1; sh -c "while sleep 1; do :; done" "$0" &'
    transport.run(["sh", "-c", script, mark])
    transport.run(["sh", "-c", script, mark])
    transport.close()
    time.sleep(1)
    until(lambda: len(running(mark)) == 2, "two do not stay")  # a third is about to become a sleep


def test_nothing_of_ours_is_left_after_close(server, reach):
    transport = reach()
    transport.run(["true"])
    guards = [pid for pid in running("edgekit-guard") if server.is_ancestor_of(pid)]
    assert guards
    transport.close()
    transport.close()
    until(lambda: not set(guards) & set(running("edgekit-guard")), "the guard stays")


def test_close_ends_what_runs(ssh_device, reach, mark):
    transport = reach(ssh_device)
    transport.start(sleeper(mark))
    transport.close()
    gone(mark)


def test_talking_to_a_program(transport):
    process = transport.start(["cat"])
    data = os.urandom(3_000_000)
    writer = threading.Thread(target=lambda: (process.stdin.write(data), process.stdin.flush()))
    writer.start()
    assert process.stdout.read(len(data)) == data
    writer.join()
    process.stdin.write(b"a line\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"a line\n"
    process.stdin.close()
    assert process.stdout.read() == b""
    assert process.wait(LIMIT_S).returncode == 0


def test_wait_gives_the_code_and_stderr(transport):
    process = transport.start(["sh", "-c", "echo no >&2; exit 5"])
    done = process.wait(LIMIT_S)
    assert (done.returncode, done.stdout, done.stderr) == (5, b"", b"no\n")
    process.kill()


def test_wait_has_a_limit(transport, mark):
    process = transport.start(sleeper(mark))
    with pytest.raises(TimeoutError):
        process.wait(0.2)
    process.kill()
    assert not running(mark)
    process.kill()
    assert process.wait(LIMIT_S).returncode == -signal.SIGKILL


def test_writing_to_a_program_that_has_ended(transport):
    process = transport.start(["true"])
    process.wait(LIMIT_S)
    process = transport.start(["true"])
    assert process.stdout.read() == b""
    with pytest.raises(BrokenPipeError):
        for _ in range(100):
            process.stdin.write(bytes(100_000))
            process.stdin.flush()
            time.sleep(0.01)
    process.kill()


def test_kill_from_another_thread_ends_a_read(transport, mark):
    process = transport.start(sleeper(mark))
    threading.Timer(0.3, process.kill).start()
    assert process.stdout.read(10) == b""
    gone(mark)


def test_put_and_get_give_the_same_bytes(transport, tmp_path):
    source, there, back = tmp_path / "source", tmp_path / "a 'b' $c", tmp_path / "back"
    source.write_bytes(os.urandom(3_000_000) + bytes(5_000_000))
    sent = []
    transport.put(source, PurePosixPath(there), advance=sent.append)
    assert there.read_bytes() == source.read_bytes()
    assert sum(sent) == 8_000_000
    transport.get(PurePosixPath(there), back)
    assert back.read_bytes() == source.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"source", there.name, "back"}


def test_put_and_get_of_nothing(transport, tmp_path):
    source = tmp_path / "source"
    source.touch()
    transport.put(source, PurePosixPath(tmp_path / "there"))
    transport.get(PurePosixPath(tmp_path / "there"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b""


def test_full_disk(transport, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(4_000_000))
    with pytest.raises(StoreError, match=r"/dev/full cannot be written.*: No space left on device"):
        transport.put(source, PurePosixPath("/dev/full"))


def test_places_that_cannot_be_written_or_read(transport, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(bytes(4_000_000))
    with pytest.raises(StoreError, match=r"Directory nonexistent|No such file"):
        transport.put(source, PurePosixPath("/nowhere/file"))
    with pytest.raises(StoreError, match="Is a directory"):
        transport.put(source, PurePosixPath(tmp_path))
    with pytest.raises(StoreError, match="No such file"):
        transport.get(PurePosixPath("/nowhere/file"), tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_login_shell_that_talks(make_server, reach, tmp_path):
    """Start-up files that print, on both streams, without ending their line, even the command."""
    noise = tmp_path / "noise"
    noise.write_text("echo hello; printf 'no newline'; echo oops >&2; set -x; : $0\n")
    server = make_server(f'ForceCommand env BASH_ENV={noise} bash -c "$SSH_ORIGINAL_COMMAND"')
    assert server
    transport = reach()
    done = transport.run(["sh", "-c", "echo out; echo err >&2"])
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")
    process = transport.start(["cat"])
    process.stdin.write(b"data")
    process.stdin.close()
    assert process.stdout.read() == b"data"
    process.kill()
    source = tmp_path / "source"
    source.write_bytes(os.urandom(100_000))
    transport.put(source, PurePosixPath(tmp_path / "there"))
    transport.get(PurePosixPath(tmp_path / "there"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    with pytest.raises(StoreError, match=r": No such file or directory$|nonexistent$"):
        transport.put(source, PurePosixPath("/nowhere/file"))


def test_a_login_shell_that_runs_nothing(make_server, reach):
    make_server("ForceCommand echo This account is not available; exit 1")
    with pytest.raises(DeviceError, match="This account is not available"):
        reach()


def test_a_forced_command(make_server, reach):
    make_server("ForceCommand internal-sftp")
    with pytest.raises(DeviceError, match="login shell runs no command"):
        reach()


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_shells_of_devices(shell, make_server, reach, tmp_path, mark):
    """All that the device's side does, by one shell and, for busybox, its own tools."""
    found = subprocess.run(["which", shell], capture_output=True, text=True).stdout.strip()
    if not found and not os.environ.get("CI"):
        pytest.skip(f"{shell} is not installed")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sh").symlink_to(found)
    if shell == "busybox":
        for name in ("env", "grep", "head", "tr", "cat", "dd", "sleep", "echo", "true", "kill"):
            (tools / name).symlink_to(found)
        path = tools
    else:
        path = f"{tools}:/usr/bin:/bin"
    server = make_server(f'ForceCommand export PATH={path}; exec sh -c "$SSH_ORIGINAL_COMMAND"')
    transport = reach()
    assert transport.run(["sh", "-c", "echo a; exit 7"]).returncode == 7
    with pytest.raises(RunnerError):
        transport.run(["/nowhere"])
    source = tmp_path / "source"
    source.write_bytes(os.urandom(50_000))
    transport.put(source, PurePosixPath(tmp_path / "there"))
    assert (tmp_path / "there").read_bytes() == source.read_bytes()
    with pytest.raises(TimeoutError):
        transport.run(sleeper(mark), timeout_s=1)
    assert not running(mark)
    transport.start(sleeper(mark))
    server.stop()
    gone(mark)


def test_the_guard_may_be_ended(server, reach, mark):
    """The kernel ends it where memory is short: there is another one when it is needed."""
    transport = reach()
    for pid in running("edgekit-guard"):
        if server.is_ancestor_of(pid):
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: pid not in running("edgekit-guard"), "it is not ended")
    with pytest.raises(TimeoutError):
        transport.run(sleeper(mark), timeout_s=1)
    assert not running(mark)


def test_what_a_command_leaves_running_is_not_waited_for(transport, mark):
    """It holds the command's streams open, as a service started by hand does."""
    done = transport.run(["sh", "-c", "sh -c 'sleep 100; :' $0 & echo started", mark], timeout_s=60)
    assert (done.returncode, done.stdout) == (0, b"started\n")
    transport.close()
    assert running(mark)
