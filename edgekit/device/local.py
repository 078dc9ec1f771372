"""This host as a device."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import IO, cast

from edgekit.device.base import Advance, Completed, Stdin
from edgekit.errors import RunnerError, StoreError

# How long a program may take to clean up after SIGTERM.
GRACE_S = 3.0


class LocalProcess:
    """A child process. Its stderr goes to a file: a full pipe would stop it."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by wait or kill
        self._closing = Lock()  # a timer may call kill while another thread is in wait
        self._popen = _spawn(argv, self._stderr)
        self.stdin = cast(IO[bytes], self._popen.stdin)
        self.stdout = cast(IO[bytes], self._popen.stdout)

    def wait(self, timeout_s: float | None = None) -> Completed:
        try:
            code = self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(str(error)) from None
        self._close()
        return Completed(code, b"", self._read_stderr())

    def kill(self) -> None:
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait()
        self._close()
        self._read_stderr()

    def _close(self) -> None:
        for stream in (self.stdin, self.stdout):
            with suppress(BrokenPipeError):  # buffered input of a program that has ended
                stream.close()

    def _read_stderr(self) -> bytes:
        """The program's stderr; empty from the second call on."""
        with self._closing:
            if self._stderr.closed:
                return b""
            self._stderr.seek(0)
            text = self._stderr.read()
            self._stderr.close()
            return text


class LocalTransport:
    name = "local"

    def run(
        self, argv: Sequence[str], *, stdin: Stdin = b"", timeout_s: float | None = None
    ) -> Completed:
        # Files, not pipes: a background process of the command may hold its streams open.
        with _as_file(stdin) as source, _temporary_file() as out, _temporary_file() as err:
            try:
                child = subprocess.Popen(
                    list(argv), stdin=source, stdout=out, stderr=err, start_new_session=True
                )
            except OSError as error:
                raise _cannot_start(argv[0], error) from None
            try:
                code = child.wait(timeout_s)
            except subprocess.TimeoutExpired:
                raise TimeoutError(f"{argv[0]} ran longer than {timeout_s} s") from None
            finally:
                _end(child)
            return Completed(code, _content(out), _content(err))

    def start(self, argv: Sequence[str]) -> LocalProcess:
        return LocalProcess(argv)

    def put(
        self,
        source: Path,
        target: PurePosixPath,
        *,
        advance: Advance | None = None,
    ) -> None:
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise StoreError(f"{target} cannot be written: {error.strerror}") from error
        if advance:
            advance(source.stat().st_size)

    def get(self, source: PurePosixPath, target: Path) -> None:
        shutil.copyfile(source, target)

    def own_cpu_ms(self) -> float:
        children = os.times()
        return 1000 * (time.thread_time() + children.children_user + children.children_system)

    def close(self) -> None:
        pass


def _as_file(stdin: Stdin) -> IO[bytes]:
    """The input as a file, positioned at its beginning. The program need not read all of it."""
    file = _temporary_file()
    for part in [stdin] if isinstance(stdin, bytes) else stdin:
        file.write(part)
    file.seek(0)
    return file


def _temporary_file() -> IO[bytes]:
    """A temporary file with a name: dd refuses one that was opened with O_TMPFILE."""
    return cast(IO[bytes], tempfile.NamedTemporaryFile())


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a running program and its children. SIGTERM first, so that traps can clean up."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)


def _spawn(argv: Sequence[str], stderr: IO[bytes]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
        )
    except OSError as error:
        stderr.close()
        raise _cannot_start(argv[0], error) from None


def _cannot_start(program: str, error: OSError) -> RunnerError:
    return RunnerError(
        f"{program} cannot be started on this host: {error.strerror}",
        "is it executable (chmod +x), and does its file system allow programs (no noexec)?",
    )
