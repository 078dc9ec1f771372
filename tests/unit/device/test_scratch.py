"""The shell that holds a temporary folder leaves none behind, whenever it is ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from watching import until

from edgekit.device.base import COMMAND_VARIABLE
from edgekit.device.scratch import HOLD


def holding(parent: Path, tools: Path) -> subprocess.Popen[bytes]:
    """HOLD as the guard's transport starts it; programs in ``tools`` come before the system's."""
    environment = {COMMAND_VARIABLE: "a-1.", "PATH": f"{tools}:{os.environ['PATH']}"}
    return subprocess.Popen(
        ["sh", "-c", HOLD, "edgekit-scratch", str(parent)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True,
    )  # fmt: skip


def tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\nreal={shutil.which(name)}\n{script}\n")
    path.chmod(0o755)


def test_an_end_while_the_folder_is_made(tmp_path) -> None:
    parent, tools = tmp_path / "parent", tmp_path / "tools"
    parent.mkdir()
    tools.mkdir()
    tool(tools, "mktemp", 'name=$("$real" "$@"); sleep 60; echo "$name"')
    process = holding(parent, tools)
    until(lambda: list(parent.iterdir()), "the folder is not made")
    os.killpg(process.pid, signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == b""
    assert not list(parent.iterdir())


def test_the_removal_is_not_among_what_the_guard_ends(tmp_path) -> None:
    parent, tools, seen = tmp_path / "parent", tmp_path / "tools", tmp_path / "seen"
    parent.mkdir()
    tools.mkdir()
    tool(tools, "rm", f'env > "{seen}"; exec "$real" "$@"')
    process = holding(parent, tools)
    folder = Path(process.stdout.readline().decode().rstrip("\n"))
    (folder / "input").write_bytes(b"1")
    other = parent / folder.name.replace(f"-{process.pid}-", f"-{process.pid}1-")
    other.mkdir()
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)
    assert list(parent.iterdir()) == [other]
    assert COMMAND_VARIABLE not in seen.read_text()


@pytest.mark.parametrize("pause_s", [0.0, 0.001, 0.003, 0.01])
def test_several_signals_do_not_end_the_removal(tmp_path, pause_s) -> None:
    """sshd and the guard each send one where a connection is lost."""
    for _ in range(20):
        with holding(tmp_path, tmp_path / "none") as holder:
            assert Path(holder.stdout.readline().decode().rstrip("\n")).is_dir()
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGTERM):
                os.killpg(holder.pid, number)
                time.sleep(pause_s)
            holder.communicate(timeout=20)
        assert not list(tmp_path.glob("edgekit-*"))
