"""The folder with another architecture's Python: its command line."""

from __future__ import annotations

import os
import shlex

import pytest

from edgekit.device import debian
from edgekit.errors import EXIT_USAGE, DeviceError


@pytest.mark.parametrize(
    "values", [(), ("armv7l",), ("armv7l", "3.11", "more"), ("armv7l", "2.7"), ("x86_64", "3.11")]
)
def test_a_command_line_that_is_wrong(capsys, values) -> None:
    assert debian.main(values) == EXIT_USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "armv7l" in printed.err
    assert "3.11" in printed.err
    assert "Traceback" not in printed.err


def test_a_command_for_a_shell(monkeypatch) -> None:
    monkeypatch.setattr("sys.executable", "/home/me/my env/bin/python3")
    command = debian.command_for("armv7l", "3.11")
    assert shlex.split(command) == [
        *("/home/me/my env/bin/python3", "-m", "edgekit.device.debian", "armv7l", "3.11")
    ]


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mmdebstrap that fails with a text as often as told, then prints a small root."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(debian, "PAUSES_S", (0, 0))
    tools = tmp_path / "tools"
    tools.mkdir()

    def fail(times: int, text: str):
        (tools / "mmdebstrap").write_text(
            f"#!/bin/sh\necho asked >> {tools}/log\n"
            f'if [ "$(wc -l < {tools}/log)" -le {times} ]; then echo "{text}" >&2; exit 1; fi\n'
            f"mkdir -p {tmp_path}/system/usr/bin && touch {tmp_path}/system/usr/bin/python3\n"
            f"exec tar -c -C {tmp_path}/system .\n"
        )
        (tools / "mmdebstrap").chmod(0o755)
        return tools / "log"

    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return fail


SYNCHRONIZING = "E: File has unexpected size. Mirror sync in progress?\n   Hashes of expected file:"


def test_a_mirror_that_is_being_synchronized_is_asked_again(mirror) -> None:
    asked = mirror(2, SYNCHRONIZING)
    root = debian.make_root("armv7l", "3.11")
    assert (root / "usr/bin/python3").is_file()
    assert len(asked.read_text().splitlines()) == 3


@pytest.mark.parametrize(("text", "times"), [(SYNCHRONIZING, 3), ("E: no such host", 1)])
def test_a_mirror_that_does_not_answer_is_an_error(mirror, text, times) -> None:
    asked = mirror(9, text)
    with pytest.raises(DeviceError, match="could not be unpacked"):
        debian.make_root("armv7l", "3.11")
    assert len(asked.read_text().splitlines()) == times
    assert not debian.root_folder("armv7l", "3.11").exists()
