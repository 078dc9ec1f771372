"""The device that is this host."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, cast

from edgekit.device.base import Completed
from edgekit.errors import RunnerError


class LocalProcess:
    """A child process. Its stderr goes to a file: a full pipe would stop it."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in wait
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
        self._stderr.close()

    def _close(self) -> None:
        for stream in (self.stdin, self.stdout):
            with suppress(BrokenPipeError):  # what was still buffered has nowhere to go
                stream.close()

    def _read_stderr(self) -> bytes:
        if self._stderr.closed:
            return b""
        self._stderr.seek(0)
        text = self._stderr.read()
        self._stderr.close()
        return text


class LocalTransport:
    name = "local"

    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float | None = None
    ) -> Completed:
        try:
            done = subprocess.run(
                list(argv), input=stdin, capture_output=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{argv[0]} ran longer than {timeout_s} s") from None
        except OSError as error:
            raise _cannot_start(argv[0], error) from None
        return Completed(done.returncode, done.stdout, done.stderr)

    def start(self, argv: Sequence[str]) -> LocalProcess:
        return LocalProcess(argv)

    def put(self, source: Path, target: PurePosixPath) -> None:
        shutil.copyfile(source, target)

    def get(self, source: PurePosixPath, target: Path) -> None:
        shutil.copyfile(source, target)

    @contextmanager
    def scratch(self) -> Iterator[PurePosixPath]:
        with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
            yield PurePosixPath(folder)


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
