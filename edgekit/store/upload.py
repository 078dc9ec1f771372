"""The data that an installation sends: a release's list of files, then the missing contents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 1 << 19
SAMPLE_BYTES = 1 << 18


@dataclass(frozen=True)
class ReleaseFile:
    """One file of a release: its source here, and its path and mode on the device."""

    source: Path
    path: str
    sha256: str
    size: int
    mode: str

    @property
    def line(self) -> str:
        return f"{self.sha256} {self.mode} {self.path} {self.size}\n"


def upload(
    files: Sequence[ReleaseFile], missing: Sequence[ReleaseFile], advance: Callable[[int], None]
) -> Iterator[bytes]:
    """The stdin of the store's ``install_release``.

    Not compressed: a device unpacks more slowly than a network sends 10 MB/s, and weights, most of
    the data, hardly shrink. For a slow network, set ``Compression yes`` in ~/.ssh/config.
    ``advance`` is called with the bytes of files sent since its last call.
    """
    lines = "".join(file.line for file in files)
    digests = "".join(f"{file.sha256}\n" for file in missing)
    yield f"{lines}end\n{digests}end\n".encode()
    for file in missing:
        with file.source.open("rb") as stream:
            while data := stream.read(CHUNK_BYTES):
                yield data
                advance(len(data))
