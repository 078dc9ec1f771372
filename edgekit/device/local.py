"""The device that is this host."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import IO, cast

from edgekit.device.base import Advance, Completed, Stdin
from edgekit.errors import RunnerError, StoreError

# How long what is ended may take to clean up.
GRACE_S = 3.0


class LocalProcess:
    """A child process. Its stderr goes to a file: a full pipe would stop it."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by wait or kill
        self._closing = Lock()  # a timer may kill what another thread waits for
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
            with suppress(BrokenPipeError):  # what was still buffered has nowhere to go
                stream.close()

    def _read_stderr(self) -> bytes:
        """What it said; nothing more once it was asked."""
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
        # To files, not pipes: what a command leaves running on purpose may keep its streams open.
        with _spooled(stdin) as source, _file() as out, _file() as err:
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

    def close(self) -> None:
        pass


def _spooled(stdin: Stdin) -> IO[bytes]:
    """As a file at its beginning: a program may read as slowly, or as little, as it likes."""
    file = _file()
    for part in [stdin] if isinstance(stdin, bytes) else stdin:
        file.write(part)
    file.seek(0)
    return file


def _file() -> IO[bytes]:
    """A temporary file with a name, because dd refuses one that was opened with O_TMPFILE."""
    return cast(IO[bytes], tempfile.NamedTemporaryFile())


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _end(child: subprocess.Popen[bytes]) -> None:
    """End what still runs, with all that it started; traps clean up first."""
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
