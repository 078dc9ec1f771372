"""Recorded devices (recordings/README.md), and this host with another shell."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgekit.device.facts.parse import parse_environment
from edgekit.device.facts.probe import probe
from edgekit.device.facts.watch import parse_sample
from edgekit.device.local import LocalTransport
from edgekit.documents.environment import DeviceEnvironment, DeviceState

RECORDINGS = Path(__file__).parent / "recordings"
every_shell = pytest.mark.parametrize(
    "shell", [("dash",), ("busybox", "sh"), ("bash", "--posix")], ids=lambda shell: shell[0]
)


class Shell(LocalTransport):
    """This host, with another shell in the place of sh. Skips where it is not installed."""

    def __init__(self, *shell: str) -> None:
        if shutil.which(shell[0]) is None:
            pytest.skip(f"{shell[0]} is not installed")
        self.shell = shell

    def run(self, argv: Sequence[str], **more):
        return super().run([*self.shell, *argv[1:]], **more)

    def start(self, argv: Sequence[str]):
        return super().start([*self.shell, *argv[1:]])


def probed(name: str) -> DeviceEnvironment:
    return parse_environment(probe(LocalTransport(), str(RECORDINGS / name)))


def watched(name: str) -> list[DeviceState]:
    text = (RECORDINGS / f"{name}.txt").read_text()
    return [parse_sample(line) for line in text.splitlines()]
