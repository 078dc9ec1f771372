"""What an installation sends: a release's list of files, then the contents that are missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 1 << 19
SAMPLE_BYTES = 1 << 18


@dataclass(frozen=True)
class ReleaseFile:
    """One file of a release: where it comes from, and what it is on the device."""

    source: Path
    path: str
    sha256: str
    size: int
    mode: str

    @property
    def line(self) -> str:
        return f"{self.sha256} {self.mode} {self.path} {self.size}\n"


def upload(
    files: Sequence[ReleaseFile], wanted: Sequence[ReleaseFile], advance: Callable[[int], None]
) -> Iterator[bytes]:
    """The stdin of the store's ``install_release``.

    Not compressed: on a device, unpacking takes longer than a network of 10 MB/s, and what a
    deployment sends again and again, the weights, hardly shrinks. ``Compression yes`` in
    ~/.ssh/config does it for a slow one. ``advance`` is told how many bytes of files went by.
    """
    listed = "".join(file.line for file in files)
    digests = "".join(f"{file.sha256}\n" for file in wanted)
    yield f"{listed}end\n{digests}end\n".encode()
    for file in wanted:
        with file.source.open("rb") as stream:
            while data := stream.read(CHUNK_BYTES):
                yield data
                advance(len(data))
